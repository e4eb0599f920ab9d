"""The models of the chaos test, and what each must answer: rows are told apart by their values, whoever runs beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.serving import write_model

MODELS = '''
import asyncio, os, time
from pathlib import Path
import numpy as np
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput

VERSION = 1


def outputs_of(request):
    """Row by row: each input doubled (texts in capitals), and the sums of the rows of the first one."""
    found = {}
    for one in request.inputs:
        if one.datatype == "BYTES":
            texts = one.data.to_numpy("BYTES", one.shape)
            flat = [(t.decode() if isinstance(t, bytes) else t).upper() for t in texts.reshape(-1)]
            found["double_" + one.name] = ("BYTES", list(one.shape), flat)
        else:
            array = one.data.to_numpy(one.datatype, one.shape)
            found["double_" + one.name] = (one.datatype, list(array.shape), array + array)
    first = request.inputs[0]
    if first.datatype != "BYTES":
        sums = first.data.to_numpy(first.datatype, first.shape).reshape(first.shape[0], -1).astype("float64").sum(axis=1)
        found["sums"] = ("FP64", [len(sums), 1], sums.reshape(-1, 1))
    wanted = [one.name for one in request.outputs] if request.outputs else list(found)
    return [ResponseOutput(name=n, datatype=str(found[n][0]), shape=found[n][1], data=found[n][2]) for n in wanted]


class Mixed(MLModel):
    def predict(self, request):
        return InferenceResponse(model_name=self.name, outputs=outputs_of(request))


class AsyncMixed(MLModel):
    async def predict(self, request):
        await asyncio.sleep(0.002)
        return InferenceResponse(model_name=self.name, outputs=outputs_of(request))

    async def predict_stream(self, requests):
        async for request in requests:
            for _ in range(5):
                await asyncio.sleep(0.001)
                yield InferenceResponse(model_name=self.name, outputs=outputs_of(request))


class Slow(MLModel):
    """Computes for as many seconds as the first value says, and never gives way. Leaves the number of its process."""

    def load(self):
        Path(__file__).with_name(f"pid-{os.getpid()}").touch()
        return True

    def predict(self, request):
        end = time.monotonic() + float(request.inputs[0].data.to_numpy("FP64", [1])[0])
        while time.monotonic() < end:
            time.sleep(0.01)
            sum(range(1000))
        return InferenceResponse(model_name=self.name, outputs=outputs_of(request))


class Crasher(MLModel):
    def predict(self, request):
        if request.inputs[0].data.to_numpy("FP64", [1])[0] < 0:
            os._exit(11)
        return InferenceResponse(model_name=self.name, outputs=outputs_of(request))
'''

BATCHING = {"max_batch_size": 16, "max_batch_time": 0.005}


def write_all(folder: Path) -> None:
    """A repository with models of all kinds."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("Mixed", {}),
        "batched": ("Mixed", BATCHING),
        "patient": ("Mixed", {**BATCHING, "batch_eager": False, "max_batch_rows": 40}),
        "waiting": ("AsyncMixed", {}),
        "crasher": ("Crasher", {}),
        "tight": ("Slow", {"max_queue_size": 20}),
        "slow": ("Slow", {"parallel_workers": 1}),
    }
    for name, (kind, settings) in kinds.items():
        place = write_model(folder, name, f"models.{kind}", **settings)
        (place / "models.py").write_text(MODELS)


class Case:
    """One random request and its answer."""

    DATATYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32, "UINT8": np.uint8}
    # What may be batched together must sometimes meet: few shapes, one of them too large for a frame.
    SHAPES = ((4,), (2, 3), (20_000,))

    def __init__(self, random: np.random.Generator) -> None:
        self.inputs: dict[str, tuple[str, np.ndarray[Any, Any] | list[list[str]]]] = {}
        rows = int(random.integers(1, 5))
        for name in ("a", "b")[: int(random.integers(1, 3))]:
            if name == "b" and random.random() < 0.3:
                self.inputs[name] = ("BYTES", [[f"t{random.integers(1000)}"] for _ in range(rows)])
                continue
            datatype = str(random.choice(list(self.DATATYPES)))
            shape = self.SHAPES[2] if random.random() < 0.03 else self.SHAPES[int(random.integers(2))]
            values = random.integers(0, 100, (rows, *shape)).astype(self.DATATYPES[datatype])
            self.inputs[name] = (datatype, values)
        self.wanted = None if random.random() < 0.6 else [f"double_{name}" for name in self.inputs]
        if self.wanted is not None and random.random() < 0.5:
            self.wanted = ["sums", *self.wanted]

    @staticmethod
    def number(value: float) -> Case:
        """A request with one FP64."""
        case = Case.__new__(Case)
        case.inputs = {"a": ("FP64", np.array([value]))}
        case.wanted = ["double_a"]
        return case

    def expected(self) -> dict[str, list[Any]]:
        """The flat values of each output."""
        found: dict[str, list[Any]] = {}
        for name, (_, values) in self.inputs.items():
            if isinstance(values, list):
                found[f"double_{name}"] = [row[0].upper() for row in values]
            else:
                found[f"double_{name}"] = (values + values).reshape(-1).tolist()
        first = next(iter(self.inputs.values()))[1]
        assert not isinstance(first, list), "the first input is never text"
        found["sums"] = first.reshape(len(first), -1).astype("float64").sum(axis=1).tolist()
        return found if self.wanted is None else {name: found[name] for name in self.wanted}
