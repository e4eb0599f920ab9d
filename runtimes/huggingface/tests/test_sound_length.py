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
    slow = {"raw": [0.0] * 3, "sampling_rate": 1}
    named = {"raw": None, "array": [0.0] * 3, "sampling_rate": 1}
    for one in (
        tensor("inputs", np.zeros((1, 48_000), np.float32)),
        *(tensor("inputs", [json.dumps(sound)], "hg_json") for sound in (slow, named, [slow], [[named]])),
        tensor("inputs", [json.dumps([slow])], "hg_jsonlist"),
        {"name": "inputs", "shape": [1], "datatype": "BYTES", "data": [slow_wav(3)]},
    ):
        assert said in refusal(hearing, one)
    assert said in refusal(hearing, tensor("inputs", np.zeros(3, np.float32)), sampling_rate=1)
    bare = ask(hearing, request(tensor("inputs", SOUND)))
    told = json.dumps({"raw": None, "array": SOUND.tolist(), "sampling_rate": 16_000})
    assert bare == ask(hearing, request(tensor("inputs", [told], "hg_json")))
    assert ask(hearing, request(tensor("inputs", [wav(16_000)])))


def test_what_is_heard_in_parts_may_be_longer() -> None:
    extractor = SimpleNamespace(sampling_rate=16_000)
    whole = Sounds(SimpleNamespace(feature_extractor=extractor, type="ctc"), None)
    long = {"raw": SECOND, "sampling_rate": 16_000 / 200}
    with pytest.raises(CodecError, match=r"at most 120 seconds .* got 200; cut it, or have it heard in parts"):
        whole.read([long], {})
    for chunk in (10, 30.5, 120):
        assert whole.read([long], {"chunk_length_s": chunk}) == [long]
    for chunk in (121, 1e300, float("nan"), -1, "20", [20]):
        with pytest.raises(CodecError, match=r"at most 120 seconds .* with a chunk_length_s of 120 at most"):
            whole.read([long], {"chunk_length_s": chunk})
    bounded = Sounds(SimpleNamespace(feature_extractor=extractor, type="ctc"), 150)
    with pytest.raises(CodecError, match=r"got 200; cut it$"):  # what the operator sets holds for chunks too
        bounded.read([long], {"chunk_length_s": 10})
    classifying = Sounds(SimpleNamespace(feature_extractor=extractor), None)
    with pytest.raises(CodecError, match=r"got 200; cut it$"):
        classifying.read([long], {"chunk_length_s": 10})  # which it does not know
    whisper = Sounds(SimpleNamespace(feature_extractor=extractor, type="seq2seq_whisper"), None)
    assert whisper.read([long] * 18, {}) == [long] * 18
    for many in ([long] * 19, [[long] * 19]):
        with pytest.raises(CodecError, match="together at most 3600 seconds"):
            whisper.read(many, {})


@pytest.mark.parametrize(
    "sound",
    [
        {"raw": [0.5, "x"], "sampling_rate": 16_000},
        {"raw": [0.5, [0.5]], "sampling_rate": 16_000},
        {"raw": [10**400], "sampling_rate": 16_000},
        {"raw": [None, 0.5], "sampling_rate": 16_000},
        {"raw": {"raw": [0.5]}, "sampling_rate": 16_000},
        {"raw": [[0.5] * 4000], "sampling_rate": 16_000},
        {"sampling_rate": 16_000},
        5,
    ],
    ids=str,
)
def test_what_is_no_sound_is_refused(hearing: HuggingFaceRuntime, sound: Any) -> None:
    said = refusal(hearing, tensor("inputs", [json.dumps(sound)], "hg_json"))
    assert "samples of a sound are numbers" in said or "a sound in JSON is " in said


@pytest.mark.parametrize("rate", [7993, 15_999, 44_057, 10**12, 16_000.5, 0, -8000, "16000", None, 1e300])
def test_a_rate_without_a_small_table_to_convert_it_is_refused(hearing: HuggingFaceRuntime, rate: Any) -> None:
    told = json.dumps({"raw": [0.0] * 10, "sampling_rate": rate})
    said = refusal(hearing, tensor("inputs", [told], "hg_json"))
    assert "too little in common" in said or "'sampling_rate' is a whole number" in said
    if rate is not None:
        assert said == refusal(hearing, tensor("inputs", np.zeros(10, np.float32)), sampling_rate=rate)


def test_the_rate_of_a_file_has_the_bound_too(hearing: HuggingFaceRuntime) -> None:
    assert "sound of 7993 samples a second cannot be converted" in refusal(hearing, tensor("inputs", [wav(7993)]))


@pytest.mark.parametrize("own", [16_000, 24_000, 44_100, 48_000])
def test_usual_rates_are_taken(own: int) -> None:
    hearing = Sounds(SimpleNamespace(feature_extractor=SimpleNamespace(sampling_rate=own)), None)
    for rate in (
        8000,
        11_025,
        12_000,
        16_000,
        16_000.0,
        22_050,
        24_000,
        32_000,
        44_100,
        48_000,
        88_200,
        96_000,
        192_000,
    ):
        sound = {"raw": SECOND, "sampling_rate": rate}
        assert hearing.read([sound], {}) == [sound]


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
