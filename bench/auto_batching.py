"""Does "max_batch_time": "auto" hold its target over changing load, and how do fixed settings do there?

    python bench/auto_batching.py                      about 7 minutes: four costs, seven ways of batching
    python bench/auto_batching.py --costs knee --ways "auto;size 64"
    python bench/auto_batching.py --simulated          the same rules and loads on a simulated timeline: half a minute

One server, one worker for each model; models that sleep as a formula says (apps/costs.py), so that the machine is not
what is measured. Calls come by chance (Poisson), whether or not earlier ones are answered: steps of 15, 120, 280 and 30
a second, a ramp from 30 to 360, and two bursts of 60 calls at once. The figures of every half second go to
figures/auto_batching.csv, a table to the terminal, and the picture is made by auto_batching_plot.py in an environment
of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gc
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from peers import OURS, PEERS, make_environment
from report import busy_note
from servers import Model, Server, exit_on_sigterm

TARGET = 0.25
HERE = Path(__file__).parent
FIGURES = HERE / "figures"
STEPS = (15, 120, 280, 30)
STEP_SECONDS, RAMP_SECONDS = 2.5, 8.0
RAMP = (30, 360)
SLICE = 0.5
BURSTS = ((4.0, 60), (9.0, 60))  # when, and how many calls at once
MOST_UNDER_WAY = 1500  # a call that finds so many is not sent: its client has given up

COSTS = ("constant", "linear", "square root", "knee")
WAYS: dict[str, dict[str, Any]] = {
    "auto": {"max_batch_time": "auto", "target_latency_seconds": TARGET},
    "auto, awaits": {"max_batch_time": "auto", "target_latency_seconds": TARGET},
    "auto, patient": {"max_batch_time": "auto", "target_latency_seconds": TARGET, "batch_eager": False},
    "size 8": {"max_batch_size": 8, "max_batch_time": 0.1},
    "size 32": {"max_batch_size": 32, "max_batch_time": 0.1},
    "size 64": {"max_batch_size": 64, "max_batch_time": 0.1},
    "size 64, patient": {"max_batch_size": 64, "max_batch_time": 0.1, "batch_eager": False},
}
AWAITING = ("auto, awaits",)  # with a model that awaits the time it takes, one batch at a time


def rate_at(now: float) -> float:
    """Calls per second; 0 at the end."""
    steps = STEP_SECONDS * len(STEPS)
    if now < steps:
        return STEPS[int(now / STEP_SECONDS)]
    share = (now - steps) / RAMP_SECONDS
    return RAMP[0] + share * (RAMP[1] - RAMP[0]) if share < 1 else 0


def arrivals() -> Iterator[float]:
    """When calls come, the same for every run."""
    chance, now = random.Random(7), 0.0
    bursts = list(BURSTS)
    while rate := rate_at(now):
        now += chance.expovariate(rate)
        if bursts and now > bursts[0][0]:
            at, calls = bursts.pop(0)
            yield from [at] * calls
        yield now


# -- the load ----------------------------------------------------------------------------------------------------------


class Caller(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self, idle: list[Caller]) -> None:
        self._idle = idle
        self._data = b""
        self._ended: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # a TCP transport it is

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]):
            self._end(head.startswith(b"HTTP/1.1 200") and b'"data":[2.0,4.0]' in body)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(False)

    def _end(self, right: bool) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(right)

    async def call(self, request: bytes) -> bool:
        """Sends; whether the answer was right."""
        self._data, self._ended = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._ended


async def load(port: int, model: str) -> list[tuple[float, float]]:
    """When each call was due, and how long after that its answer was there; infinite for one without an answer."""
    body = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]})
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    idle: list[Caller] = []
    found: list[tuple[float, float]] = []
    under_way = 0

    async def ask(due: float) -> None:
        nonlocal under_way
        under_way += 1
        caller = idle.pop() if idle else (await loop.create_connection(lambda: Caller(idle), "127.0.0.1", port))[1]
        right = await caller.call(request)
        found.append((due, time.perf_counter() - began - due if right else float("inf")))
        idle.append(caller)
        under_way -= 1

    for _ in range(64):
        idle.append((await loop.create_connection(lambda: Caller(idle), "127.0.0.1", port))[1])
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for due in arrivals():
            if (wait := began + due - time.perf_counter()) > 0.001:
                await asyncio.sleep(wait)
            if under_way < MOST_UNDER_WAY:
                tasks.create_task(ask(due))
            else:
                found.append((due, float("inf")))
    for caller in idle:
        caller._transport.close()
    return sorted(found)


# -- what it says ------------------------------------------------------------------------------------------------------


def slices(found: list[tuple[float, float]]) -> list[dict[str, float]]:
    """The figures of every half second, by when calls were due."""
    rows = []
    for place in range(int(found[-1][0] / SLICE)):
        at = place * SLICE
        seconds = [one for due, one in found if at <= due < at + SLICE]
        if seconds:
            rows.append(
                {
                    "second": at + SLICE / 2,
                    "rate": len(seconds) / SLICE,
                    "p50_ms": 1e3 * _quantile(seconds, 0.5),
                    "p99_ms": 1e3 * _quantile(seconds, 0.99),
                }
            )
    return rows


def summary(found: list[tuple[float, float]]) -> dict[str, float]:
    """Of a whole run: its quantiles, the share of late calls, and the highest rate until which the target was held."""
    seconds = [one for _, one in found]
    ramp = [one for one in found if one[0] >= STEP_SECONDS * len(STEPS)]
    bad = [due for due, one in _windows(ramp) if one > TARGET]
    return {
        "p50 ms": 1e3 * _quantile(seconds, 0.5),
        "p99 ms": 1e3 * _quantile(seconds, 0.99),
        "late %": 100 * sum(1 for one in seconds if one > TARGET) / len(seconds),
        "p50 ms at 15/s": 1e3 * _quantile([one for due, one in found if due < STEP_SECONDS], 0.5),
        "held up to /s": rate_at(bad[0]) if bad else RAMP[1],
    }


def _windows(found: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Where each second of calls begins, and its 99th percentile."""
    at = found[0][0]
    while at < found[-1][0] - 1:
        yield at, _quantile([one for due, one in found if at <= due < at + 1], 0.99)
        at += 0.25


