"""mlserve.testing: a runtime that keeps to the rules passes the suite, each breach is told, and the server serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from mlserve import testing
from mlserve.codecs import NumpyCodec
from mlserve.errors import InferenceError, MLServeError, ModelLoadError, StartupError
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import check_runtime, running_server
from mlserve.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters
from tests.serving import write_model


def request_of(rows: list[list[float]]) -> InferenceRequest:
    return InferenceRequest(inputs=[NumpyCodec.encode_input("x", np.array(rows))])


REQUEST = request_of([[1.0, 2.0], [3.0, 4.0]])


class Double(MLModel):
    """Twice its input; keeps to all rules."""

    factor: float = 2.0

    async def load(self) -> bool:
        self.outputs = [MetadataTensor(name="y", datatype="FP64", shape=[-1, 2])]
        return True

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain on purpose
        for one in payload.outputs or ():
            if one.name != "y":
                raise InferenceError(f"there is no output '{one.name}'")
        array = self.decode(payload.inputs[0], NumpyCodec)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array * self.factor)])


class Deaf(Double):
    """Takes no notice of the outputs asked for."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        payload.outputs = None
        return super().predict(payload)


class Twins(Double):
    """Gives two outputs one name."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        answer = super().predict(payload)
        return answer.model_copy(update={"outputs": answer.outputs * 2})


class Strict(Double):
    """Fails, instead of refusing, where an output is unknown."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        return {"y": super().predict}[payload.outputs[0].name if payload.outputs else "y"](payload)


class Fickle(Double):
    """Answers otherwise each time."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        self.factor += 1
        return super().predict(payload)


class Lazy(Double):
    """Believes JSON only."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        if payload.inputs[0].data.form != "json":
            payload.inputs[0].data = np.zeros((2, 2))  # type: ignore[assignment]
        return super().predict(payload)


class Greedy(Double):
    """Mixes the rows of a batch."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        self.factor = len(self.decode(payload.inputs[0], NumpyCodec))
        return super().predict(payload)


class Ragged(Double):
    """Answers with one row, whatever comes."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        answer = super().predict(payload)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output("y", NumpyCodec.decode_output(answer.outputs[0])[:1])],
        )


class Silent(Double):
    async def load(self) -> bool:
        return False


class Loose(Double):
    """Does not look at shapes."""

    async def load(self) -> bool:
        return True

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        for one in payload.outputs or ():
            raise InferenceError(one.name)
        array = np.array(payload.inputs[0].data.tolist())
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array.ravel())])


class Streaming(Double):
    """Gives no chunk at all."""

    async def predict_stream(self, payloads):
        for payload in ():
            yield payload


class Chatty(Double):
    async def metadata(self) -> Any:
        return {"name": self.name}


class Blocking(Double):
    """Async by name only."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        time.sleep(0.6)
        return super().predict(payload)


class Dozing(Double):
    """The same, for a moment only."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        time.sleep(0.01)
        return super().predict(payload)


class Shared(Double):
    """Keeps the request of a call where the next one finds it."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self.current = payload
        await anyio.sleep(0)
        return super().predict(self.current)


class Centred(Double):
    """What a row gives hangs on the rows beside it."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        array = self.decode(payload.inputs[0], NumpyCodec)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("y", array - array.mean(axis=0))]
        )


class Sorting(Double):
    """Gives its rows back in an order of its own."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        array = np.sort(self.decode(payload.inputs[0], NumpyCodec), axis=0)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array)])


class Lying(Double):
    """Declares another datatype than it gives."""

    async def load(self) -> bool:
        self.outputs = [MetadataTensor(name="y", datatype="FP32", shape=[-1, 2])]
        return True


class Undeclared(Double):
    async def load(self) -> bool:
        self.outputs = [MetadataTensor(name="z", datatype="FP64", shape=[-1, 2])]
        return True


class Unspeakable(Double):
    """Puts into its parameters what no client can be sent."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        answer = super().predict(payload)
        answer.outputs[0].parameters = Parameters(model=self)
        return answer


KEPT: list[Any] = []


class Clinging(Double):
    """Stays where nobody needs it any more."""

    async def load(self) -> bool:
        KEPT.append(self)
        return await super().load()


class Threaded(Double):
    """Starts a thread and never ends it."""

    async def load(self) -> bool:
        threading.Thread(target=GATE.wait, daemon=True, name="of the model").start()
        return await super().load()


class Exchanging(Double):
    """Starts a thread and never ends it, while another that was there before ends."""

    async def load(self) -> bool:
        threading.Thread(target=GATE.wait, daemon=True, name="of the model").start()
        OTHERS.pop().end()
        return await super().load()


