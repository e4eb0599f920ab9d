"""One request for each pipeline of pictures, sound, video and tables, and what the pipeline itself is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlserve.types import InferenceRequest
from runtimes.huggingface.tests.asking import IS_5, SOUND, base64_png, request, tensor, texts

Case = tuple[InferenceRequest, tuple[Any, ...], dict[str, Any]]

_LABELS = ["cat", "dog"]
_TABLE = {"repo": ["a", "b", "who"], "stars": ["1", "2", "3"]}
_BOXES = [["mary", [10, 10, 60, 20]], ["lives", [70, 10, 120, 20]], ["oslo", [130, 10, 200, 20]]]
_QUESTIONS = {"refund": {"type": "noul", "instructions": "the red fox ?"}}


def picture(seed: int, size: int = 64) -> Image.Image:
    """One of noise, so that models see something different in each."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def pictures(name: str, *seeds: int) -> dict[str, Any]:
    return tensor(name, [base64_png(picture(seed)) for seed in seeds])


def video(folder: Path) -> Path:
    """A film of eight frames."""
    import av

    path = folder / "film.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for seed in range(8):
            file.mux(stream.encode(av.VideoFrame.from_image(picture(seed))))
        file.mux(stream.encode())
    return path


def _chat() -> tuple[dict[str, Any], dict[str, Any]]:
    """A chat about a picture: as it is sent, and as the pipeline gets it."""
    sent, given = (
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "the red fox"}]}
        for image in (base64_png(picture(1)), picture(1))
    )
    return sent, given


def media_cases() -> dict[str, Case]:
    """By task."""
    sent, given = _chat()
    seen, short = picture(1), {"max_new_tokens": 4}
    sure, none = {"threshold": 0.0}, tensor("threshold", [0.0])
    asked = "what is your name ?"
    boxes = tensor("word_boxes", [json.dumps(one) for one in _BOXES], "hg_jsonlist")
    cases: dict[str, Case] = {
        "depth-estimation": (request(pictures("inputs", 1)), (seen,), {}),
        "document-question-answering": (
            request(pictures("image", 1), tensor("question", [asked]), boxes),
            (seen, asked),
            {"word_boxes": _BOXES},
        ),
        "image-feature-extraction": (request(pictures("images", 1)), (seen,), {}),
        "image-segmentation": (request(pictures("inputs", 1)), (seen,), {}),
        "image-text-to-text": (request(tensor("args", [json.dumps(sent)], "hg_jsonlist"), **short), ([given],), short),
        "keypoint-matching": (request(pictures("images", 1, 2), none), ([seen, picture(2)],), sure),
        "table-question-answering": (
            request(tensor("table", [json.dumps(_TABLE)], "hg_json"), tensor("query", ["how many stars"])),
            (),
            {"table": _TABLE, "query": "how many stars"},
        ),
        "text-to-audio": (texts("the red fox"), ("the red fox",), {}),
        "zero-shot-audio-classification": (
            request(tensor("audios", SOUND), tensor("candidate_labels", _LABELS)),
            (SOUND,),
            {"candidate_labels": _LABELS},
        ),
        "zero-shot-image-classification": (
            request(pictures("images", 1), tensor("candidate_labels", _LABELS)),
            (seen,),
            {"candidate_labels": _LABELS},
        ),
        "zero-shot-object-detection": (
            request(pictures("image", 1), tensor("candidate_labels", _LABELS), none),
            (seen,),
            {"candidate_labels": _LABELS, **sure},
        ),
    }  # fmt: skip
    if IS_5:
        wanted = {"state": "the old cat", "questions": _QUESTIONS}
        cases["decision"] = (request(tensor("inputs", [json.dumps(wanted)], "hg_json")), (wanted,), {})
    else:
        cases["image-to-image"] = (request(pictures("inputs", 1)), (seen,), {})
        cases["image-to-text"] = (request(pictures("inputs", 1), **short), (seen,), short)
        cases["visual-question-answering"] = (
            request(pictures("image", 1), tensor("question", [asked])),
            (seen, asked),
            {},
        )
    return cases
