"""Everything at once against a started server: right answers, no lost ones, probes that answer, nothing left behind.

Five minutes of trouble in two: see the phases in `_chaos`. The seed is printed, and may be given as CHAOS_SEED. Beside
all of it runs one synchronous predict of a minute, and a prober asks for the server's health ten times a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.chaos_clients import LOST_AFTER_SECONDS, Grpc, Rest, Wrong
from tests.chaos_models import MODELS, Case, write_all
from tests.serving import Running, is_alive, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

SECONDS = float(os.environ.get("CHAOS_SECONDS", "12"))  # of each phase
CLIENTS = 12
RIGHT = ("plain", "batched", "patient", "waiting")  # models that answer every request
PROBE_MS = 100.0


class Ledger:
    """What became of every request. Each comes here exactly once."""

    def __init__(self) -> None:
        self.sent = 0
        self.outcomes: dict[str, Counter[str]] = {}
        self.allowed: dict[str, set[str]] = {}
        self.begun: dict[str, float] = {}  # when each phase began

    def phase(self, name: str, *allowed: str) -> None:
        self.name = name
        self.begun[name] = time.time()
        self.outcomes[name] = Counter()
        self.allowed[name] = {"200", *allowed}

    def note(self, outcome: object) -> None:
        self.outcomes[self.name][str(outcome)] += 1

    def verify(self) -> None:
        for name, outcomes in self.outcomes.items():
            print(f"{name:12} {sum(outcomes.values()):6} requests: {dict(sorted(outcomes.items()))}")
        assert self.sent == sum(sum(found.values()) for found in self.outcomes.values()), "an answer got lost"
        for name, outcomes in self.outcomes.items():
            assert set(outcomes) <= self.allowed[name], f"{name}: {set(outcomes) - self.allowed[name]}"
            assert outcomes["200"], f"{name}: nothing was answered"


class Client:
    """Sends random requests, one after the other, over either transport; notes each outcome."""

    def __init__(self, server: Running, ledger: Ledger, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.rest = Rest(server.rest.removeprefix("http://"))
        self.grpc = Grpc(server.grpc)
        self._ledger = ledger
        self._count = 0
        self._seed = seed

    async def close(self) -> None:
        self.rest.drop()
        await self.grpc.close()

    async def run_until(self, end: float, once) -> None:
        while time.monotonic() < end:
            await self.ask(once)

    async def ask(self, once) -> None:
        self._count += 1
        self._ledger.sent += 1
        try:
            async with asyncio.timeout(LOST_AFTER_SECONDS):
                outcome = await once(self, f"{self._seed}-{self._count}")
        except TimeoutError:
            outcome = "lost"
        except Wrong as error:
            print(error)
            outcome = "wrong"
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            outcome = f"cut ({type(error).__name__})"
        self._ledger.note(outcome)


async def right(client: Client, request_id: str) -> int:
    """A request that every model answers, over one of three ways."""
    case, model = Case(client.random), str(client.random.choice(RIGHT))
    way = client.random.random()
    if way < 0.1:
        return await client.rest.stream("waiting", case, request_id)
    if way < 0.55:
        return await client.rest.infer(model, case, request_id)
    return await client.grpc.infer(model, case, request_id)


async def impatient(client: Client, request_id: str) -> int | str:
    """A request with a short deadline, or whose client goes away after a random time."""
    case, model = Case(client.random), str(client.random.choice(RIGHT))
    seconds = float(client.random.exponential(0.01)) + 0.0005
    way = client.random.random()
    if way < 0.25:
        return await client.rest.infer(model, case, request_id, f"X-Request-Timeout: {seconds:.6f}")
    if way < 0.5:
        return await client.grpc.infer(model, case, request_id, seconds)
    if way < 0.6:
        call = client.rest.stream("waiting", case, request_id)
    else:
        call = (client.rest if way < 0.8 else client.grpc).infer(model, case, request_id)
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        return "left"


async def crashing(client: Client, request_id: str) -> int:
    """Now and then a request that ends its worker."""
    if client.random.random() < 0.02:
        return await client.rest.infer("crasher", Case.number(-1.0 - client.random.integers(3)), request_id)
    return await right(client, request_id)


async def flooding(client: Client, request_id: str) -> int:
    """For a model that can do 50 calls in a second and lets 20 wait."""
    status = await client.rest.infer("tight", Case.number(0.02), request_id)
    if status == 429:
        await asyncio.sleep(0.05)
    return status


# -- what happens beside the requests ---------------------------------------------------------------------------------


async def _kill_workers(server: Running, spared: set[int], seed: int, end: float) -> int:
    """Ends workers in two ways, each some seconds after the last; three at least, if it takes a minute longer."""
    random, killed = np.random.default_rng(seed), 0
    while time.monotonic() < (end if killed >= 3 else end + 60):
        await asyncio.sleep(2.0)
        workers = [pid for pid in server.workers if pid not in spared]
        if workers:
            victim = int(random.choice(workers))
            if killed % 2:
                os.kill(victim, signal.SIGSTOP)
                await asyncio.sleep(0.2)
            os.kill(victim, signal.SIGKILL)
            killed += 1
    return killed


async def _reload(server: Running, folder: Path, seed: int, end: float) -> int:
    """Loads models again, with edited code, over both transports' heads; three at least."""
    random, reloads = np.random.default_rng(seed), 0
    rest = Rest(server.rest.removeprefix("http://"))
    while time.monotonic() < end or reloads < 3:
        name = str(random.choice(RIGHT))
        (folder / name / "models.py").write_text(MODELS.replace("VERSION = 1", f"VERSION = {reloads}"))
        status, answer = await rest.post(f"/v2/repository/models/{name}/load", b"")
        assert status == 200, answer
        reloads += 1
    rest.drop()
    return reloads


