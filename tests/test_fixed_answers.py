"""Custom handlers whose answer is fixed: the server gives it, whatever the worker does."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mlserve.testing import running_server
from tests.unread import until

RUNTIME = """
import os
import signal
import time
from pathlib import Path

from starlette.responses import Response

from mlserve import MLModel
from mlserve.handlers import custom_handler
from mlserve.types import InferenceResponse

HERE = Path(__file__).parent


def hold(name):
    (HERE / f"begun-{name}").touch()
    while (HERE / "gate").exists():
        time.sleep(0.002)


class Held(MLModel):
    asked = 0

    def load(self):
        hold("load")
        return True

    @custom_handler("/steady", "GET", fixed=True)
    async def steady(self):
        self.asked += 1
        return Response(f"asked {self.asked}", 201, {"x-more": "yes"}, "text/plain")

    @custom_handler("/json", "GET", fixed=True)
    def json(self):
        return {"pid": os.getpid()}

    def predict(self, request):
        hold("predict")
        return InferenceResponse(model_name=self.name, outputs=[])
"""
FAILING = """
from mlserve import MLModel
from mlserve.handlers import custom_handler


class Failing(MLModel):
    @custom_handler("/steady", "GET", fixed=True)
    def steady(self):
        raise ValueError("no answer today")
"""
INFER = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}


def write(folder: Path, text: str, name: str) -> None:
    (folder / "runtime.py").write_text(text)
    (folder / "model-settings.json").write_text(json.dumps({"name": "m", "implementation": f"runtime.{name}"}))


@pytest.mark.parametrize("workers", [0, 1])
def test_it_is_given_while_the_worker_predicts(tmp_path: Path, workers: int) -> None:
    write(tmp_path, RUNTIME, "Held")
    with running_server(tmp_path, parallel_workers=workers) as server, ThreadPoolExecutor(1) as pool:
        (tmp_path / "gate").touch()
        try:
            held = pool.submit(httpx.post, f"{server.rest}/v2/models/m/infer", json=INFER, timeout=60)
            until(lambda: (tmp_path / "begun-predict").exists())
            for path in ("/steady", "/v2/models/m/steady"):
                answer = httpx.get(f"{server.rest}{path}")
                assert (answer.status_code, answer.text, answer.headers["x-more"]) == (201, "asked 1", "yes")
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert httpx.get(f"{server.rest}/json").json()["pid"]
            assert not held.done()
        finally:
            (tmp_path / "gate").unlink()
        assert held.result().status_code == 200
        httpx.post(f"{server.rest}/v2/repository/models/m/unload")
        assert httpx.get(f"{server.rest}/steady").status_code == 404


def test_it_is_not_found_while_no_worker_could_run_the_model(tmp_path: Path) -> None:
    write(tmp_path, RUNTIME, "Held")
    with running_server(tmp_path, parallel_workers=1) as server:
        (tmp_path / "begun-load").unlink()
        (tmp_path / "gate").touch()  # the next worker does not come to the end of its load
        try:
            os.kill(httpx.get(f"{server.rest}/json").json()["pid"], signal.SIGKILL)
            until(lambda: (tmp_path / "begun-load").exists())
            answer = httpx.get(f"{server.rest}/steady")
            assert answer.status_code == 404 and "Model m" in answer.json()["error"]
        finally:
            (tmp_path / "gate").unlink()
        until(lambda: httpx.get(f"{server.rest}/steady").status_code == 201)


def test_a_model_whose_answer_cannot_be_taken_does_not_load(tmp_path: Path) -> None:
    write(tmp_path, FAILING, "Failing")
    with pytest.raises(Exception, match="no answer today"), running_server(tmp_path):
        pass
