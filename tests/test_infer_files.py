"""What `mlserve infer` makes of files: bytes that are no text, a full disk, one file for both, and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from mlserve.codecs import decode_args
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import RunningServer, running_server

MAX_SECONDS = 60.0  # a machine may be busy


class Waits(MLModel):
    """Doubles; a negative number it never answers."""

    @decode_args
    async def predict(self, x: np.ndarray) -> np.ndarray:
        if (x < 0).any():
            await anyio.sleep_forever()
        return x * 2


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(ModelSettings(name="waits", implementation=Waits)) as running:
        yield running


def line(value: float) -> bytes:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
    return json.dumps({"inputs": [tensor]}).encode()


def command(server: RunningServer, source: Path | str, target: Path | str, *more: str) -> list[str]:
    address = server.rest.removeprefix("http://")
    files = ["-i", str(source), "-o", str(target)]
    return [sys.executable, "-m", "mlserve", "infer", "-m", "waits", "-u", address, *files, *more]


def run(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=MAX_SECONDS, check=False)


def answers(target: Path) -> dict[int, Any]:
    """Values, or the message of the error, by the number of the request's line."""
    found = [json.loads(one) for one in target.read_bytes().splitlines()]
    return {
        one["parameters"]["batch_index"]: one["outputs"][0]["data"] if "outputs" in one else one["error"]["msg"]
        for one in found
    }


