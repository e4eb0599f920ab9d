"""Random requests through a pool with batching have the answers that they have alone."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlserve import frames
from mlserve.batching import Rule
from mlserve.errors import MLServeError
from mlserve.settings import ModelSettings
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, RequestInput, RequestOutput
from tests.engine import running_pool, write_models

ROWWISE = '''
import numpy as np
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Rowwise(MLModel):
    """Turns each row around, sums nothing up over rows; fails on a row that begins with 13."""

    def predict(self, request):
        wanted = None if request.outputs is None else [one.name for one in request.outputs]
        outputs = []
        for one in request.inputs:
            rows = one.data.to_numpy(one.datatype, one.shape)
            flat = rows.reshape(len(rows), -1) if len(rows) else rows
            if one.datatype != "BYTES" and flat.size and (flat[:, 0] == 13).any():
                raise ValueError("a row begins with 13")
            turned = flat[:, ::-1].reshape(rows.shape) if flat.size else rows
            if wanted is None or one.name in wanted:
                outputs.append(ResponseOutput(
                    name=one.name, shape=one.shape, datatype=one.datatype, data=turned, parameters=one.parameters))
        return InferenceResponse(model_name=self.name, outputs=outputs, parameters=request.parameters)
'''

DTYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "INT8": np.int8, "INT64": np.int64, "BOOL": bool}
FORMS = ("raw", "json", "contents")


def _values(datatype, count, seed):
    chance = np.random.default_rng(seed)
    if datatype == "BYTES":
        return [("é" * (one % 3) + f"{one}").encode() for one in chance.integers(0, 50, count)]
    values = chance.integers(0, 15, count).astype(DTYPES[datatype])
    if datatype.startswith("FP") and count:
        values[seed % count] = (np.nan, np.inf, 13, 1)[seed % 4]
    return values


KINDS = st.tuples(  # what the requests of a batch have in common: their inputs, and the outputs they ask for
    st.lists(
        st.tuples(st.sampled_from("xy"), st.sampled_from([*DTYPES, "BYTES"]), st.sampled_from([[], [1], [2], [2, 2]])),
        min_size=1,
        max_size=2,
        unique_by=lambda one: one[0],
    ),
    st.sampled_from([None, None, [RequestOutput(name="x")]]),
)


def _data(draw, datatype, shape):
    values = _values(datatype, int(np.prod(shape)), draw(st.integers(0, 99)))
    form = draw(st.sampled_from(FORMS))
    if form == "json" and not datatype.startswith("FP"):  # JSON has neither NaN nor infinity
        nested = draw(st.booleans()) and datatype != "BYTES"
        return TensorData.from_json(
            bytes(TensorData(np.reshape(values, shape).tolist() if nested else values).to_json())
        )
    if form == "contents" and datatype != "FP16":
        return TensorData.from_contents(TensorData(values).to_contents(datatype), datatype, shape)
    return TensorData.from_raw(bytes(TensorData(values).to_raw(datatype)), datatype, shape)


@st.composite
def requests(draw, kinds):
    inputs, outputs = draw(st.sampled_from(kinds))
    rows = draw(st.integers(0, 3))
    parameters = st.sampled_from([None, {"p": "one"}, {"p": [1, 2], "q": 1.5}, {"p": "two", "k": 1}])
    return InferenceRequest(
        id=str(draw(st.integers(0, 5))),
        inputs=[
            RequestInput(
                name=name,
                shape=[rows, *trailing],
                datatype=datatype,
                data=_data(draw, datatype, [rows, *trailing]),
                parameters=draw(parameters),
            )
            for name, datatype, trailing in inputs
        ],
        outputs=outputs,
        parameters=draw(parameters),
    )


@st.composite
def crowds(draw):
    """Requests of one or two kinds, so that most of them may come together."""
    kinds = draw(st.lists(KINDS, min_size=1, max_size=2))
    return draw(st.lists(requests(kinds), min_size=2, max_size=12))


def _plain(parameters):
    return None if parameters is None else {key: one for key, one in parameters.items() if one is not None}


def _seen(response):
    """What a client would see of an answer."""
    outputs = []
    for one in response.outputs:
        array = one.data.to_numpy(one.datatype, one.shape)
        values = [str(value) for value in array.ravel().tolist()]
        outputs.append((one.name, one.datatype, list(one.shape), values, _plain(one.parameters) or {}))
    return response.id, outputs, _plain(response.parameters) or {}


async def _answers(pool, model, several):
    found = {}

    async def ask(place, one):
        try:
            found[place] = _seen(await pool.infer(model, one, "raw"))
        except MLServeError as error:
            found[place] = str(error)

    async with anyio.create_task_group() as tasks:
        for place, one in enumerate(several):
            tasks.start_soon(ask, place, one)
    return [found[place] for place in range(len(several))]


@pytest.mark.parametrize("rule", [Rule(8, 0.05, eager=False), Rule(8, 0.05, rows=4), Rule(1 << 30, target_seconds=0.1)])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=crowds())
def test_a_batch_gives_everybody_what_he_gets_alone(tmp_path, rule, several):
    write_models(tmp_path, ROWWISE)

    async def run():
        async with running_pool() as (pool, _):
            text = ModelSettings(name="rowwise", implementation="models.Rowwise").model_dump_json().encode()
            await pool.load(frames.Load(1, text, str(tmp_path)))
            await pool.load(frames.Load(2, text, str(tmp_path)), rule)
            alone = await _answers(pool, 1, several)
            assert await _answers(pool, 2, several) == alone

    anyio.run(run)
