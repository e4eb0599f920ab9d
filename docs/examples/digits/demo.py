"""Trains a digit classifier, serves it with `mlserve start`, and shows how to ask it over REST and gRPC.

    python demo.py [--check] [--folder FOLDER]

Without --check it serves until Ctrl-C; with it, it asks the server itself, compares the answers with the model's own,
and ends with status 0 if they agree.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PORTS = {"http_port": 8080, "grpc_port": 8081, "metrics_port": 8082}
READY_SECONDS = 120.0


def main() -> int:
    """Runs the demo; its exit status."""
    parser = argparse.ArgumentParser(description="Serve a digit classifier.")
    parser.add_argument("--check", action="store_true", help="ask the server and end")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where the models go")
    options = parser.parse_args()

    model, image = train(options.folder)
    ports = {name: free_port(port) for name, port in PORTS.items()}
    server = start(options.folder, ports)
    try:
        wait_ready(server, ports["http_port"])
        if options.check:
            return check(model, image, ports)
        explain(image, ports)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        stop(server)


def train(folder: Path) -> tuple[Any, list[float]]:
    """Writes a model repository with one model, `digits`; gives the model and an image to ask it about."""
    images, digits = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(images[:1500], digits[:1500])
    place = folder / "digits"
    place.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, place / "model.joblib")
    settings = {
        "name": "digits",
        "implementation": "sklearn",
        "inputs": [{"name": "image", "datatype": "FP64", "shape": [-1, 64]}],
        "outputs": [{"name": "predict", "datatype": "INT64", "shape": [-1]}],
        "parameters": {"version": "v1"},
    }
    (place / "model-settings.json").write_text(json.dumps(settings, indent=2))
    print(f"trained a digit classifier; the model repository is {folder}/", flush=True)
    return model, [float(value) for value in images[1600]]


def free_port(wanted: int) -> int:
    """The wanted port, or another one if it is busy; says so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", wanted))
            return wanted
        except OSError:
            pass
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
    print(f"port {wanted} is busy; taking {port}", flush=True)
    return port


def start(folder: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    """Starts `mlserve start` on the folder."""
    flags = [word for name, port in ports.items() for word in (f"--{name.replace('_', '-')}", str(port))]
    return subprocess.Popen([sys.executable, "-m", "mlserve", "start", str(folder), *flags])


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server in an orderly way."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()


def wait_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Waits until the server says that it is ready. SystemExit if it ends first."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit(f"the server was not ready after {READY_SECONDS:.0f} s")


def request_of(image: list[float]) -> dict[str, Any]:
    """An inference request of the Open Inference Protocol."""
    return {"inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP64", "data": image}]}


def ask_rest(image: list[float], port: int) -> int:
    """The digit, over REST."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/digits/infer",
        data=json.dumps(request_of(image)).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(json.load(answer)["outputs"][0]["data"][0])


async def ask_grpc(image: list[float], port: int) -> int:
    """The digit, over gRPC, with the stubs that come with mlserve."""
    from grpclib.client import Channel

    from mlserve.wire._proto.inference import GrpcInferenceServiceStub, InferTensorContents, ModelInferRequest
    from mlserve.wire._proto.inference import ModelInferRequestInferInputTensor as Tensor

    contents = InferTensorContents(fp64_contents=image)
    tensor = Tensor(name="image", datatype="FP64", shape=[1, 64], contents=contents)
    async with Channel("127.0.0.1", port) as channel:
        stub = GrpcInferenceServiceStub(channel)
        answer = await stub.model_infer(ModelInferRequest(model_name="digits", inputs=[tensor]), timeout=30)
    return int(answer.outputs[0].contents.int64_contents[0])


def check(model: Any, image: list[float], ports: dict[str, int]) -> int:
    """Asks over both protocols; 0 if both say what the model says."""
    expected = int(model.predict([image])[0])
    found = {"REST": ask_rest(image, ports["http_port"]), "gRPC": asyncio.run(ask_grpc(image, ports["grpc_port"]))}
    for protocol, digit in found.items():
        print(f"{protocol} says: the image shows a {digit} (the model itself: {expected})", flush=True)
    return 0 if set(found.values()) == {expected} else 1


def explain(image: list[float], ports: dict[str, int]) -> None:
    """Prints what to type."""
    url = f"http://127.0.0.1:{ports['http_port']}/v2/models/digits/infer"
    body = json.dumps(request_of(image))
    print(
        f"""
Ask it with curl:

  curl -H 'Content-Type: application/json' -d '{body}' {url}

or with Python:

  python3 -c 'import json, urllib.request as u; print(u.urlopen(u.Request("{url}", json.dumps({{"inputs": [{{"name": \
"image", "shape": [1, 64], "datatype": "FP64", "data": [0] * 64}}]}}).encode(), \
{{"Content-Type": "application/json"}})).read().decode())'

Metrics: http://127.0.0.1:{ports["metrics_port"]}/metrics    API pages: http://127.0.0.1:{ports["http_port"]}/v2/docs
Ctrl-C ends it.
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
