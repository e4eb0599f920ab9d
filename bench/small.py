"""Small requests: requests per second, latency and processor time per request, mlserve beside its peers.

    python bench/small.py                                     REST and gRPC at 1, 16 and 64 connections, with MLServer
    python bench/small.py --peers mlserver,mosec,litserve
    python bench/small.py --only rest --connections 16 --seconds 1 --rounds 3 --without-peer
    python bench/small.py --batch 16                          with adaptive batching in both

All serve one scikit-learn model (logistic regression on iris), one row per call, in one worker process, and are up at
the same time; short rounds alternate between them. See bench/README.md for how to read the table.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from measure import Sample, measure, take_turns
from oip import Call, grpc_contents, rest_json
from peers import OURS, PEERS, version_of
from report import busy_note, comparison, labels, machine, save
from servers import Model, Server, exit_on_sigterm

ROW = np.array([[6.1, 2.8, 4.7, 1.2]], np.float32)
FIGURES = {"req/s": "rps", "p50 ms": "p50_ms", "p99 ms": "p99_ms", "CPU ms": "cpu_ms", "of it main": "main_cpu_ms"}
CALLS = {"rest": rest_json, "grpc": grpc_contents}


def train(folder: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """The model's file, and its answer to ROW."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    values, classes = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(values.astype(np.float32), classes)
    joblib.dump(model, folder / "model.joblib")
    return folder / "model.joblib", np.asarray(model.predict(ROW), np.int64)


def iris(file: Path, batch: int, batch_seconds: float) -> Model:
    """The model's folder, the same for every server."""
    settings: dict[str, Any] = {
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "v1"},
    }
    if batch > 1:
        settings |= {"max_batch_size": batch, "max_batch_time": batch_seconds}
    return Model("iris", settings, (file,))


def main() -> None:
    """Read the command line, measure, print, save."""
    options = _options()
    keys = _servers(options)
    exit_on_sigterm()
    found: dict[str, Any] = {"machine": machine()}
    note = busy_note()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file, expected = train(folder)
        calls = {name: CALLS[name]("iris", ROW, expected) for name in options.only or CALLS}
        model = iris(file, options.batch, options.batch_seconds)
        servers = {key: stack.enter_context(Server(PEERS[key], [model])) for key in keys}
        cells = _measure(options, servers, calls)
        found["memory"] = {key: vars(server.memory()) for key, server in servers.items()}
    versions = {key: version_of(PEERS[key]) for key in keys}
    print(comparison(["call", "connections"], cells, labels(versions), OURS, FIGURES))
    found["cells"] = [cell.as_dict() for cell in cells]
    print(f"\n{note}every round: {save('small', vars(options), versions, found)}")


def _measure(options: argparse.Namespace, servers: dict[str, Server], calls: dict[str, Call]) -> list[Any]:
    def able(title: tuple[str, ...]) -> list[str]:
        return [key for key, server in servers.items() if title[0].lower() in server.peer.transports]

    def one_round(title: tuple[str, ...], key: str) -> Sample:
        transport, count = title[0].lower(), int(title[1])
        shared = transport == "grpc" and options.one_channel
        return measure(
            servers[key],
            calls[transport],
            idle=[server for other, server in servers.items() if other != key],
            connections=1 if shared else count,
            streams=count if shared else 1,
            seconds=options.seconds,
        )

    names = {"rest": "REST", "grpc": "gRPC"}
    titles = [(names[transport], str(count)) for transport in calls for count in options.connections]
    return take_turns(titles, able, one_round, options.rounds)


def _servers(options: argparse.Namespace) -> list[str]:
    peers = [] if options.without_peer else options.peers
    return ([] if options.without_mlserve else [OURS]) + peers


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per server and cell (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round (default 2)")
    parser.add_argument("--connections", type=_numbers, default=[1, 16, 64], help="default 1,16,64")
    parser.add_argument("--only", action="append", choices=list(CALLS), help="one transport only")
    parser.add_argument("--one-channel", action="store_true", help="gRPC: all calls on one connection")
    parser.add_argument("--peers", type=_peers, default=["mlserver"], help="of mlserver, mosec, litserve")
    parser.add_argument("--without-peer", action="store_true", help="mlserve alone")
    parser.add_argument("--without-mlserve", action="store_true", help="the peers alone")
    parser.add_argument("--batch", type=int, default=0, help="max_batch_size (default: no batching)")
    parser.add_argument("--batch-seconds", type=float, default=0.005, help="max_batch_time with --batch")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _peers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PEERS or name == OURS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
