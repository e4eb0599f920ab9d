"""A sound has a bound in seconds, whatever its form: small files can be hours."""

from __future__ import annotations

import io
import json
import stat
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlserve.codecs.errors import CodecError
from mlserve_huggingface import HuggingFaceRuntime
from mlserve_huggingface.sound import Sounds, decoded
from runtimes.huggingface.tests.asking import SOUND, ask, load, request, settings_for, tensor
from runtimes.huggingface.tests.test_limits import refusal
from runtimes.huggingface.tests.test_sound_and_stops import wav

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers

SECOND = np.zeros(16_000, np.float32)
# Stands for a program that decodes a short file into hours: it says how it was called, and gives what it was asked for.
DECODER = """#!/usr/bin/env python3
import sys
sys.stdin.buffer.read()
open({told!r}, "w").write(" ".join(sys.argv[1:]))
asked = float(sys.argv[sys.argv.index("-t") + 1])
sys.stdout.buffer.write(bytes(4 * 16000 * int(min(asked, {length}))))
"""


@pytest.fixture
def hearing(models: dict[str, Path]) -> HuggingFaceRuntime:
    return load(settings_for(models["audio-classification"], max_sound_seconds=2))


def slow_wav(seconds: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(1)
        made.writeframes(bytes(2 * seconds))
    return file.getvalue()


def test_a_long_sound_is_refused_in_every_form(hearing: HuggingFaceRuntime) -> None:
    said = "a sound is at most 2 seconds long (parameters.extra.max_sound_seconds), got 3"
    slow = json.dumps({"raw": [0.0] * 3, "sampling_rate": 1})
    for one in (
        tensor("inputs", np.zeros((1, 48_000), np.float32)),
        tensor("inputs", [slow], "hg_json"),
        {"name": "inputs", "shape": [1], "datatype": "BYTES", "data": [slow_wav(3)]},
    ):
        assert said in refusal(hearing, one)
    assert said in refusal(hearing, tensor("inputs", np.zeros(3, np.float32)), sampling_rate=1)
    assert ask(hearing, request(tensor("inputs", SOUND)))
    assert ask(hearing, request(tensor("inputs", [wav(16_000)])))


def test_what_is_heard_in_parts_may_be_longer() -> None:
    extractor = SimpleNamespace(sampling_rate=16_000)
    whole = Sounds(SimpleNamespace(feature_extractor=extractor, type="ctc"), None)
    long = {"raw": SECOND, "sampling_rate": 16_000 / 200}
    with pytest.raises(CodecError, match=r"at most 120 seconds .* got 200; cut it, or have it heard in parts"):
        whole.read([long], {})
    assert whole.read([long], {"chunk_length_s": 10}) == [long]
    classifying = Sounds(SimpleNamespace(feature_extractor=extractor), None)
    with pytest.raises(CodecError, match=r"got 200; cut it$"):
        classifying.read([long], {"chunk_length_s": 10})  # which it does not know
    whisper = Sounds(SimpleNamespace(feature_extractor=extractor, type="seq2seq_whisper"), None)
    assert whisper.read([long] * 18, {}) == [long] * 18
    with pytest.raises(CodecError, match="together at most 3600 seconds"):
        whisper.read([long] * 19, {})


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(length: int) -> Path:
        program, told = tmp_path / "ffmpeg", tmp_path / "told"
        program.write_text(DECODER.format(told=str(told), length=length))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return told

    return of


def test_a_file_is_read_no_further_than_the_bound(hearing: HuggingFaceRuntime, ffmpeg: Any) -> None:
    told = ffmpeg(3600)
    flac = {"name": "inputs", "shape": [1], "datatype": "BYTES", "data": [b"fLaC of an hour of silence"]}
    assert "a sound is at most 2 seconds long (parameters.extra.max_sound_seconds), got 3" in refusal(hearing, flac)
    assert "-protocol_whitelist pipe -i pipe:0" in told.read_text()
    ffmpeg(1)
    assert ask(hearing, request(flac)) == ask(hearing, request(tensor("inputs", SECOND)))
    ffmpeg(0)
    assert "no sound that ffmpeg can read: b'fLaC of an hour " in refusal(hearing, flac)


def test_without_ffmpeg_the_file_is_left_to_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert decoded(b"fLaC", 16_000, 2) == b"fLaC"
