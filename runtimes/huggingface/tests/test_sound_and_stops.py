"""What pipelines lack is added: the tokenizer for stop strings, bare samples where they take no rate."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import InferenceError
from runtimes.huggingface.tests.asking import GREEDY, SOUND, ask, load, request, settings_for, tensor, texts
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers


def test_generation_ends_at_a_stop_string(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    said = {**GREEDY, "return_full_text": False}
    whole = ask(model, texts("the fox", **said))[0]["generated_text"]
    stop = tensor("stop_strings", [whole[-1]])  # random weights repeat themselves
    cut = ask(model, request(tensor("args", ["the fox"]), stop, **said))[0]["generated_text"]
    assert cut.endswith(whole[-1]) and len(cut) < len(whole)


def wav(rate: int) -> str:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(rate)
        made.writeframes((SOUND * 32767).astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()


def test_labels_of_sound_take_files_and_rates(tmp_path: Path) -> None:
    MAKERS["zero-shot-audio-classification"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="zero-shot-audio-classification"))
    rate = model._caller._pipeline.feature_extractor.sampling_rate
    labels = tensor("candidate_labels", ["cat", "dog"])

    def scores(sound: dict[str, Any], **more: Any) -> dict[str, float]:
        return {one["label"]: one["score"] for one in ask(model, request(sound, labels, **more))}

    bare = scores(tensor("audios", SOUND))
    assert scores(tensor("audios", SOUND), sampling_rate=rate) == bare
    raw = json.dumps({"raw": SOUND.tolist(), "sampling_rate": rate})
    assert scores(tensor("audios", [raw], "hg_json")) == bare
    assert scores(tensor("audios", [wav(rate)])) == pytest.approx(bare, abs=1e-3)
    with pytest.raises(InferenceError, match=f"hears sound of {rate} samples a second, got 8001"):
        scores(tensor("audios", [wav(8001)]))
