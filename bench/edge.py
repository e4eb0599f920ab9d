"""What the HTTP edge costs: processor time per small request and per body received, ours against stock Hypercorn.

    python bench/edge.py                              small requests and bodies, uvloop, fast and stock
    python bench/edge.py --backends uvloop,asyncio,trio --modes fast
    python bench/edge.py small --connections 1,16,64 --seconds 2 --rounds 3
    python bench/edge.py bodies --megabytes 4,40 --rounds 5

Each server runs in a process of its own with an application that answers 200 bytes, or that reads a body whole; this
process makes the load over raw sockets. The figures are the server's processor time (user and system) per request, in
microseconds, and requests per second; of `--rounds` rounds, in which the servers take turns, the median is shown. The
machine may be busy with other things: compare figures of one run only.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GET = (
    b"GET /v2/health/ready HTTP/1.1\r\n"
    b"Host: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"
)
ANSWER_BODY = b"x" * 200


# -- the server's process --------------------------------------------------------------------------------------------


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers GET with 200 bytes, and POST with the size of its body."""
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    body = ANSWER_BODY
    if scope["method"] == "POST":
        read = scope["extensions"].get("mlserve.body")
        body = b"%d" % len(await read(1 << 30) if read and scope["path"] == "/short-cut" else await collect(receive))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def collect(receive: Any) -> bytes:
    """The body as plain ASGI hands it out."""
    pieces = []
    while True:
        message = await receive()
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


def run_server(backend: str, mode: str, tune: bool) -> None:
    """Serve until standard input ends; print the port."""
    import anyio

    from mlserve import malloc
    from mlserve.rest.serve import serve

    if tune:
        malloc.tune()

    async def main() -> None:
        async def until_input_ends() -> None:
            await anyio.to_thread.run_sync(sys.stdin.read)

        async with anyio.create_task_group() as tasks:

            async def start(*, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
                await serve(
                    application,
                    host="127.0.0.1",
                    port=0,
                    shutdown_trigger=until_input_ends,
                    fast=mode == "fast",
                    graceful_timeout=0.1,
                    task_status=task_status,
                )

            print((await tasks.start(start))[1], flush=True)

    options = {} if backend == "trio" else {"use_uvloop": backend == "uvloop"}
    anyio.run(main, backend="trio" if backend == "trio" else "asyncio", backend_options=options)


# -- the load ----------------------------------------------------------------------------------------------------------


class Server:
    """A server in its own process."""

    def __init__(self, backend: str, mode: str, tune: bool) -> None:
        command = [sys.executable, __file__, "--serve", backend, mode, str(int(tune))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory_mb(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    def connect(self) -> socket.socket:
        """A new connection."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def small_requests(server: Server, connections: int, seconds: float) -> tuple[float, float]:
    """Microseconds of the server's processor per request, and requests per second."""
    selector = selectors.DefaultSelector()
    clients = [server.connect() for _ in range(connections)]
    for client in clients:
        selector.register(client, selectors.EVENT_READ, client)
        client.sendall(GET)
    done, warm = 0, False
    started, cpu = time.perf_counter(), 0.0
    while True:
        now = time.perf_counter()
        if not warm and now - started > seconds / 4:
            warm, done, started, cpu = True, 0, now, server.cpu_seconds()
        elif warm and now - started > seconds:
            break
        for key, _ in selector.select():
            client = key.data
            if not client.recv(65536).endswith(ANSWER_BODY):  # the stock server writes head and body apart
                continue
            done += 1
            client.sendall(GET)
    result = (server.cpu_seconds() - cpu) / done * 1e6, done / (now - started)
    for client in clients:
        client.close()
    return result


def bodies(server: Server, megabytes: int, path: str) -> tuple[float, float]:
    """Milliseconds of the server's processor per body received, and bodies per second."""
    body = b"x" * (megabytes * 1024 * 1024)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    rounds = max(3, 120 // megabytes)
    with server.connect() as client:
        for warm in (False, True):
            started, cpu = time.perf_counter(), server.cpu_seconds()
            for _ in range(rounds if warm else 2):
                client.sendall(head)
                client.sendall(body)
                answer = b""
                while not answer.endswith(b"\r\n\r\n%d" % len(body)):
                    answer += client.recv(65536)
        return (server.cpu_seconds() - cpu) / rounds * 1e3, rounds / (time.perf_counter() - started)


def table(title: str, names: list[str], columns: list[str], measure: Callable[[str, str], float], rounds: int) -> None:
    """Measure every name in every column, in turns; print the medians."""
    values: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for column in columns:
            for name in names:
                values.setdefault((name, column), []).append(measure(name, column))
    print(f"\n{title}\n{'':34}" + "".join(f"{column:>12}" for column in columns))
    for name in names:
        print(f"{name:34}" + "".join(f"{statistics.median(values[name, column]):12.3g}" for column in columns))


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["small", "bodies"], help="small, bodies")
    parser.add_argument("--backends", default="uvloop", help="of uvloop, asyncio, trio")
    parser.add_argument("--modes", default="fast,stock")
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--megabytes", default="4,40")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    kinds = [(b, m) for b in options.backends.split(",") for m in options.modes.split(",")]
    if "small" in options.what:
        servers = {f"{b} {m}": Server(b, m, True) for b, m in kinds}
        columns = [f"c={c}" for c in options.connections.split(",")]
        table(
            "processor time of the server per small request, µs",
            list(servers),
            columns,
            lambda name, column: small_requests(servers[name], int(column[2:]), options.seconds)[0],
            options.rounds,
        )
        for server in servers.values():
            server.close()
    if "bodies" in options.what:
        measure_bodies(kinds, [f"{m} MB" for m in options.megabytes.split(",")], options.rounds)


def measure_bodies(kinds: list[tuple[str, str]], columns: list[str], rounds: int) -> None:
    """Bodies: as plain ASGI gives them, by our short cut, with and without malloc.tune."""
    servers, paths = {}, {}
    for backend, mode in kinds:
        for tune in (False, True):
            server = Server(backend, mode, tune)
            for path in ("/receive", "/short-cut") if mode == "fast" else ("/receive",):
                name = f"{backend} {mode} {path[1:]}{' tuned' if tune else ''}"
                servers[name], paths[name] = server, path
    table(
        "processor time of the server per body received, ms",
        list(servers),
        columns,
        lambda name, column: bodies(servers[name], int(column.split()[0]), paths[name])[0],
        rounds,
    )
    for name, server in servers.items():
        print(f"{name:34} resident afterwards {server.memory_mb():.0f} MB")
    for server in set(servers.values()):
        server.close()


if __name__ == "__main__":
    if "--serve" in sys.argv:
        run_server(sys.argv[2], sys.argv[3], bool(int(sys.argv[4])))
    else:
        main()
