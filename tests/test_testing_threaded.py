"""running_server: a server in a thread of the test, over real sockets."""

from __future__ import annotations

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from mlserve.codecs import NumpyCodec
from mlserve.errors import MLServeError, ModelLoadError, StartupError
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import running_server
from mlserve.types import InferenceRequest, InferenceResponse
from tests.serving import write_model

REQUEST = InferenceRequest(inputs=[NumpyCodec.encode_input("x", np.array([[1.0, 2.0], [3.0, 4.0]]))])


class Double(MLModel):
    """Twice its input."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain on purpose
        array = self.decode(payload.inputs[0], NumpyCodec)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array * 2.0)])


class Broken(Double):
    async def load(self) -> bool:
        raise RuntimeError("no such artifact")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_server_for_settings_answers_rest_grpc_and_metrics(backend):
    model = ModelSettings(name="double", implementation=Double, parameters={"version": "7"})
    with running_server(model, backend=backend) as server:
        for transport in ("rest", "rest-binary", "grpc", "grpc-raw"):
            answer = server.infer("double", REQUEST, version="7", transport=transport)
            assert answer.outputs[0].data.to_numpy("FP64", [4]).tolist() == [2.0, 4.0, 6.0, 8.0]
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
