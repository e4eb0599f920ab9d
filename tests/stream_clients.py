"""Clients for the tests of streams through the whole program, and the server they ask."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from mlserve.grpc import dataplane_pb2 as pb
from tests.serving import Running, serving, write_model

MODELS = ("Cleaner", "Counter", "Listing", "Plain", "Quick", "Returned", "Spinner", "Steps", "Total", "Words")
COUNTING = ("counter", "plain", "spinner")
PLACES = ["0 asyncio", "1 asyncio", "2 trio"]  # workers and backend


def write_models(folder: Path) -> None:
    for name in MODELS:
        parameters = {"version": "v1"} if name == "Counter" else {}
        place = write_model(folder, name.lower(), f"streaming_models.{name}", parameters=parameters)
        shutil.copy(Path(__file__).with_name("streaming_models.py"), place)


def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for the fixture of one file."""
    workers, backend = request.param.split()
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    with serving(folder, "--parallel-workers", workers, "--backend", backend) as running:
        running.folder = folder
        yield running


def body(text: str = "", **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text], "parameters": {"content_type": "str"}}
    return {"id": "r", "parameters": parameters, "inputs": [tensor]}


def url(server: Running, model: str, verb: str = "generate_stream") -> str:
    return f"{server.rest}/v2/models/{model}/{verb}"


def events(server: Running, model: str, request: dict[str, Any], **headers: str) -> Iterator[tuple[str, Any]]:
    """(event, data) of each, as httpx-sse reads them."""
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        httpx_sse.connect_sse(client, "POST", url(server, model), json=request, headers=headers) as source,
    ):
        for event in source.iter_sse():
            yield event.event, json.loads(event.data)


def places(found: list[tuple[str, Any]]) -> list[int]:
    return [int(data["outputs"][0]["data"][0].split()[0]) for kind, data in found if kind == "message"]


def message(model: str, text: str = "", **parameters: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, id="r")
    request.inputs.add(name="text", shape=[1], datatype="BYTES").contents.bytes_contents.append(text.encode())
    for name, value in parameters.items():
        field = "double_param" if isinstance(value, float) else "int64_param"
        setattr(request.parameters[name], field, value)
    return request


def told(answers: Any) -> list[int]:
    return [int(one.outputs[0].contents.bytes_contents[0].split()[0]) for one in answers]


def closing(server: Running, model: str) -> Callable[[], tuple[float, int]]:
    """Waits for the next note that a generator of a model was closed: when, and where it was."""
    notes = server.folder / model / "notes.txt"
    seen = notes.read_text().count("\n") if notes.exists() else 0

    def wait() -> tuple[float, int]:
        end = time.monotonic() + 60
        while not notes.exists() or notes.read_text().count("\n") <= seen:
            assert time.monotonic() < end, f"no generator of {model} was closed"
            time.sleep(0.005)
        _, at, *words = notes.read_text().splitlines()[seen].split()
        return float(at), int(words[-1])

    return wait


def series(server: Running, name: str, model: str) -> float:
    page = httpx.get(f"http://{server.addresses['metrics']}/metrics").text
    found = re.search(rf'^{name}\{{[^}}]*"{model}"[^}}]*\}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0
