"""A file of requests becomes a file of answers, in which every request has a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve.batch_processing import Outcome, process_batch
from mlserve.cli.main import app
from mlserve.codecs import StringCodec, decode_args
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import RunningServer, running_server
from mlserve.types import InferenceRequest, InferenceResponse


class Sums(MLModel):
    @decode_args
    async def predict(self, x: np.ndarray) -> np.ndarray:
        if (x < 0).any():
            raise ValueError("negative")
        return x.sum(axis=1, keepdims=True)


class Rows(MLModel):
    """Says how many rows came at once, for each."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        count = payload.inputs[0].shape[0]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("rows", [str(count)] * count)]
        )


class Headers(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        seen = payload.parameters.headers["x-a"] if payload.parameters and payload.parameters.headers else ""
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("seen", [seen])])


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    models = [ModelSettings(name=one.__name__.lower(), implementation=one) for one in (Sums, Rows, Headers)]
    with running_server(models) as running:
        yield running


def line(*rows: list[float], name: str = "x", **more: Any) -> str:
    tensor = {
        "name": name,
        "shape": [len(rows), len(rows[0])],
        "datatype": "FP32",
        "data": [one for row in rows for one in row],
    }
    return json.dumps({"inputs": [tensor], **more})


class Files:
    def __init__(self, folder: Path) -> None:
        self.source = folder / "requests.jsonl"
        self.target = folder / "answers.jsonl"

    def write(self, *lines: str) -> None:
        self.source.write_text("\n".join(lines) + "\n")

    @property
    def answers(self) -> dict[int, dict[str, Any]]:
        """By the number of the request's line."""
        found = [json.loads(one) for one in self.target.read_text().splitlines()]
        by_line = {one["parameters"]["batch_index"]: one for one in found}
        assert len(by_line) == len(found)
        return by_line

    def values(self) -> dict[int, list[float]]:
        return {number: one["outputs"][0]["data"] for number, one in self.answers.items() if "outputs" in one}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def sent(server: RunningServer, files: Files, model: str = "sums", **options: Any) -> Outcome:
    given = {"workers": 3, "retries": 0, "batch_size": 1, **options}
    url = server.grpc if given.get("transport") == "grpc" else server.rest.removeprefix("http://")
    return await process_batch(
        model, url, input_data_path=str(files.source), output_data_path=str(files.target), **given
    )


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"binary_data": True}, {"batch_size": 2}, {"batch_size": 50}])
async def test_every_request_has_its_answer(server: RunningServer, files: Files, options: dict[str, Any]) -> None:
    files.write(*(line([number, 1.0], id=f"id-{number}") for number in range(20)))
    assert await sent(server, files, **options) == (20, 0)
    assert files.values() == {number: [number + 1.0] for number in range(20)}
    assert {number: one["id"] for number, one in files.answers.items()} == {n: f"id-{n}" for n in range(20)}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_grpc_too(server: RunningServer, files: Files) -> None:
    files.write(line([1.0, 2.0]), line([3.0, 4.0], [5.0, 6.0]))
    assert await sent(server, files, transport="grpc") == (2, 0)
    assert files.values() == {0: [3.0], 1: [7.0, 11.0]}


@pytest.mark.anyio
@pytest.mark.parametrize("batch_size", [1, 8])
async def test_what_fails_is_a_line_with_its_reason(server: RunningServer, files: Files, batch_size: int) -> None:
    files.write(line([1.0, 2.0]), "", "not json", '{"inputs": 3}', line([-1.0, 2.0]), line([3.0, 4.0]))
    assert await sent(server, files, batch_size=batch_size) == (2, 3)
    assert files.values() == {0: [3.0], 5: [7.0]}
    errors = {number: one["error"] for number, one in files.answers.items() if "error" in one}
    assert {number: one["status"] for number, one in errors.items()} == {
        2: "preprocessing error",
        3: "preprocessing error",
        4: "inference error",
    }
    assert errors[4]["msg"] == "ValueError: negative"
    assert "inputs" in errors[3]["msg"]


@pytest.mark.anyio
async def test_only_neighbours_that_fit_together_travel_as_one(server: RunningServer, files: Files) -> None:
    two, other = line([1.0, 2.0]), line([1.0, 2.0, 3.0])
    files.write(two, two, two, other, two, line([1.0, 2.0], parameters={"content_type": "np"}), line([0.0, 0.0]))
    await sent(server, files, "rows", workers=1, batch_size=2)
    seen = {number: one["outputs"][0]["data"] for number, one in files.answers.items()}
    assert seen == {0: ["2"], 1: ["2"], 2: ["1"], 3: ["1"], 4: ["1"], 5: ["1"], 6: ["1"]}
    ids = {number: one["parameters"]["inference_id"] for number, one in files.answers.items()}
    assert ids[0] == ids[1] and len(set(ids.values())) == 6


@pytest.mark.anyio
async def test_headers_go_along(server: RunningServer, files: Files) -> None:
    files.write(line([1.0]))
    await sent(server, files, "headers", request_headers=["X-A: b:c ", "X-B:d"])
    assert files.answers[0]["outputs"][0]["data"] == ["b:c"]


@pytest.mark.anyio
async def test_a_server_that_is_not_there_is_told_for_each_line(files: Files, unused_port: int) -> None:
    files.write(line([1.0]), line([2.0]))
    paths = {"input_data_path": str(files.source), "output_data_path": str(files.target)}
    outcome = await process_batch("m", f"127.0.0.1:{unused_port}", 2, 0, 1, **paths)
    assert outcome == (0, 2)
    assert "Connection refused" in files.answers[1]["error"]["msg"]


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# -- the command -------------------------------------------------------------------------------------------------------


def run(server: RunningServer, files: Files, *words: str, **variables: str) -> Any:
    base = ["infer", "-u", server.rest.removeprefix("http://"), "-i", str(files.source), "-o", str(files.target)]
    return CliRunner().invoke(app, [*base, *words], env=variables)


def test_the_command_says_how_it_went(server: RunningServer, files: Files) -> None:
    files.write(line([1.0, 2.0]))
    done = run(server, files, "-m", "sums", "-w", "1", "-b", "-H", "A: b", "-vv")
    assert (done.exit_code, done.stderr.partition(",")[0]) == (0, "1 answered")
    assert files.values() == {0: [3.0]}
    files.write(line([-1.0, 2.0]))
    failed = run(server, files, MLSERVER_INFER_MODEL_NAME="sums")
    assert failed.exit_code == 1 and "0 answered, 1 failed" in failed.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-H", "nothing"], "header 'nothing': expected 'Name: value'"),
        (["-u", "ftp://nowhere"], "is no address"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(
    server: RunningServer, files: Files, words: list[str], told: str
) -> None:
    files.write(line([1.0]))
    done = run(server, files, "-m", "sums", *words)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert told in done.stderr


def test_a_file_that_is_not_there_is_told_before_anything_is_written(server: RunningServer, files: Files) -> None:
    done = run(server, files, "-m", "sums")
    assert done.exit_code == 1 and "No such file" in done.stderr
    assert not files.target.exists()
