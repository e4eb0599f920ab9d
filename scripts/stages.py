"""Runs the stages of scripts/test, as many side by side as the machine has processors; exits with 1 if one failed.

A stage's output comes whole, when the stage has ended.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import anyio
import anyio.abc

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20.0  # seconds that an interrupted stage has to end what it has started


@dataclass(eq=False)
class Stage:
    name: str
    command: list[str]
    after: Stage | None = None  # makes its environment
    code: int | None = None  # how it ended
    seconds: float = 0.0
    output: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    async def run(self) -> None:
        """Runs the command; a stage whose environment could not be made fails without."""
        if self.after is not None and self.after.code != 0:
            self.output.write(f"not run, since this failed: {self.after.name}\n".encode())
            self.code = 1
            return
        begun = time.monotonic()
        try:
            # A session of its own: Ctrl-C comes from here alone, and to all that the stage has started.
            process = await anyio.open_process(
                self.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self.output.write(f"{error}\n".encode())
            self.code = 1
            return
        try:
            self.code = await process.wait()
        finally:
            if self.code is None:
                await self._end(process)
            self.seconds = time.monotonic() - begun

    async def _end(self, process: anyio.abc.Process) -> None:
        os.killpg(process.pid, signal.SIGINT)  # pytest ends the servers of its tests
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(PATIENCE):
                await process.wait()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def tell(self) -> None:
        print(f"\n== {self.name}", flush=True)
        self.output.seek(0)
        shutil.copyfileobj(self.output, sys.stdout.buffer)
        sys.stdout.flush()


def pytest(name: str, *arguments: str, made: Stage | None = None) -> Stage:
    """A run of pytest in the environment that another stage makes, or in the one that scripts/test has made."""
    folder = ".venv" if made is None else made.command[1]
    return Stage(name, [f"{folder}/bin/python", "-m", "pytest", "-q", *arguments], made)


def environment(name: str, python: str, resolution: str, group: str) -> Stage:
    return Stage(f"environment {name}", ["scripts/environment", f".venv-{name}", python, resolution, group])


def pythons() -> dict[str, str]:
    """The interpreters of this machine that can run the project, by version, from the oldest to the newest."""
    folders = [*os.environ["PATH"].split(os.pathsep), *map(str, Path.home().glob(".pyenv/versions/*/bin"))]
    found: dict[tuple[int, ...], str] = {}
    for python in (str(path) for folder in folders for path in sorted(Path(folder).glob("python3*"))):
        if re.search(r"/python3(\.\d+)?$", python):
            found.setdefault(_version(python), python)
    usable = sorted(version for version in found if (3, 10) <= version < (3, 15))
    return {".".join(map(str, version)): found[version] for version in usable} or {"own": sys.executable}


def _version(python: str) -> tuple[int, ...]:
    """Of a released interpreter that can make environments; of any other, and of one in an environment, nothing."""
    ask = "import sys, venv, ssl; v = sys.version_info; print(*v[:2], v.releaselevel, sys.prefix == sys.base_prefix)"
    try:
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.split()
    except OSError:  # a folder, or a link to nothing
        return ()
    return (int(answer[0]), int(answer[1])) if answer[2:] == ["final", "True"] else ()


def all_stages() -> list[Stage]:
    """Everything there is to run, in the order in which it begins where it can: first what others wait for, then the
    long ones. Each runtime has a stage: what a framework does to a process stays there.
    """
    lines = (ROOT / "scripts/suites").read_text(encoding="utf-8").splitlines()
    suites = {group: runtimes for group, *runtimes in map(str.split, lines) if not group.startswith("#")}
    versions = pythons()
    oldest, *_, newest = [*versions, *versions]

    checks = [
        Stage("style", [".venv/bin/ruff", "check", "."]),
        Stage("format", [".venv/bin/ruff", "format", "--check", "."]),
        Stage("types", [".venv/bin/mypy"]),
    ]
    lowest = environment(oldest, versions[oldest], "lowest-direct", "dev")
    made = {group: environment(group, os.environ.get("PYTHON", "python3"), "highest", group) for group in suites}
    del made["dev"]
    tests = [
        pytest("slow tests", "-m", "slow"),
        pytest("fast tests", "-m", "not slow"),
        pytest(f"fast tests, Python {oldest}, lowest versions", "-m", "not slow", made=lowest),
    ]
    if newest != oldest:
        made[newest] = environment(newest, versions[newest], "highest", "dev")
        tests.append(pytest(f"fast tests, Python {newest}", "-m", "not slow", made=made[newest]))
    for group, runtimes in suites.items():
        tests += [pytest(f"runtimes/{name}, {group}", f"runtimes/{name}", made=made.get(group)) for name in runtimes]
    for name in suites["dev"]:
        tests.append(pytest(f"runtimes/{name}, lowest versions", f"runtimes/{name}", "-m", "not slow", made=lowest))
    return [*checks, lowest, *made.values(), *tests, pytest("gRPC on trio", "-m", "own_process")]


async def run_side_by_side(stages: list[Stage], lanes: int) -> None:
    """Runs them all, `lanes` at a time; each next one is the first that can begin."""
    waiting = list(stages)
    ended = anyio.Condition()

    async def lane() -> None:
        while waiting:
            stage = next((one for one in waiting if one.after is None or one.after.code is not None), None)
            if stage is None:
                async with ended:
                    await ended.wait()
                continue
            waiting.remove(stage)
            try:
                await stage.run()
            finally:
                stage.tell()
            async with ended:
                ended.notify_all()

    async with anyio.create_task_group() as group:
        for _ in range(lanes):
            group.start_soon(lane)


async def main() -> int:
    stages = all_stages()
    async with anyio.create_task_group() as group:
        group.start_soon(_end_on_signal, group.cancel_scope)
        await run_side_by_side(stages, os.cpu_count() or 1)
        group.cancel_scope.cancel()
    print("\n== summary")
    for stage in stages:
        result = {0: "ok", None: "not ended"}.get(stage.code, "FAILED")
        print(f"{result:10}{stage.seconds:5.0f} s  {stage.name}")
    return int(any(stage.code != 0 for stage in stages))


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()


if __name__ == "__main__":
    sys.exit(anyio.run(main))
