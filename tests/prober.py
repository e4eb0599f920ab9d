"""Asks for a server's health ten times a second, in a process of its own, until its standard input ends.

    python -m tests.prober REST_ADDRESS GRPC_ADDRESS SERVER_PID

Beside each probe it reads how long the server and this process were ready to run and had no processor (Linux says so
in `schedstat`): that is the machine's doing, and a probe on a machine that others use too cannot be faster.
Prints one line of JSON: for each round the ms of the probe of REST, without a processor meanwhile, the same two for
gRPC, and when the round ended.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def _rest(address: str) -> Callable[[], None]:
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host, int(port)), 30)

    def probe() -> None:
        sock.sendall(_PROBE)
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer

    return probe


def _grpc(address: str) -> Callable[[], None]:
    import grpc

    from mlserve.grpc import dataplane_pb2 as pb
    from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

    stub = GRPCInferenceServiceStub(grpc.insecure_channel(address))

    def probe() -> None:
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=30).live

    return probe


def _without_processor(*pids: int | str) -> dict[str, float]:
    """For how many ms each thread of processes has waited for a processor so far: any may have the lock of Python."""
    found = {}
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/schedstat") as file:  # it may have ended
                found[thread] = int(file.read().split()[1]) / 1e6
    return found


def _measured(probe: Callable[[], None], *pids: int | str) -> tuple[float, float]:
    before, started = _without_processor(*pids), time.perf_counter()
    probe()
    took = (time.perf_counter() - started) * 1000
    return took, sum(waited - before.get(thread, 0.0) for thread, waited in _without_processor(*pids).items())


def main() -> None:
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    probes = [_rest(sys.argv[1]), _grpc(sys.argv[2])]
    pids = sys.argv[3], os.getpid()
    for probe in probes:
        probe()
    rounds = []
    print("ready", flush=True)
    while not ended.wait(0.1):
        rounds.append([value for probe in probes for value in _measured(probe, *pids)] + [time.time()])
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