def _quantile(seconds: list[float], share: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def scrape(port: int, model: str) -> dict[str, float]:
    """Sums and counts of a model's batches, and its busy seconds."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    wanted = ("batch_requests_sum", "batch_requests_count", "bench_busy_seconds_sum")
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if f'model_name="{model}"' in line]
    found = {name.split("{")[0]: float(value) for name, value in lines}
    return {name: found.get(name, 0.0) for name in wanted}


def real(cost: str, way: str) -> tuple[list[tuple[float, float]], float, float]:
    """The calls of one run against a server, the seconds its worker was busy, and the mean size of its batches."""
    name = f"{cost}-{way}".replace(" ", "").replace(",", "")
    settings = {
        "implementation": "costs.Awaiting" if way in AWAITING else "costs.Costs",
        "parameters": {"extra": {"cost": cost}},
        "request_timeout_seconds": 2.0,
        **WAYS[way],
    }
    with Server(PEERS[OURS], [Model(name, settings, (HERE / "apps" / "costs.py",))]) as server:
        found = asyncio.run(load(server.ports.http, name))
        counted = scrape(server.ports.metrics, name)
    batches = max(1.0, counted["batch_requests_count"])
    return found, counted["bench_busy_seconds_sum"], counted["batch_requests_sum"] / batches


def simulated(cost: str, way: str) -> tuple[list[tuple[float, float]], float, float]:
    """The same on a timeline without a machine: the server's own rules, each batch as long as the formula says."""
    sys.path.insert(0, str(HERE.parent))
    sys.path.insert(0, str(HERE / "apps"))
    from costs import COSTS as formulas

    from mlserve.batching import rule_of
    from mlserve.settings import ModelSettings
    from tests.queueing import simulate, simulate_awaiting

    rule = rule_of(ModelSettings(name=cost, implementation="costs.Costs", **WAYS[way]))
    outcome = (simulate_awaiting if way in AWAITING else simulate)(
        rule, [(due, 1) for due in arrivals()], formulas[cost]
    )
    found = sorted(zip(outcome.arrived, outcome.seconds))
    return found, outcome.busy_seconds, sum(outcome.batches) / len(outcome.batches)


def main() -> None:
    """Measure, print, save, draw."""
    options = _options()
    exit_on_sigterm()
    gc.disable()
    runs = [(cost, way) for cost in options.costs for way in options.ways]
    print(busy_note(), end="")
    rows: list[dict[str, Any]] = []
    run = simulated if options.simulated else real
    print(
        f"{'cost':12} {'batching':18} {'p50 ms':>8} {'p99 ms':>8} {'late %':>7} {'p50@15/s':>9} {'held to':>8} "
        "busy  batch"
    )
    for cost, way in runs:
        found, busy_seconds, batch = run(cost, way)
        total = summary(found)
        busy = 100 * busy_seconds / found[-1][0]
        print(
            f"{cost:12} {way:18} {total['p50 ms']:8.1f} {total['p99 ms']:8.1f} {total['late %']:7.2f} "
            f"{total['p50 ms at 15/s']:9.1f} {total['held up to /s']:8.0f} {busy:3.0f}% {batch:6.1f}",
            flush=True,
        )
        rows += [{"cost": cost, "batching": way, **one} for one in slices(found)]
    FIGURES.mkdir(exist_ok=True)
    with (FIGURES / "auto_batching.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: f"{one:.4g}" if isinstance(one, float) else one for key, one in row.items()} for row in rows
        )
    python = make_environment(HERE / ".venv-plot", ["matplotlib"])
    subprocess.run([str(python), str(HERE / "auto_batching_plot.py")], check=True)


def _options() -> argparse.Namespace:
    def names(known: Any) -> Any:
        return lambda text: [
            one for one in text.split(";") if one in known or parser.error(f"'{one}' is none of {known}")
        ]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", action="store_true", help="without a server and without waiting")
    parser.add_argument("--costs", type=names(COSTS), default=list(COSTS), help="; between them")
    parser.add_argument("--ways", type=names(list(WAYS)), default=list(WAYS), help="; between them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