def test_a_byte_that_is_no_text_fails_its_line_alone(server: RunningServer, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\n".join([line(1.0), b'{"inputs": "\xff"}', line(2.0), b"\xff\xfe", line(3.0)]))
    done = run(server, source, target)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "3 answered, 2 failed" in done.stderr
    found = answers(target)
    assert {number: found[number] for number in (0, 2, 4)} == {0: [2.0], 2: [4.0], 4: [6.0]}
    assert "utf-8" in found[1] and "utf-8" in found[3]


def test_a_byte_order_mark_is_passed_over(server: RunningServer, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\xef\xbb\xbf" + line(1.0) + b"\r\n" + line(2.0) + b"\r\n")
    assert run(server, source, target).returncode == 0
    assert answers(target) == {0: [2.0], 1: [4.0]}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
@pytest.mark.parametrize("content", [line(1.0) + b"\n" + line(2.0), b"no json"])
def test_a_full_disk_is_one_line_and_an_exit_code(server: RunningServer, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in"
    source.write_bytes(content)
    done = run(server, source, "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "mlserve: error: [Errno 28] No space left on device: '/dev/full'\n"


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_file_of_the_requests_is_refused_for_the_answers(server: RunningServer, tmp_path: Path, link: Any) -> None:
    source, target = tmp_path / "in", tmp_path / "in" if link is None else tmp_path / "out"
    source.write_bytes(line(1.0))
    if link is not None:
        link(source, target)
    done = run(server, source, target)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{target} is the file of the requests" in done.stderr
    assert source.read_bytes() == line(1.0)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_loses_no_answer_that_has_come(
    server: RunningServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\n".join([*map(line, map(float, range(8))), line(-1.0), line(-2.0)]))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # one that is ignored would be by the child too
    process = subprocess.Popen(command(server, source, target, "-w", "2"), stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, handler)
    with process:
        until = time.monotonic() + MAX_SECONDS
        while not (target.exists() and target.read_bytes().count(b"\n") == 8) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        _, told = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == code
    assert answers(target) == {number: [number * 2.0] for number in range(8)}
    if number is not signal.SIGKILL:
        assert told == f"mlserve: ended by {number.name}; the answers that had come by then are in {target}\n"


def fed(server: RunningServer, target: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command with a pipe for its requests."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    words = command(server, "/dev/stdin", target, *more)
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, handler)
    return process


def write(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(content)
    process.stdin.flush()


def wait_for_answers(target: Path, count: int) -> None:
    until = time.monotonic() + MAX_SECONDS
    while not (target.exists() and target.read_bytes().count(b"\n") == count):
        assert time.monotonic() < until, f"waited {MAX_SECONDS} s for {count} answers"
        time.sleep(0.02)


needs_stdin = pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="has no /dev/stdin")


@needs_stdin
@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_answers_are_written_while_a_pipe_is_silent(server: RunningServer, tmp_path: Path, transport: str) -> None:
    target = tmp_path / "out"
    more = ("-t", "grpc", "-u", server.grpc.removeprefix("grpc://")) if transport == "grpc" else ()
    with fed(server, target, *more) as process:
        for number in range(3):  # each only after the answer of the one before
            write(process, line(number) + b"\n")
            wait_for_answers(target, number + 1)
        _, told = process.communicate(timeout=MAX_SECONDS)
    assert (process.returncode, told.startswith(b"3 answered, 0 failed")) == (0, True), told
    assert answers(target) == {0: [0.0], 1: [2.0], 2: [4.0]}


@needs_stdin
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_while_a_pipe_is_silent(
    server: RunningServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    target = tmp_path / "out"
    with fed(server, target) as process:
        write(process, line(1.0) + b"\n")
        wait_for_answers(target, 1)
        process.send_signal(number)
        try:
            assert process.wait(timeout=MAX_SECONDS) == code  # the pipe is still open
        finally:
            process.kill()
    assert answers(target) == {0: [2.0]}


# -- what the shell has opened -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_what_is_piped_in_comes_out_as_answers_alone(server: RunningServer, source: str, target: str) -> None:
    given = line(1.0) + b"\n\n" + line(2.0) + b"\nno json\n"
    done = subprocess.run(command(server, source, target, "-v"), input=given, capture_output=True, timeout=MAX_SECONDS)
    assert done.returncode == 1
    found = {one["parameters"]["batch_index"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert {number: found[number]["outputs"][0]["data"] for number in (0, 2)} == {0: [2.0], 2: [4.0]}
    assert found.keys() == {0, 2, 3}
    assert b"2 answered, 1 failed" in done.stderr


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/proc/self/fd/1"])
def test_answers_are_appended_where_the_shell_appends(server: RunningServer, tmp_path: Path, target: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"a line that is read before\n" + line(1.0) + b"\n")
    out.write_bytes(b"kept\n")
    with source.open("rb", buffering=0) as requests, out.open("ab") as appended:
        requests.seek(len(b"a line that is read before\n"))
        done = subprocess.run(
            command(server, "-", target), stdin=requests, stdout=appended, timeout=MAX_SECONDS, check=False
        )
    assert done.returncode == 0
    kept, answer = out.read_bytes().splitlines()
    assert kept == b"kept"
    assert json.loads(answer)["outputs"][0]["data"] == [2.0]


def test_the_file_of_the_requests_is_refused_by_its_descriptor_too(server: RunningServer, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(line(1.0) + b"\n")
    with source.open("ab") as appended:
        done = subprocess.run(
            command(server, source, "-"), stdout=appended, stderr=subprocess.PIPE, timeout=MAX_SECONDS, check=False
        )
    assert done.returncode == 1
    assert b"- is the file of the requests" in done.stderr
    assert source.read_bytes() == line(1.0) + b"\n"


def test_a_reader_that_has_gone_is_one_line_and_an_exit_code(server: RunningServer, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(line(1.0) + b"\n")
    read, write_end = os.pipe()
    os.close(read)
    done = subprocess.run(
        command(server, source, "-"), stdout=write_end, stderr=subprocess.PIPE, timeout=MAX_SECONDS, check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"mlserve: error: [Errno 32] Broken pipe: '-'\n")


def test_a_descriptor_that_does_not_wait_loses_nothing(server: RunningServer) -> None:
    """Other programs leave pipes so; silence would then be the end of the input."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    process = subprocess.Popen(command(server, "-", "-"), stdin=read_end, stdout=subprocess.PIPE)
    os.close(read_end)
    assert process.stdout is not None
    for value in (1.0, 2.0):
        os.write(write_end, line(value) + b"\n")
        assert json.loads(process.stdout.readline())["outputs"][0]["data"] == [value * 2]
    os.close(write_end)
    assert process.wait(MAX_SECONDS) == 0
    process.stdout.close()
