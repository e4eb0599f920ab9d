"""The examples do what their pages say: a generator streams the sentences that it was taught, a classifier answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.examples import EXAMPLES, run_example
from tests.serving import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FOX = " crossed the frozen river at dawn, and left a thin line of prints in the snow."
SAILORS = " shared a pot of coffee and argued about the best way home: round the cape, or through it."
GRANDMOTHER = " grew seventeen kinds of beans, and knew a story for each of them; «don't rush», she said."


def test_the_classifier_of_its_page(tmp_path: Path) -> None:
    outcome = run_example("huggingface", "reviews", tmp_path)
    assert [json.loads(one)["label"] for one in outcome.output("output")] == ["PRAISE", "COMPLAINT"]
    assert re.findall("PRAISE|COMPLAINT", outcome.printed) == ["PRAISE", "COMPLAINT"]


def test_the_generator_streams_what_it_was_taught(tmp_path: Path) -> None:
    folder = tmp_path / "text-generation"
    shutil.copytree(EXAMPLES / "text-generation", folder)
    run(folder, "train.py")
    over_events, over_grpc = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    with serving(folder) as server:
        assert run(folder, "-c", over_events.replace("http://localhost:8080", server.rest)).strip() == FOX.strip()
        assert run(folder, "-c", over_grpc.replace("localhost:8081", server.grpc)).strip() == SAILORS.strip()
        request = json.loads((folder / "request.json").read_text())
        with_curl(f"{server.rest}/v2/models/storyteller/generate_stream", folder)
        first_event_before_the_last(f"{server.rest}/v2/models/storyteller/generate_stream", request)
        tokens_over_grpcio(server.grpc)
        whole = httpx.post(f"{server.rest}/v2/models/storyteller/generate", json=request, timeout=60).json()
        assert json.loads(whole["outputs"][0]["data"][0]) == {"generated_text": "The fox" + FOX}
        assert server.stop() == 0


def run(folder: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


def piece_of(event: str) -> str:
    (output,) = json.loads(event.removeprefix("data: "))["outputs"]
    assert output["name"] == "output" and output["shape"] == [1, 1]
    return str(output["data"][0])


def with_curl(address: str, folder: Path) -> None:
    headers = ["-H", "Content-Type: application/json", "-d", "@request.json"]
    done = subprocess.run(["curl", "-sN", address, *headers], cwd=folder, capture_output=True, text=True, timeout=60)
    events = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert len(events) > 10
    assert "".join(map(piece_of, events)) == FOX


def first_event_before_the_last(address: str, request: dict[str, Any]) -> None:
    """The first piece is here while the model is still at work: its stream can be left, and it goes on for others."""
    endless = {**request, "parameters": {"max_new_tokens": 100, "do_sample": True, "eos_token_id": -1}}
    with httpx.stream("POST", address, json=endless, timeout=60) as left:
        first = next(line for line in left.iter_lines() if line)
        assert first.startswith("data: ")
        with httpx.stream("POST", address, json=request, timeout=60) as response:
            lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert "".join(map(piece_of, lines)) == FOX


def tokens_over_grpcio(address: str) -> None:
    request = pb.ModelInferRequest(model_name="storyteller")
    request.inputs.add(name="args", shape=[1], datatype="BYTES").contents.bytes_contents.append(b"My grandmother")
    request.parameters["max_new_tokens"].int64_param = 100
    request.parameters["do_sample"].bool_param = False
    with grpc.insecure_channel(address) as channel:
        answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]), timeout=60)
        pieces = [answer.outputs[0].contents.bytes_contents[0].decode() for answer in answers]
    assert len(pieces) > 10 and "".join(pieces) == GRANDMOTHER
