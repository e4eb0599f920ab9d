"""Explainers in a running server beside the model that they explain: in one worker, and from another environment."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc

from mlserve.codecs import NumpyCodec, StringCodec
from mlserve.types import InferenceRequest, InferenceResponse
from tests.environments_beside import FLOWERS, environment, serving_beside
from tests.examples import run_example
from tests.serving import serving, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]

START_SECONDS = 200.0  # it takes 12 to 25 s of one core to import alibi, in each worker
ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flowers(**parameters: Any) -> InferenceRequest:
    import numpy as np

    tensor = NumpyCodec.encode_input("x", np.array(FLOWERS[:1], dtype="float32"))
    return InferenceRequest(inputs=[tensor], parameters=parameters or None)


def explanation(response: InferenceResponse) -> dict[str, Any]:
    (text,) = StringCodec.decode_output(response.outputs[0])
    return dict(json.loads(text))


def write_explainers(folder: Path, world: Any, http_port: int, grpc_port: int, **more: Any) -> None:
    """One that asks its model over REST, one over gRPC, one that computes in a graph; all ask this server."""
    rest, grpc = f"http://127.0.0.1:{http_port}/v2/models/iris/infer", f"grpc://127.0.0.1:{grpc_port}/iris"
    anchors = {"explainer_type": "anchor_tabular", "infer_uri": rest, "infer_output": "predict"}
    shap = {"explainer_type": "kernel_shap", "infer_uri": grpc, "infer_output": "predict_proba"}
    for name, kind, extra in (("a-anchors", "anchor_tabular", anchors), ("a-shap", "kernel_shap", shap)):
        parameters = {"uri": str(world.folder / kind), "version": "v1", "extra": extra, **more}
        write_model(folder, name, "mlserver_alibi_explain.AlibiExplainRuntime", parameters=parameters)
    made = {"mode": "PN", "shape": [1, 4], "max_iterations": 5, "c_steps": 2, "no_info_val": 0.0}
    contrasts = {**shap, "explainer_type": "cem", "init_parameters": made}
    parameters = {"version": "v1", "extra": contrasts, **more}
    write_model(folder, "a-cem", "mlserver_alibi_explain.AlibiExplainRuntime", parameters=parameters)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_model_in_the_same_worker_is_explained(world: Any, tmp_path: Path, workers: str) -> None:
    """The explainer, loaded before its model, waits in a thread while its own worker answers what it asks."""
    http_port, grpc_port = free_port(), free_port()
    write_explainers(tmp_path, world, http_port, grpc_port)
    place = write_model(tmp_path, "iris", "explained.Plain", parameters={"uri": str(world.folder / "iris.joblib")})
    for name in ("explained.py", "shapes.py"):
        (place / name).write_text((world.folder / "served" / "iris" / name).read_text())
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    with serving(tmp_path, "--parallel-workers", workers, *ports, start_seconds=START_SECONDS) as server:
        models = f"{server.rest}/v2/models"
        for name, kind in (("a-anchors", "AnchorTabular"), ("a-shap", "KernelShap"), ("a-cem", "CEM")):
            answer = httpx.post(f"{models}/{name}/infer", content=flowers().json(), timeout=60)
            assert answer.status_code == 200, answer.text
            assert explanation(InferenceResponse.parse_raw(answer.content))["meta"]["name"] == kind
        own = httpx.post(f"{models}/a-anchors/explain", content=flowers().json(), timeout=60)
        assert own.json()["data"]["anchor"]
        assert httpx.post(f"{server.rest}/explain", content=flowers().json(), timeout=60).json()["meta"]["name"]
        assert _over_grpc(server.grpc)["meta"]["params"]["threshold"] == 0.8
        assert server.stop() == 0
    chatter = [line for line in server.lines if " alibi" in line or " shap" in line or "it/s]" in line]
    assert chatter == []


def _over_grpc(address: str) -> dict[str, Any]:
    """gRPC has no parameters with an inside: explain_parameters are a text of JSON."""
    import numpy as np

    tensor = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array(FLOWERS[:1], dtype="float32"))
    arguments = {"explain_parameters": json.dumps({"threshold": 0.8})}
    with tritonclient.grpc.InferenceServerClient(address) as client:
        answer = client.infer("a-anchors", [tensor], parameters=arguments, client_timeout=60)
    return dict(json.loads(answer.as_numpy("explanation").ravel()[0]))


def test_it_explains_from_its_own_environment_an_ordinary_model_of_the_same_server(world: Any, tmp_path: Path) -> None:
    http_port, grpc_port = free_port(), free_port()
    write_explainers(tmp_path, world, http_port, grpc_port, **environment())
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    with serving_beside(tmp_path, *ports) as beside:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": FLOWERS[0]}
        found = explanation(beside.infer("a-shap", {"inputs": [tensor]}))
        effects = [
            sum(row[0]) + base for row, base in zip(found["data"]["shap_values"], found["data"]["expected_value"])
        ]
        assert effects == pytest.approx(beside.expected[:3], abs=1e-4)  # what SHAP promises
        assert explanation(beside.infer("a-anchors", {"inputs": [tensor]}))["data"]["raw"]["prediction"] == [0]
        assert explanation(beside.infer("a-cem", {"inputs": [tensor]}))["meta"]["name"] == "CEM"
        beside.check_neighbours()
        assert beside.server.stop() == 0


def test_the_commands_of_the_example_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "runtimes" / "sklearn")  # installed in the ordinary environment
    outcome = run_example("alibi-explain", "why", tmp_path, START_SECONDS, http_port=free_port())
    (text,) = outcome.output("explanation")
    assert json.loads(text)["data"]["anchor"]
    assert "because" in outcome.printed
