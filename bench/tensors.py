"""Tensors of all sizes: latency, processor time and memory of an echo model, mlserve beside MLServer.

    python bench/tensors.py                                 4, 1 000, 150 000 and 1 000 000 FP32 values in three forms
    python bench/tensors.py --values 150000 --forms json,raw --rounds 5
    python bench/tensors.py --model PassOn                  a model that never looks at its values
    python bench/tensors.py --without-peer

One call at a time on one connection, to a model that decodes its input to a numpy array and encodes the array as its
output (bench/apps/echo.py, the same file for both). Forms: REST JSON, REST with the binary tensor extension (MLServer
has none), gRPC with raw contents. Both servers are up at the same time; short rounds alternate between them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from measure import Cell, Sample, measure, take_turns
from oip import Call, grpc_raw, rest_binary, rest_json
from peers import OURS, PEERS, version_of
from report import busy_note, comparison, labels, machine, markdown, number, save
from servers import Memory, Model, Server, exit_on_sigterm

FIGURES = {"p50 ms": "p50_ms", "CPU ms": "cpu_ms", "of it main": "main_cpu_ms"}
FORMS: dict[str, tuple[str, Callable[..., Call]]] = {
    "json": ("REST JSON", rest_json),
    "binary": ("REST binary", rest_binary),
    "raw": ("gRPC raw", grpc_raw),
}
PEER = "mlserver"
SETTINGS = {"grpc_max_message_length": 256 * 1024 * 1024}  # MLServer's default, 4 MiB, is just enough for 1 000 000


def echo(class_name: str) -> Model:
    """The model's folder, the same for both."""
    code = Path(__file__).parent / "apps" / "echo.py"
    return Model("echo", {"implementation": f"echo.{class_name}"}, (code,))


def numbers(count: int) -> np.ndarray[Any, Any]:
    """Values with all their digits, as measured data has them."""
    return np.random.default_rng(count).normal(size=count).astype(np.float32)


def main() -> None:
    """Read the command line, measure, print, save."""
    options = _options()
    keys = ([] if options.without_mlserve else [OURS]) + ([] if options.without_peer else [PEER])
    exit_on_sigterm()
    found: dict[str, Any] = {"machine": machine()}
    note = busy_note()
    with ExitStack() as stack:
        model = echo(options.model)
        servers = {key: stack.enter_context(Server(PEERS[key], [model], SETTINGS)) for key in keys}
        fresh = {key: server.memory() for key, server in servers.items()}
        cells = _measure(options, servers)
        after = {key: server.memory() for key, server in servers.items()}
    versions = {key: version_of(PEERS[key]) for key in keys}
    print(comparison(["form", "values"], cells, labels(versions), OURS, FIGURES))
    print("\n" + _memory_table(labels(versions), fresh, after))
    found["cells"] = [cell.as_dict() for cell in cells]
    found["memory"] = {key: {"fresh": vars(fresh[key]), "after": vars(after[key])} for key in keys}
    print(f"\n{note}every round: {save('tensors', vars(options), versions, found)}")


def _measure(options: argparse.Namespace, servers: Mapping[str, Server]) -> list[Cell]:
    calls: dict[tuple[str, ...], Call] = {}
    for count in options.values:
        values = numbers(count)
        for form in options.forms:
            title, make = FORMS[form]
            calls[title, f"{count:,}".replace(",", " ")] = make("echo", values, values)

    def able(title: tuple[str, ...]) -> list[str]:
        return [key for key in servers if key == OURS or title[0] != FORMS["binary"][0]]

    def one_round(title: tuple[str, ...], key: str) -> Sample:
        idle = [server for other, server in servers.items() if other != key]
        return measure(servers[key], calls[title], idle=idle, seconds=options.seconds, least_calls=options.least_calls)

    return take_turns(list(calls), able, one_round, options.rounds)


def _memory_table(names: Mapping[str, str], fresh: Mapping[str, Memory], after: Mapping[str, Memory]) -> str:
    head = ["MB", "server, fresh", "workers, fresh", "server, peak", "workers, peak", "all, shared counted once"]
    rows = []
    for key, name in names.items():
        figures = (fresh[key].server_peak, fresh[key].workers_peak, after[key].server_peak, after[key].workers_peak)
        pss = after[key].pss
        rows.append([name, *map(number, figures), "?" if pss is None else number(pss)])
    return markdown(head, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds per server and cell (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round (default 2)")
    parser.add_argument("--least-calls", type=int, default=5, help="a round lasts until so many are answered")
    parser.add_argument("--values", type=_counts, default=[4, 1000, 150_000, 1_000_000])
    parser.add_argument("--forms", type=_forms, default=list(FORMS), help="of json, binary, raw")
    parser.add_argument("--model", choices=["Echo", "PassOn"], default="Echo")
    parser.add_argument("--without-peer", action="store_true", help="mlserve alone")
    parser.add_argument("--without-mlserve", action="store_true", help="MLServer alone")
    return parser.parse_args()


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _forms(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FORMS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