async def _several(server: Running, ledger: Ledger, seed: int, once, seconds: float, count: int = CLIENTS, beside=()):
    """Clients that ask for so long, and what runs beside them; what the latter gave."""
    clients = [Client(server, ledger, seed * 1000 + n) for n in range(count)]
    end = time.monotonic() + seconds
    others = [asyncio.create_task(make(end)) for make in beside]  # awaited below, in a test
    await asyncio.gather(*(client.run_until(end, once) for client in clients))
    found = await asyncio.gather(*others)
    await asyncio.gather(*(client.close() for client in clients))
    return found


async def _ready(server: Running) -> None:
    async with httpx.AsyncClient() as client:
        while (await client.get(f"{server.rest}/v2/health/ready")).status_code != 200:
            await asyncio.sleep(0.05)


async def _chaos(server: Running, folder: Path, ledger: Ledger, seed: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    slow = {int(one.name.removeprefix("pid-")) for one in (folder / "slow").glob("pid-*")}
    ledger.phase("calm")
    await _several(server, ledger, seed, right, SECONDS)
    await _idle(server)
    figures["memory before, MiB"] = _memory_mib(server.pid)
    figures["descriptors before"] = _descriptors(server.pid)
    ledger.phase("impatience", "504", "499", "left", "cut (ConnectionResetError)")
    await _several(server, ledger, seed + 1, impatient, SECONDS)
    ledger.phase("reloads")
    (figures["reloads"],) = await _several(
        server, ledger, seed + 2, right, SECONDS, beside=[lambda end: _reload(server, folder, seed, end)]
    )
    ledger.phase("overload", "429")
    await _several(server, ledger, seed + 3, flooding, SECONDS, count=60)
    ledger.phase("kills", "503")
    (figures["workers killed"],) = await _several(
        server, ledger, seed + 4, right, SECONDS, beside=[lambda end: _kill_workers(server, slow, seed, end)]
    )
    await _ready(server)
    ledger.phase("crashes", "503", "500")
    await _several(server, ledger, seed + 5, crashing, SECONDS)
    await _ready(server)
    ledger.phase("calm again")
    await _several(server, ledger, seed + 6, right, SECONDS / 2)
    await _idle(server)
    return figures


# -- looking at the server --------------------------------------------------------------------------------------------


def _memory_mib(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _metric(server: Running, series: str) -> float:
    text = httpx.get(f"http://{server.addresses['metrics']}/metrics").text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series))


