"""What a tensor costs between its forms: small requests, 150 000 values as JSON, raw and contents.

python bench/conversions.py            the best of several runs of each, in microseconds
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np

from mlserve.tensors import TensorData
from mlserve.types import Datatype, InferenceRequest, InferenceResponse, ResponseOutput
from mlserve.wire import json_data
from mlserve.wire.contents import check_contents
from mlserve.wire.raw_data import check_raw

VALUES = 150_000
BODY = b'{"id":"a","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":%s%s}]}'


def say(what: str, work: Callable[[], Any], seconds: float = 0.3) -> None:
    once = max(timeit.timeit(work, number=3) / 3, 1e-7)
    number = max(1, int(seconds / 10 / once))
    best = min(timeit.repeat(work, number=number, repeat=10)) / number
    print(f"{best * 1e6:10.2f}  {what}")


def small() -> None:
    decode = msgspec.json.Decoder(InferenceRequest).decode
    flat, nested = BODY % (b"[5.1,3.5,1.4,0.2]", b""), BODY % (b"[[5.1,3.5,1.4,0.2]]", b"")
    named = BODY % (b"[5.1,3.5,1.4,0.2]", b',"parameters":{"content_type":"np"}')
    say("request of 4 values: decode", lambda: decode(flat))
    say("  with parameters", lambda: decode(named))
    say("  and to numpy", lambda: decode(flat).inputs[0].data.to_numpy("FP32", [1, 4]))
    say("  the same, nested", lambda: decode(nested).inputs[0].data.to_numpy("FP32", [1, 4]))
    array = np.array([[0.1, 0.2, 0.7]], np.float32)

    def respond() -> InferenceResponse:
        output = ResponseOutput(name="y", shape=[1, 3], datatype=Datatype.FP32, data=TensorData(array))
        return InferenceResponse(model_name="m", id="a", outputs=[output])

    say("response of 3 values: make", respond)
    say("  and its data to JSON", lambda: respond().outputs[0].data.to_json("FP32"))


def threshold() -> None:
    """Where simdjson gets quicker than a Python list: `_SMALL_BYTES`."""
    for count in (16, 64, 128, 256):
        text = json_data.to_json(np.arange(count) + 0.25)
        for limit, name in ((10**9, "list"), (0, "simdjson")):
            json_data._SMALL_BYTES = limit
            say(
                f"{count} values, {len(text)} bytes, by {name}",
                partial(json_data.numbers_from_json, text, "FP32"),
                0.05,
            )
    json_data._SMALL_BYTES = 384


def large() -> None:
    random = np.random.default_rng(1)
    floats = random.random(VALUES).astype(np.float32)
    for name, array, datatype in (
        ("FP32, all digits", floats, "FP32"),
        ("FP32, 3 digits", floats.round(3), "FP32"),
        ("FP32, 191 rows", floats[: 191 * 784].reshape(191, 784), "FP32"),
        ("FP32, rows of 4", floats.reshape(-1, 4), "FP32"),
        ("FP64", random.random(VALUES), "FP64"),
        ("INT64", random.integers(0, 10**6, VALUES), "INT64"),
        ("BOOL", floats > 0.5, "BOOL"),
    ):
        text = msgspec.json.encode(array.tolist()) if array.ndim > 1 else json_data.to_json(array)
        say(f"{array.size} {name}: to JSON", partial(json_data.to_json, array))
        say("  from JSON", partial(json_data.numbers_from_json, text, datatype))
        shape = [array.size]
        raw = bytes(TensorData(array).to_raw(datatype))
        say("  from raw, a view", partial(from_raw, raw, datatype, shape))
        contents = TensorData(array).to_contents(datatype)
        say("  to contents", partial(TensorData(array).to_contents, datatype))
        say("  from contents", partial(from_contents, contents, datatype, shape))
        say("  check contents", partial(check_contents, contents, datatype, shape))
    strings = TensorData([f"text number {number}" for number in range(10_000)])
    raw = bytes(strings.to_raw("BYTES"))
    say("10000 BYTES: to raw", lambda: strings.to_raw("BYTES"))
    say("  check raw", lambda: check_raw(raw, "BYTES", [10_000]))
    say("  from raw", lambda: TensorData.from_raw(raw, "BYTES", [10_000]).tolist())
    contents = strings.to_contents("BYTES")
    say("  from contents", lambda: TensorData.from_contents(contents, "BYTES", [10_000]).tolist())


def from_raw(raw: bytes, datatype: str, shape: list[int]) -> Any:
    return TensorData.from_raw(raw, datatype, shape).to_numpy(datatype, shape, writable=False)


def from_contents(contents: bytes, datatype: str, shape: list[int]) -> Any:
    return TensorData.from_contents(contents, datatype, shape).to_numpy(datatype, shape)


if __name__ == "__main__":
    small()
    threshold()
    large()
