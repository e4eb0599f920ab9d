"""The end of a server whose model computes in threads, in the server's own process."""

from __future__ import annotations

import threading

from tests.serving import serving, write_model

MODEL = """
import asyncio, time
from pathlib import Path
from mlserve import MLModel


class Threaded(MLModel):
    async def predict(self, request):
        Path(__file__).with_name("begun").touch()
        await asyncio.to_thread(time.sleep, 600)
"""


def test_a_thread_of_a_model_does_not_hold_the_process_beyond_the_bound(tmp_path):
    place = write_model(tmp_path, "m", "models.Threaded")
    (place / "models.py").write_text(MODEL)
    with serving(tmp_path, "--parallel-workers", "0", "--set", "shutdown_timeout_seconds=2") as server:
        statuses = []
        caller = threading.Thread(target=lambda: statuses.append(server.infer("m", [1.0], timeout=100).status_code))
        caller.start()
        begun = threading.Event()
        while not (place / "begun").exists():
            begun.wait(0.01)
        assert server.stop(seconds=100) == 0
        caller.join(60)
    assert statuses == [503]
    assert "Traceback" not in server.output
    assert "threads still run, most likely of a model" in server.output
