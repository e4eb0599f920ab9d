"""Answers of many numbers: as the pipeline has them, but never lists of Python's floats, and within a bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch

from mlserve.errors import InferenceError
from mlserve.merging import merge
from mlserve.types import InferenceRequest
from mlserve_huggingface import HuggingFaceRuntime
from mlserve_huggingface.codecs import text
from mlserve_huggingface.codecs.text import json_text, numbers_in
from runtimes.huggingface.tests.asking import (
    ask,
    base64_png,
    load,
    pipeline,
    plain,
    request,
    rows,
    settings_for,
    tensor,
    texts,
)
from runtimes.huggingface.tests.media_cases import picture
from runtimes.huggingface.tests.test_limits import refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers
BATCH: dict[str, Any] = {"max_batch_size": 8, "max_batch_time": 0.01}
SAID = ["the red fox", "a dog", "the fox runs over the hill"]


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers") / "glpn"
    MAKERS["depth-estimation"](folder)
    return folder


def test_the_text_is_that_of_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    deep = torch.randn(2, 3, 5, generator=generator)
    value = {
        "a": deep, "b": [deep.to(torch.bfloat16), 1, None, "é"], "c": {"d": deep[0].numpy(), "e": deep[0, 0] > 0},
        "f": np.zeros((0, 4)), "g": (True, 2.5), "h": np.float32(1.5), "i": [],
    }  # fmt: skip
    whole = json_text(value)
    monkeypatch.setattr(text, "_PIECE", 1)
    assert json_text(value) == whole
    assert numbers_in(value) == 30 + 30 + 15 + 1
    odd = {"a": np.array([[1.0, np.nan], [np.inf, 2.0]]), 3: np.ones((2, 2))}
    assert json.loads(json_text(odd)) == {"a": [[1.0, None], [None, 2.0]], "3": [[1.0, 1.0], [1.0, 1.0]]}


@pytest.mark.parametrize("more", [{}, BATCH], ids=["alone", "batch"])
def test_features_are_those_of_the_pipeline(models: dict[str, Path], more: dict[str, Any]) -> None:
    own = pipeline("feature-extraction", models["fill-mask"])
    model = load(settings_for(models["fill-mask"], task="feature-extraction", **more))
    one, several = own(SAID[0]), [own(said) for said in SAID]
    assert ask(model, texts(SAID[0])) == one
    assert ask(model, texts(*SAID)) == ([one[0] for one in several] if more else several)
    if not more:
        assert ask(model, texts(SAID[0], return_tensors=True)) == plain([own(SAID[0], return_tensors=True)])


@pytest.mark.parametrize("more", [{}, BATCH], ids=["alone", "batch"])
def test_features_stay_arrays_until_they_are_written(
    models: dict[str, Path], more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = []
    dumps = json.dumps
    monkeypatch.setattr(text, "_PIECE", 1)
    model = load(settings_for(models["fill-mask"], task="feature-extraction", **more))

    def watched(value: Any, **options: Any) -> str:
        longest.append(numbers_in(value))
        assert not isinstance(value, list) or not value, "a list of numbers"
        return dumps(value, **options)

    monkeypatch.setattr(text.json, "dumps", watched)
    ask(model, texts(*SAID))
    assert 0 < max(longest) <= 64  # the numbers of one token


@pytest.mark.parametrize("more", [{}, BATCH], ids=["alone", "batch"])
def test_an_answer_of_more_numbers_than_the_bound_is_refused(
    models: dict[str, Path], more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models["fill-mask"]
    each = [numbers_in(pipeline("feature-extraction", folder)(said, return_tensors=True)) for said in SAID]
    model = load(settings_for(folder, task="feature-extraction", max_answer_numbers=each[0] + each[1], **more))
    assert len(ask(model, texts(*SAID[:2]))) == 2
    asked = []
    call = model._caller._call

    def watched(job: Any, arguments: Any, **options: Any) -> Any:
        asked.append(arguments.rows)
        return call(job, arguments, **options)

    monkeypatch.setattr(model._caller, "_call", watched)
    with pytest.raises(InferenceError) as refused:
        ask(model, texts(*SAID, *SAID))
    assert f"at most {each[0] + each[1]} (parameters.extra.max_answer_numbers)" in str(refused.value)
    assert f"{sum(each)} numbers or more" in str(refused.value)
    assert asked == [1, 1, 1]  # the rest is not computed


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers") / "vit"
    MAKERS["image-feature-extraction"](folder)
    return folder


def computed(model: HuggingFaceRuntime, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the pipeline has."""
    asked: list[int] = []
    call = model._caller._call

    def watched(job: Any, arguments: Any, **options: Any) -> Any:
        asked.append(arguments.rows)
        return call(job, arguments, **options)

    monkeypatch.setattr(model._caller, "_call", watched)
    return asked


def images(*seeds: int) -> dict[str, Any]:
    return tensor("images", [base64_png(picture(seed)) for seed in seeds])


@pytest.mark.parametrize("more", [{}, BATCH], ids=["rows", "batch"])
def test_rows_that_run_together_stop_at_the_bound(
    seeing: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pipeline("image-feature-extraction", seeing)
    each = numbers_in(own(picture(1), return_tensors=True))
    model = load(
        settings_for(seeing, task="image-feature-extraction", max_answer_numbers=5 * each, batch_size=2, **more)
    )
    asked = computed(model, monkeypatch)
    answer = ask(model, request(images(*range(5))))
    wanted = [own(picture(seed)) for seed in range(5)]
    assert np.allclose(answer, [one[0] for one in wanted] if more else wanted, atol=1e-5)
    assert asked == [2, 2, 1]
    asked.clear()
    with pytest.raises(InferenceError, match=f"{6 * each} numbers or more"):
        ask(model, request(images(*range(20))))
    assert asked == [2, 2, 2]  # the rest is not computed


def test_a_companion_in_a_batch_takes_nobodys_share(seeing: Path) -> None:
    each = numbers_in(pipeline("image-feature-extraction", seeing)(picture(1), return_tensors=True))
    settings = settings_for(seeing, task="image-feature-extraction", max_answer_numbers=3 * each, **BATCH)
    small, large = request(images(1)), request(images(*range(4)))
    model = load(settings)
    alone = ask(model, small)

    def together(*members: InferenceRequest) -> list[Any]:
        return rows(anyio.run(model.predict, merge(members)))

    assert np.allclose(together(small, small, small, small), alone * 4, atol=1e-5)  # each has room of its own
    for members in ((large, small, small), (small, small, large)):
        with pytest.raises(InferenceError, match="numbers or more"):  # then each of them is asked alone
            together(*members)


def test_a_depth_map_of_more_numbers_than_the_bound_is_refused_before(
    measuring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for more in ({}, BATCH):
        model = load(settings_for(measuring, task="depth-estimation", max_answer_numbers=96 * 96 - 1, **more))
        asked = computed(model, monkeypatch)
        told = refusal(model, tensor("args", [base64_png(picture(1).resize((96, 96)))]))
        assert "9216 numbers or more" in told and "smaller pictures" in told
        assert "12288 numbers" in refusal(model, tensor("args", [base64_png(picture(1).resize((64, 96)))] * 2))
        assert asked == []
        small = picture(1).resize((64, 96))
        wanted = [plain(pipeline("depth-estimation", measuring)(small))]
        assert ask(model, request(tensor("args", [base64_png(small)]))) == wanted