class Other:
    """A thread that has nothing to do with the model."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        self._thread = threading.Thread(target=self._gate.wait, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._gate.set()
        self._thread.join()


class Filing(Double):
    """Opens a file and never closes it."""

    async def load(self) -> bool:
        KEPT.append(open(__file__))  # noqa: SIM115
        return await super().load()


GATE = threading.Event()
OTHERS: list[Other] = []


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """What the leaking models have left."""
    yield
    for one in KEPT:
        if hasattr(one, "close"):
            one.close()
    KEPT.clear()
    GATE.set()
    GATE.clear()


class Broken(Double):
    async def load(self) -> bool:
        raise RuntimeError("no such artifact")


def test_a_runtime_that_keeps_to_the_rules_passes_and_its_answers_come_back():
    (answer,) = check_runtime(Double, REQUEST, expected={"y": [[2.0, 4.0], [6.0, 8.0]]}, batches=True)
    assert answer.outputs[0].data.to_numpy("FP64", [2, 2]).tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert REQUEST.outputs is None, "the caller's request is left alone"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Deaf, "answered a request with an output that it does not have"),
        (Twins, "more than one output named 'y'"),
        (Strict, "made it fail"),
        (Fickle, "over json, but"),
        (Lazy, "over json, but"),
        (Greedy, "in a batch: output 'y'"),
        (Ragged, "in a batch: .*1 rows"),
        (Silent, "is not ready"),
        (Loose, "one value too few"),
        (Blocking, r"predict\(\) held up the event loop for \d+\.\d+ s"),
        (Shared, "raw beside other calls"),
        (Centred, r"requests of several lengths in a batch: output 'y': expected"),
        (Sorting, r"in a batch: output 'y': expected"),
        (Lying, r"output 'y': metadata\(\) says FP32, the answer FP64"),
        (Undeclared, r"output 'y' is not among metadata\(\)'s: \['z'\]"),
        (Unspeakable, "output 'y' cannot be sent"),
        (Clinging, r"is still there after unload\(\): list refers to it"),
        (Threaded, "leaves threads behind .*of the model"),
        (Filing, "leaves open files behind .*test_testing.py"),
        (Streaming, "gives nothing"),
        (Chatty, r"metadata\(\) gave dict"),
    ],
)
def test_a_breach_is_told(model, said):
    asked = [REQUEST, request_of([[5.0, 6.0]])]
    with pytest.raises(AssertionError, match=said):
        longest = 0.5 if model is Blocking else None
        check_runtime(model, asked, batches=model in (Greedy, Ragged, Centred, Sorting), longest_block_seconds=longest)


def test_a_thread_that_stays_is_seen_though_another_ends():
    OTHERS.extend(Other() for _ in range(8))
    try:
        with pytest.raises(AssertionError, match=r"leaves threads behind .*of the model"):
            check_runtime(Exchanging, REQUEST)
    finally:
        while OTHERS:
            OTHERS.pop().end()


def test_an_answer_that_is_not_the_expected_one_is_told():
    with pytest.raises(AssertionError, match="output 'y': expected"):
        check_runtime(Double, REQUEST, expected={"y": [[2.0, 4.0], [6.0, 8.000001]]})
    check_runtime(Double, REQUEST, expected={"y": [[2.0, 4.0], [6.0, 8.000001]]}, rtol=1e-6)


def test_what_a_runtime_cannot_promise_can_be_left_out():
    check_runtime(Deaf, REQUEST, unknown_output=False)
    check_runtime(Fickle, REQUEST, repeatable=False)
    check_runtime(Clinging, REQUEST, leaks=False)
    check_runtime(Dozing, REQUEST, longest_block_seconds=None)
    check_runtime(ModelSettings(name="named", implementation=Double), [REQUEST, REQUEST])


@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.own_process)])
def test_a_server_for_settings_answers_rest_grpc_and_metrics(backend):
    model = ModelSettings(name="double", implementation=Double, parameters={"version": "7"})
    with running_server(model, backend=backend) as server:
        answer = server.infer("double", REQUEST, version="7")
        assert answer.outputs[0].data.tolist() == [2.0, 4.0, 6.0, 8.0]
        assert answer.model_version == "7"
        assert httpx.get(f"{server.rest}/v2/health/ready").status_code == 200
        assert "model_infer_request" in httpx.get(f"{server.metrics}/metrics").text
        with grpc.insecure_channel(server.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ModelReady(service_pb2.ModelReadyRequest(name="double")).ready
        with pytest.raises(MLServeError, match="nobody") as caught:
            server.infer("nobody", REQUEST)
        assert caught.value.http_status == 404
        rest = server.rest
    with pytest.raises(httpx.ConnectError):
        httpx.get(rest)


def test_a_server_for_a_folder_serves_its_models(tmp_path):
    place = write_model(tmp_path, "echo", "models.Echo")
    (place / "models.py").write_text(
        "from mlserve import MLModel\n"
        "from mlserve.codecs import NumpyCodec\n"
        "from mlserve.types import InferenceResponse\n"
        "class Echo(MLModel):\n"
        "    async def predict(self, payload):\n"
        "        array = self.decode(payload.inputs[0], NumpyCodec)\n"
        "        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output('x', array)])\n"
    )
    with running_server(tmp_path) as server:
        assert server.infer("echo", REQUEST).outputs[0].data.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_model_that_does_not_load_is_an_error_with_its_reason():
    with (
        pytest.raises(ModelLoadError, match=r"'broken'.*no such artifact"),
        running_server(ModelSettings(name="broken", implementation=Broken)),
    ):
        pass


def test_a_busy_port_is_a_start_up_error():
    model = ModelSettings(name="double", implementation=Double)
    with running_server(model) as server:
        port = server.server.addresses["http"][1]
        with pytest.raises(StartupError, match=str(port)), running_server(model, http_port=port):
            pass


def test_what_the_module_offers_is_listed():
    assert testing.__all__ == sorted(testing.__all__) == ["RunningServer", "check_runtime", "running_server"]
