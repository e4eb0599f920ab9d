"""Custom metrics on the page of the started program, from workers of every mode, and after a worker's end."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.serving import Running, serving, write_model

pytestmark = pytest.mark.slow

RUNTIME = """
import asyncio
import mlserver
from mlserver import MLModel
from mlserver.types import InferenceResponse

class Rows(MLModel):
    async def load(self):
        self.seconds = mlserver.register("seconds_spent", "Seconds that went by")
        mlserver.log(loads=1)
        return True

    async def predict(self, payload):
        mlserver.log(rows=payload.inputs[0].shape[0])
        await asyncio.create_task(self.later())
        await asyncio.to_thread(lambda: mlserver.log(in_thread=1))
        with self.seconds.time():
            await asyncio.sleep(0)
        return InferenceResponse(model_name=self.name, outputs=[])

    async def later(self):
        mlserver.log(in_task=1)


class Plain(Rows):
    def predict(self, payload):
        mlserver.log(rows=payload.inputs[0].shape[0])
        return InferenceResponse(model_name=self.name, outputs=[])
"""


def write_models(folder: Path) -> Path:
    for place, version in (("one", "v1"), ("two", "v2")):
        write_model(folder, place, "rows.Rows", parameters={"version": version})
        text = (folder / place / "model-settings.json").read_text().replace(f'"{place}"', '"rows"', 1)
        (folder / place / "model-settings.json").write_text(text)
        (folder / place / "rows.py").write_text(RUNTIME)
    write_model(folder, "plain", "rows.Plain")
    (folder / "plain" / "rows.py").write_text(RUNTIME)
    return folder


def counted(server: Running) -> Counter[tuple[str, str, str]]:
    """The counts of the custom metrics, by name, model and version."""
    page = httpx.get(f"http://{server.addresses['metrics']}/metrics").text
    found = re.findall(r'^(\w+)_count\{model_name="(\w+)",model_version="(\w*)"\} (\S+)$', page, re.MULTILINE)
    return Counter({(name, model, version): int(float(count)) for name, model, version, count in found})


def ask(server: Running, model: str) -> None:
    reply = server.infer(model, [1.0, 2.0])
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_mode_of_workers_counts_the_same(tmp_path: Path, workers: int) -> None:
    with serving(write_models(tmp_path), "--parallel-workers", str(workers)) as server:
        for _ in range(6):
            ask(server, "plain")
            ask(server, "rows/versions/v1")
            ask(server, "rows")
        counts = counted(server)
        for version in ("v1", "v2"):
            for name in ("rows", "in_task", "in_thread", "seconds_spent"):
                assert counts[name, "rows", version] == 6, (name, version)
            assert counts["loads", "rows", version] == max(workers, 1)
        assert (counts["rows", "plain", ""], counts["in_task", "plain", ""]) == (6, 0)
        assert httpx.post(f"{server.rest}/v2/repository/models/rows/load", timeout=60).status_code == 200
        again = sum(count for (name, model, _), count in counted(server).items() if (name, model) == ("loads", "rows"))
        assert again == 4 * max(workers, 1), "a load that is tried in a process of its own counts once"


def test_counts_outlive_their_worker(tmp_path: Path) -> None:
    with serving(write_models(tmp_path)) as server:
        ask(server, "plain")
        (worker,) = server.workers
        os.kill(worker, signal.SIGKILL)
        end = time.monotonic() + 60
        while counted(server)["loads", "plain", ""] < 2:
            assert time.monotonic() < end, server.output
            time.sleep(0.05)
        ask(server, "plain")
        assert counted(server)["rows", "plain", ""] == 2
