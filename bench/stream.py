"""Streams of small events: time to the first, events per second, processor time for each; LitServe beside us.

    python bench/stream.py                        1 and 64 streams at once, as fast as they go and one event a 10 ms
    python bench/stream.py --rounds 3 --without-peer
    python bench/stream.py --plain                ours from a plain generator, in a thread

Both servers run one worker process and the same stream of tokens, asynchronous unless told, and are up at the same
time; rounds alternate between them. See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from peers import OURS, PEERS, Peer, app, version_of
from report import busy_note, labels, machine, markdown, number, save
from servers import Model, Server, exit_on_sigterm
from stream_client import StreamPlan, run_streams

TOKENS = Path(__file__).parent / "apps" / "tokens.py"
PATHS = {OURS: "/v2/models/tokens/generate_stream", "litserve": "/predict"}


@dataclass(frozen=True)
class Load:
    """One row of the table."""

    title: str
    connections: int
    streams: int  # on each connection
    events: int
    pause_ms: float


LOADS = (
    Load("1 stream, at full speed", 1, 10, 2000, 0),
    Load("64 streams, at full speed", 64, 2, 500, 0),
    Load("1 stream, an event each 10 ms", 1, 2, 100, 10),
    Load("64 streams, an event each 10 ms", 64, 2, 100, 10),
)


@dataclass(frozen=True)
class Sample:
    """One round."""

    events_per_second: float
    first_event_ms: float
    cpu_us: float  # of the whole process tree, for each event


def body(load: Load) -> bytes:
    """The request, the same for both."""
    inputs = [
        {"name": "count", "shape": [1], "datatype": "INT64", "data": [load.events]},
        {"name": "pause_ms", "shape": [1], "datatype": "FP64", "data": [load.pause_ms]},
    ]
    return json.dumps({"id": "bench", "inputs": inputs}).encode()


def one_round(server: Server, load: Load) -> Sample:
    """Runs one load on one server. SystemExit if a stream is not whole."""
    plan = StreamPlan(
        server.port("rest"), PATHS[server.peer.key], body(load), load.events, load.connections, load.streams
    )
    cpu: list[float] = []
    outcome = run_streams(plan, lambda: cpu.append(server.cpu_seconds()))
    used = server.cpu_seconds() - cpu[0]
    if outcome.errors:
        raise SystemExit(f"{server.peer.label}, {load.title}: {outcome.errors[0]}")
    return Sample(
        outcome.events / outcome.elapsed, statistics.median(outcome.first_event) * 1e3, used * 1e6 / outcome.events
    )


def table(found: dict[str, dict[str, list[Sample]]], names: dict[str, str]) -> str:
    """Medians, and how often ours is theirs."""
    rows = []
    for title, by_server in found.items():
        ours = by_server.get(OURS, [])
        for key, samples in by_server.items():
            row = [title, names[key], *(number(_median(samples, one)) for one in Sample.__dataclass_fields__)]
            if key != OURS and ours:
                row += [f"{number(_ratio(ours, samples, one))}×" for one in Sample.__dataclass_fields__]
            rows.append(row)
    head = ["streams", "server", "events/s", "first event ms", "CPU µs an event"]
    return markdown([*head, "ours ÷ it: events/s", "first event", "CPU"] if len(names) > 1 else head, rows)


def _median(samples: Sequence[Sample], figure: str) -> float:
    return statistics.median(getattr(one, figure) for one in samples)


def _ratio(ours: Sequence[Sample], theirs: Sequence[Sample], figure: str) -> float:
    return statistics.median(getattr(a, figure) / max(getattr(b, figure), 1e-9) for a, b in zip(ours, theirs))


def main() -> None:
    """Read the command line, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    implementation = "tokens.PlainTokens" if options.plain else "tokens.Tokens"
    model = Model("tokens", {"implementation": implementation}, (TOKENS,))
    exit_on_sigterm()
    peers: list[Peer] = [PEERS[OURS]]
    if not options.without_peer:
        peers.append(replace(PEERS["litserve"], command=app("litserve_tokens")))
    note, about = busy_note(), machine()
    found: dict[str, dict[str, list[Sample]]] = {load.title: {peer.key: [] for peer in peers} for load in LOADS}
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(peer, [model])) for peer in peers]
        for place in range(options.rounds):
            for load in LOADS:
                for server in servers if place % 2 == 0 else reversed(servers):
                    found[load.title][server.peer.key].append(one_round(server, load))
    versions = {peer.key: version_of(peer) for peer in peers}
    print(table(found, labels(versions)))
    kept = {title: {key: [asdict(one) for one in many] for key, many in by.items()} for title, by in found.items()}
    print(f"\n{note}every round: {save('stream', vars(options), versions, {'machine': about, 'rounds': kept})}")


if __name__ == "__main__":
    main()
