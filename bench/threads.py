"""What it is worth that workers share the cores: two workers whose libraries use half of them each, or all of them.

    python bench/threads.py                          about 2 minutes
    python bench/threads.py --workers 4 --connections 16

Needs the scikit-learn and XGBoost runtimes. Both servers are up at the same time, rounds alternate. One is started with
OMP_NUM_THREADS and its kin set to the number of cores, which is what libraries do by themselves.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure import Sample, measure, take_turns
from oip import Call, rest_binary
from peers import OURS, PEERS, version_of
from report import busy_note, comparison, machine, save
from servers import Model, Server, exit_on_sigterm

from mlserve.cores import thread_variables, usable_cores

SHARED, ALL = "shared", "all"
FIGURES = {"req/s": "rps", "p50 ms": "p50_ms", "p99 ms": "p99_ms", "CPU ms": "cpu_ms"}
ROWS = 1000


def train(folder: Path) -> dict[str, tuple[Model, Call]]:
    """Models whose libraries start threads of their own, each with a call of many rows."""
    import joblib
    import xgboost
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.neural_network import MLPClassifier

    rows = np.random.default_rng(0).normal(size=(ROWS, 20)).astype(np.float32)
    wanted = (rows[:, 0] * rows[:, 1] > 0).astype(np.int64)  # classes: sums differ in the last digits by threads
    made: dict[str, tuple[Any, str, str]] = {
        "OpenMP": (HistGradientBoostingClassifier(max_iter=100), "sklearn", "trees.joblib"),
        "BLAS": (MLPClassifier(hidden_layer_sizes=(512, 512), max_iter=3), "sklearn", "net.joblib"),
        "XGBoost": (xgboost.XGBClassifier(n_estimators=200), "xgboost", "boosted.ubj"),
    }
    found = {}
    for title, (model, implementation, name) in made.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the net need not be a good one
            model.fit(rows, wanted)
        file = folder / name
        model.save_model(file) if implementation == "xgboost" else joblib.dump(model, file)
        settings = {"implementation": implementation, "parameters": {"uri": f"./{name}"}}
        found[title] = Model(title, settings, (file,)), rest_binary(title, rows, model.predict(rows)[:, None])
    return found


@contextmanager
def whole_machine() -> Iterator[None]:
    """A server that is started in here lets each worker's libraries use all cores."""
    cores = str(usable_cores())
    variables = dict.fromkeys(thread_variables({}, 1, 1, 2), cores)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def main() -> None:
    """Read the command line, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per server and model (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--connections", type=int, default=8, help="calls at a time (default 8)")
    options = parser.parse_args()
    exit_on_sigterm()
    found: dict[str, Any] = {"machine": machine()}
    note = busy_note()
    with ExitStack() as stack:
        calls = train(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        models = [model for model, _ in calls.values()]
        settings = {"parallel_workers": options.workers}
        servers = {SHARED: stack.enter_context(Server(PEERS[OURS], models, settings))}
        with whole_machine():
            servers[ALL] = stack.enter_context(Server(PEERS[OURS], models, settings))

        def one_round(title: tuple[str, ...], key: str) -> Sample:
            idle = [server for other, server in servers.items() if other != key]
            _, call = calls[title[0]]
            return measure(servers[key], call, idle=idle, connections=options.connections, seconds=options.seconds)

        cells = take_turns([(title,) for title in calls], lambda _: [SHARED, ALL], one_round, options.rounds)
    labels = {SHARED: "threads shared", ALL: "all cores in each worker"}
    print(comparison(["library"], cells, labels, SHARED, FIGURES))
    found["cells"] = [cell.as_dict() for cell in cells]
    versions = {OURS: version_of(PEERS[OURS])}
    print(f"\n{note}every round: {save('threads', vars(options), versions, found)}")


if __name__ == "__main__":
    main()