async def _idle(server: Running) -> None:
    """Waits until nothing is under way but the call of a minute, and memory has been given back."""
    async with asyncio.timeout(60):
        while _metric(server, "calls_waiting") or _metric(server, "calls_running") > 1:
            await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)


@contextmanager
def _probing(server: Running):
    """Rounds of probes, in ms, once the context is left."""
    rounds: list[list[float]] = []
    command = [sys.executable, "-m", "tests.prober", server.addresses["REST"], server.grpc, str(server.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as prober:
        assert prober.stdin is not None and prober.stdout is not None
        assert prober.stdout.readline() == "ready\n"
        try:
            yield rounds
        finally:
            prober.stdin.close()
            rounds += json.loads(prober.stdout.read())


def _verify_probes(rounds: list[list[float]], ledger: Ledger) -> None:
    """Under the bound, but for the time in which the machine gave the server no processor."""
    table = np.array(rounds)
    names, begun = list(ledger.begun), list(ledger.begun.values())
    for name, took, starved in (("REST", table[:, 0], table[:, 1]), ("gRPC", table[:, 2], table[:, 3])):
        own = took - starved
        print(f"{len(took)} probes over {name}: median {np.median(took):.2f} ms, 99 % {np.quantile(took, 0.99):.1f} ms")
        for place in np.argsort(own)[:-4:-1]:
            phase = names[max(0, int(np.searchsorted(begun, table[place, 4])) - 1)]
            print(f"  slow: {took[place]:.1f} ms, {starved[place]:.1f} of them without a processor, in '{phase}'")
        slowest = np.sort(own)[:-4:-1]
        assert slowest[1] < PROBE_MS, f"probes over {name} took {slowest} ms"  # what blocks does so again and again


def test_a_server_in_all_kinds_of_trouble_answers_right_and_loses_nothing(tmp_path):
    seed = int(os.environ.get("CHAOS_SEED", time.time()))
    print(f"\nseed {seed}")
    write_all(tmp_path)
    before = set(os.listdir("/dev/shm"))
    ledger = Ledger()
    with serving(tmp_path, "--parallel-workers", "2", "--set", "shutdown_timeout_seconds=20") as server:
        minute = subprocess.Popen([sys.executable, "-c", _MINUTE, server.rest], stdout=subprocess.PIPE, text=True)
        with _probing(server) as rounds:
            figures = asyncio.run(_chaos(server, tmp_path, ledger, seed))
        assert minute.communicate(timeout=90)[0].strip() == "200", "the call of a minute was answered"
        figures["memory after, MiB"] = _memory_mib(server.pid)
        figures["descriptors after"] = _descriptors(server.pid)
        figures["restarts"] = _metric(server, "worker_restarts_total")
        workers = server.workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        _until(lambda: not any(is_alive(pid) for pid in workers) and _metric(server, "workers_ready") == 3)
        figures["slots lent at the end"] = _metric(server, 'slot_memory_bytes{state="lent"}')
        workers = server.workers
        assert server.stop() == 0
        assert not any(is_alive(pid) for pid in workers)
    print(", ".join(f"{name}: {value:.0f}" for name, value in figures.items()))
    ledger.verify()
    _verify_probes(rounds, ledger)
    assert figures["slots lent at the end"] == 0, "no worker has one, so nobody does"
    assert figures["descriptors after"] <= figures["descriptors before"] + 10
    assert figures["memory after, MiB"] <= figures["memory before, MiB"] + 60
    assert figures["workers killed"] >= 3 and figures["reloads"] >= 3
    _until(lambda: not {one for one in set(os.listdir("/dev/shm")) - before if one.startswith("psm_")})
    assert "Traceback" not in server.output


_MINUTE = """
import sys, httpx
tensor = {"name": "a", "datatype": "FP64", "shape": [1], "data": [60.0]}
print(httpx.post(sys.argv[1] + "/v2/models/slow/infer", json={"inputs": [tensor]}, timeout=100).status_code)
"""


def _until(condition, seconds: float = 100.0) -> None:  # a worker that died often pauses for up to 30 s
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen in {seconds} s"
        time.sleep(0.05)
