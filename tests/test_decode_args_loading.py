"""A signature of `decode_args` that no call can be made by is told when its model loads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Dict, List, Optional, Tuple, Union  # noqa: UP035

import httpx
import numpy as np
import pytest

from mlserve.codecs import Base64Codec, decode_args
from mlserve.codecs.decorator import check_signatures
from mlserve.errors import InvalidRequest, ModelError, ModelLoadError
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse
from tests.serving import serving, write_model

if TYPE_CHECKING:
    from nowhere import Unseen


def model(**methods: Any) -> MLModel:
    kind = type("Model", (MLModel,), {name: decode_args(method) for name, method in methods.items()})
    return kind(ModelSettings(name="m"))


def number(self: Any, x: np.ndarray, threshold: float) -> np.ndarray: ...


def named(self: Any, x: np.ndarray) -> Dict[str, np.ndarray]: ...  # noqa: UP006


def nested(self: Any, x: Optional[List[int]]) -> Any: ...  # noqa: UP006, UP045


def pair(self: Any) -> Tuple[np.ndarray, int]: ...  # noqa: UP006


def by_place(self: Any, x: np.ndarray, /) -> Any: ...


def rest(self: Any, **inputs: float) -> Any: ...


async def chunks(self: Any, x: np.ndarray) -> AsyncIterator[float]:
    yield 1.0


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (number, "argument 'threshold': no codec handles the type hint float; possible are numpy.ndarray"),
        (named, "its result: no codec handles the type hint Dict[str, numpy.ndarray]; possible are"),
        (nested, "argument 'x': no codec handles the type hint List[int]; possible are"),
        (pair, "its result: no codec handles the type hint int; possible are"),
        (by_place, "x: 'np.ndarray' cannot be given by the name of an input"),
        (rest, "argument 'inputs': no codec handles the type hint float"),
    ],
)
@pytest.mark.parametrize("name", ["predict", "predict_stream"])
def test_what_no_call_can_be_made_by_is_named_with_its_place(name: str, method: Any, told: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        check_signatures(model(**{name: method}))
    assert str(caught.value).startswith(f"model 'm': the signature of {method.__qualname__} cannot be used: {told}")


def test_the_chunks_of_a_stream_are_looked_at_beside_a_predict_that_is_right() -> None:
    def right(self: Any, x: np.ndarray) -> np.ndarray: ...

    with pytest.raises(ModelLoadError, match="chunks cannot be used: its result: no codec handles the type hint float"):
        check_signatures(model(predict=right, predict_stream=chunks))


def usual(self: Any, x: np.ndarray, words: List[str] | None = None) -> Tuple[np.ndarray, List[str]]: ...  # noqa: UP006


def bare(self, x, **more):  # type: ignore[no-untyped-def]  # the absence of hints is what is tested
    return x


def more(self: Any, x: np.ndarray, *args: float, **kwargs: Any) -> np.ndarray: ...


def either(self: Any, x: Union[float, np.ndarray], whole: InferenceRequest) -> InferenceResponse: ...


def by_codec(self: Any, x: Annotated[Any, Base64Codec]) -> Iterator[np.ndarray]:
    yield np.array([1])


def unseen(self: Any, x: Unseen) -> np.ndarray: ...


@pytest.mark.parametrize("method", [usual, bare, more, either, by_codec, unseen])
def test_what_works_or_may_work_at_calls_is_no_error_of_the_load(method: Any) -> None:
    check_signatures(model(predict=method))


def test_a_name_that_is_only_there_for_type_checkers_is_told_at_the_call() -> None:
    with pytest.raises(ModelError, match=r"the signature of unseen cannot be used: name 'Unseen' is not defined"):
        model(predict=unseen).predict(InferenceRequest(inputs=[]))  # type: ignore[unused-coroutine]


def test_methods_without_decode_args_and_models_without_any_pass() -> None:
    class Plain(MLModel):
        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            raise InvalidRequest("never")

    check_signatures(Plain(ModelSettings(name="m")))
    check_signatures(MLModel(ModelSettings(name="m")))


MODELS = """
from typing import List

import numpy as np
from mlserver import MLModel
from mlserver.codecs import decode_args


class Good(MLModel):
    @decode_args
    def predict(self, x: np.ndarray) -> np.ndarray:
        return x


class Open(MLModel):
    @decode_args
    async def predict(self, x: np.ndarray, *args, **kwargs) -> np.ndarray:
        assert args == () and kwargs == {}
        return x


class Pair(MLModel):
    @decode_args
    async def predict(self, x: np.ndarray) -> (np.ndarray, List[str]):
        return x, ["a"]


class Bad(MLModel):
    @decode_args
    async def predict(self, x: np.ndarray, threshold: float) -> np.ndarray:
        return x
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_the_model_is_not_ready_and_the_others_are_served(workers: int, tmp_path: Any) -> None:
    for name in ("good", "open", "pair", "bad"):
        (write_model(tmp_path, name, f"models.{name.title()}") / "models.py").write_text(MODELS)
    with serving(tmp_path, env={"MLSERVER_PARALLEL_WORKERS": str(workers)}) as server:
        assert server.infer("good", [1.0]).status_code == server.infer("open", [1.0]).status_code == 200
        outputs = server.infer("pair", [1.0]).json()["outputs"]
        assert [(one["name"], one["data"]) for one in outputs] == [("output-0", [1.0]), ("output-1", ["a"])]
        assert httpx.get(f"{server.rest}/v2/models/bad/ready", timeout=60).status_code != 200
        index = httpx.post(f"{server.rest}/v2/repository/index", json={}, timeout=60).json()
        reason = next(one["reason"] for one in index if one["name"] == "bad")
        assert "model 'bad': the signature of Bad.predict cannot be used: argument 'threshold'" in reason
