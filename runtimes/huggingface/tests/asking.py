"""Short ways to make models and requests, and to read answers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import transformers
from PIL import Image

from mlserve import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput
from mlserve_huggingface import HuggingFaceRuntime

IS_5 = int(transformers.__version__.partition(".")[0]) >= 5
PICTURE = Image.fromarray((np.arange(32 * 32 * 3) % 255).astype("uint8").reshape(32, 32, 3))
SOUND = np.sin(np.arange(4000) / 20).astype("float32")
GREEDY = {"max_new_tokens": 12, "do_sample": False}


def settings_for(folder: Path | None, name: str = "m", **extra: Any) -> ModelSettings:
    more = {key: extra.pop(key) for key in ("max_batch_size", "max_batch_time", "inputs") if key in extra}
    parameters = {"extra": extra} if folder is None else {"uri": str(folder), "extra": extra}
    return ModelSettings(name=name, implementation=HuggingFaceRuntime, parameters=parameters, **more)


def pipeline(task: str, folder: Path) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu")


def tensor(name: str, data: Any, content_type: str | None = None, shape: list[int] | None = None) -> dict[str, Any]:
    """An input of text, or of numbers by their type."""
    array = np.asarray(data)
    kind = {"U": "BYTES", "S": "BYTES", "O": "BYTES", "b": "BOOL", "i": "INT64", "u": "UINT8", "f": "FP32"}[
        array.dtype.kind
    ]
    made = {"name": name, "shape": shape or list(array.shape), "datatype": kind, "data": array.ravel().tolist()}
    return {**made, "parameters": {"content_type": content_type}} if content_type else made


def request(*inputs: dict[str, Any] | RequestInput, **parameters: Any) -> InferenceRequest:
    return InferenceRequest(inputs=list(inputs), parameters=parameters or None)


def texts(*values: str, name: str = "args", **parameters: Any) -> InferenceRequest:
    return request(tensor(name, list(values)), **parameters)


def base64_png(image: Image.Image = PICTURE) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def rows(response: InferenceResponse) -> list[Any]:
    """The results in an answer."""
    (output,) = response.outputs
    assert output.name == "output" and output.datatype == "BYTES"
    assert output.parameters.content_type == "hg_jsonlist"
    found = [json.loads(one) for one in output.data]
    assert output.shape == [len(found), 1]
    return found


def plain(value: Any) -> Any:
    """A pipeline's own result as it is after JSON."""
    from mlserve_huggingface.codecs.text import json_text

    return json.loads(json_text(value))


def ask(model: HuggingFaceRuntime, asked: InferenceRequest) -> list[Any]:
    return rows(anyio.run(model.predict, asked))


def load(settings: ModelSettings) -> HuggingFaceRuntime:
    model = HuggingFaceRuntime(settings)
    assert anyio.run(model.load)
    return model


async def only(*requests: InferenceRequest) -> AsyncIterator[InferenceRequest]:
    for one in requests:
        yield one


async def streamed(model: HuggingFaceRuntime, *requests: InferenceRequest) -> list[str]:
    return [piece_of(one) async for one in model.predict_stream(only(*requests))]


def piece_of(response: InferenceResponse) -> str:
    (output,) = response.outputs
    assert (output.name, output.shape, output.datatype) == ("output", [1, 1], "BYTES")
    assert output.parameters.content_type == "str"
    (text,) = output.data
    return text.decode() if isinstance(text, bytes) else text
