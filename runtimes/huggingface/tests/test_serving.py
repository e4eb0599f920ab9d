"""A server with this runtime: every transport, worker processes, batches, streams to real clients."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from mlserve.testing import RunningServer, running_server
from runtimes.huggingface.tests.asking import GREEDY, base64_png, pipeline, plain

pytestmark = pytest.mark.slow

TEXTS = ["the red fox", "my name is mary .", "the old cat runs", "oslo"]


@contextmanager
def serving(models: dict[str, Path], folder: Path, **options: Any) -> Iterator[RunningServer]:
    """A server for three models, found as a user's folder is."""
    extra: dict[str, dict[str, Any]] = {
        "text-generation": {},
        "text-classification": {"max_batch_size": 8, "max_batch_time": 0.05},
        "image-classification": {},
    }
    for task, more in extra.items():
        made = folder / task
        made.mkdir()
        settings = {"name": task, "implementation": "mlserver_huggingface.HuggingFaceRuntime", **more}
        settings["parameters"] = {"uri": str(models[task]), "extra": {"task": task, "intra_op_threads": 1}}
        (made / "model-settings.json").write_text(json.dumps(settings))
    with running_server(folder, **options) as server:
        yield server


def answers(output: Any) -> list[Any]:
    return [json.loads(one) for one in np.asarray(output).ravel()]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(models: dict[str, Path], tmp_path: Path, workers: int) -> None:
    own = {task: pipeline(task, models[task]) for task in ("text-generation", "text-classification")}
    with serving(models, tmp_path, parallel_workers=workers) as server:
        over_every_transport(server, plain(own["text-generation"](TEXTS[0], **GREEDY)))
        in_batches(server, plain([own["text-classification"](one)[0] for one in TEXTS]))
        tokens_as_events(server, plain(own["text-generation"](TEXTS[0], return_full_text=False, **GREEDY)))
        tokens_over_grpc(server, plain(own["text-generation"](TEXTS[0], return_full_text=False, **GREEDY)))
        pictures(server, plain(pipeline("image-classification", models["image-classification"])(base64_png())))


def over_every_transport(server: RunningServer, wanted: list[Any]) -> None:
    body = {"inputs": [{"name": "args", "shape": [1], "datatype": "BYTES", "data": [TEXTS[0]]}], "parameters": GREEDY}
    for way in ("infer", "generate"):
        answer = httpx.post(f"{server.rest}/v2/models/text-generation/{way}", json=body, timeout=60).json()
        assert answers(answer["outputs"][0]["data"]) == wanted
    for kind, address in ((tritonclient.http, server.rest.removeprefix("http://")), (tritonclient.grpc, server.grpc)):
        tensors = [as_input(kind, "args", np.array([TEXTS[0].encode()], dtype=object), "BYTES")]
        tensors.append(as_input(kind, "max_new_tokens", np.array([GREEDY["max_new_tokens"]]), "INT64"))
        tensors.append(as_input(kind, "do_sample", np.array([False]), "BOOL"))
        with kind.InferenceServerClient(address) as client:
            answer = client.infer("text-generation", tensors)
            assert answers(answer.as_numpy("output")) == wanted, kind


def as_input(kind: Any, name: str, array: Any, datatype: str) -> Any:
    tensor = kind.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def in_batches(server: RunningServer, wanted: list[Any]) -> None:
    """Many clients at once, some with options that others have not: each has the answer of its own text."""

    def one(at: int) -> Any:
        parameters = {"top_k": 2} if at % 5 == 0 else {}
        text = TEXTS[at % 4]
        body = {
            "inputs": [{"name": "args", "shape": [1], "datatype": "BYTES", "data": [text]}],
            "parameters": parameters,
        }
        answer = httpx.post(f"{server.rest}/v2/models/text-classification/infer", json=body, timeout=60).json()
        (found,) = answers(answer["outputs"][0]["data"])
        assert isinstance(found, list) == (at % 5 == 0)
        return found[0] if at % 5 == 0 else found

    with ThreadPoolExecutor(8) as threads:
        for at, found in enumerate(threads.map(one, range(40))):
            assert found["label"] == wanted[at % 4]["label"]
            assert found["score"] == pytest.approx(wanted[at % 4]["score"], abs=1e-6)


def tokens_as_events(server: RunningServer, wanted: list[Any]) -> None:
    body = {"inputs": [{"name": "args", "shape": [1], "datatype": "BYTES", "data": [TEXTS[0]]}], "parameters": GREEDY}
    address = f"{server.rest}/v2/models/text-generation/generate_stream"
    with httpx.stream("POST", address, json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    pieces = [event["outputs"][0]["data"][0] for event in events]
    assert len(pieces) > 5 and "".join(pieces) == wanted[0]["generated_text"]


def tokens_over_grpc(server: RunningServer, wanted: list[Any]) -> None:
    came: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(
            lambda result, error: came.put((result, error)), headers={"mlserve-stream-response": "triton"}
        )
        tensors = [as_input(tritonclient.grpc, "args", np.array([TEXTS[0].encode()], dtype=object), "BYTES")]
        client.async_stream_infer("text-generation", tensors, parameters=GREEDY, enable_empty_final_response=True)
        text = ""
        while True:
            result, error = came.get(timeout=60)
            assert error is None
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
            text += result.as_numpy("output").item().decode()
        client.stop_stream()
    assert text == wanted[0]["generated_text"]


def pictures(server: RunningServer, wanted: list[Any]) -> None:
    parameters = {"content_type": "pillow_image"}
    tensor = {"name": "inputs", "shape": [1], "datatype": "BYTES", "data": [base64_png()], "parameters": parameters}
    address = f"{server.rest}/v2/models/image-classification/infer"
    answer = httpx.post(address, json={"inputs": [tensor]}, timeout=60).json()
    assert answers(answer["outputs"][0]["data"]) == wanted


def test_who_leaves_a_stream_frees_its_worker(models: dict[str, Path], tmp_path: Path) -> None:
    """More clients that leave than the model has threads would be stuck, were one of them left behind."""
    endless = {"max_new_tokens": 110, "do_sample": True, "eos_token_id": -1}
    body = {"inputs": [{"name": "args", "shape": [1], "datatype": "BYTES", "data": ["the"]}], "parameters": endless}
    with serving(models, tmp_path, parallel_workers=1) as server:
        address = f"{server.rest}/v2/models/text-generation/generate_stream"
        for _ in range(10):
            with httpx.stream("POST", address, json=body, timeout=60) as response:
                assert next(response.iter_lines()).startswith("data: ")
        text = httpx.post(f"{server.rest}/v2/models/text-generation/infer", json=body, timeout=60).json()
        assert len(answers(text["outputs"][0]["data"])) == 1
