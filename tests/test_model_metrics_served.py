"""Metrics that a runtime makes with prometheus_client, on the page of the started program."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.serving import Running, serving, write_model

pytestmark = pytest.mark.slow

RUNTIME = """
import os
import time
from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceResponse
from prometheus_client import Counter, Gauge, Histogram, Summary

TOKENS = Counter("model_input_tokens", "Tokens that came in.", ["model"])
CALLS = Counter("model_calls", "Calls.")

class Counting(MLModel):
    def __init__(self, settings):
        super().__init__(settings)
        self.spent = Histogram("model_spent_seconds", "Seconds.")
        self.size = Summary("model_size", "Sizes.")

    async def load(self):
        self.largest = Gauge("model_largest", "The largest.", multiprocess_mode="max")
        return True

    def predict(self, payload):
        CALLS.inc()
        TOKENS.labels(model=self.name).inc(5)
        self.size.observe(2)
        self.largest.set(7)
        with self.spent.time():
            while Path(__file__).with_name("wait").exists():
                Path(__file__).with_name("waits").touch()
                time.sleep(0.01)
        return InferenceResponse(model_name=self.name, outputs=[])
"""


def write_models(folder: Path) -> Path:
    for name in ("one", "two"):
        (write_model(folder, name, "counting.Counting") / "counting.py").write_text(RUNTIME)
    return folder


def page(server: Running) -> dict[tuple[str, str], float]:
    """The samples of models, by name and label `model`."""
    text = httpx.get(f"http://{server.addresses['metrics']}/metrics", timeout=60).text
    samples = [one for family in parse_text(text) for one in family.samples if one.name.startswith("model_")]
    return {(one.name, one.labels.get("model", "")): one.value for one in samples}


def ask(server: Running, model: str) -> None:
    answer = server.infer(model, [1.0])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_all_kinds_are_shown_and_outlive_reloads(tmp_path: Path, workers: int) -> None:
    with serving(write_models(tmp_path), "--parallel-workers", str(workers)) as server:
        for turn in range(1, 4):
            for model in ("one", "one", "two"):
                ask(server, model)
            shown = page(server)
            assert shown["model_input_tokens_total", "one"] == 10 * turn
            assert shown["model_input_tokens_total", "two"] == 5 * turn
            assert shown["model_calls_total", ""] == 3 * turn
            assert shown["model_spent_seconds_count", ""] == 3 * turn
            assert (shown["model_size_count", ""], shown["model_size_sum", ""]) == (3 * turn, 6 * turn)
            assert shown["model_largest", ""] == 7
            assert httpx.post(f"{server.rest}/v2/repository/models/one/load", timeout=60).status_code == 200


def test_nothing_that_was_counted_goes_with_a_killed_worker(tmp_path: Path) -> None:
    with serving(write_models(tmp_path)) as server:
        for _ in range(3):
            ask(server, "one")
        (worker,) = server.workers
        os.kill(worker, signal.SIGKILL)
        assert page(server)["model_calls_total", ""] == 3
        ask(server, "one")
        assert page(server)["model_calls_total", ""] == 4
        assert worker not in server.workers


def test_a_worker_that_computes_is_no_reason_to_wait(tmp_path: Path) -> None:
    with serving(write_models(tmp_path)) as server, ThreadPoolExecutor(1) as others:
        ask(server, "one")
        (tmp_path / "one" / "wait").touch()
        asked = others.submit(ask, server, "one")
        end = time.monotonic() + 60
        while not (tmp_path / "one" / "waits").exists():
            assert time.monotonic() < end, server.output
            time.sleep(0.01)
        shown = page(server)
        (tmp_path / "one" / "wait").unlink()
        asked.result(60)
        assert shown["model_calls_total", ""] == 2
        assert shown["model_spent_seconds_count", ""] == 1
