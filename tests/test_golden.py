"""The golden corpus against the installed program: what MLServer 1.7.1 answers is what we answer, case by case.

`tests/golden/README.md` has the corpus and its verdicts. What differs on purpose, or not yet, stands below with its
reason; an entry under which nothing differs any more fails the test, so that the list cannot go stale.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Running, serving

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).with_name("golden")
RUNTIMES = Path(__file__).parents[1] / "runtimes"
KNOWN = (
    (r"^first-load-fails(-plain)?-04-index$", "on purpose: the index says why a load failed, MLServer's is silent"),
)
# The models are trained where the test runs, and processors round otherwise: figures may differ in the sixth digit,
# which raw bytes do not forgive.
MAY_DIFFER = (r"^grpc-iris-raw-proba$",)
FIGURES = "1e-5"  # relative


@pytest.mark.parametrize("profile", ["default", "plain"])
def test_every_recorded_answer_of_mlserver_is_ours_too(tmp_path: Path, profile: str) -> None:
    for framework in ("sklearn", "xgboost", "lightgbm"):
        pytest.importorskip(framework)
    repository = tmp_path / "models"
    _run("build_repo.py", str(repository), "--profile", profile)
    path = os.pathsep.join([*(str(one) for one in RUNTIMES.iterdir() if one.is_dir()), *filter(None, sys.path)])
    with serving(repository, env={"PYTHONPATH": path}) as server:
        verdicts = _replay(server, profile, tmp_path / "verdicts.jsonl")
        assert server.stop() == 0
    assert len(verdicts) > 60
    differing = {one["id"]: one["notes"] for one in verdicts if one["verdict"] == "differ"}
    surprising = {
        name: notes
        for name, notes in differing.items()
        if not any(re.search(known, name) for known in (*(one for one, _ in KNOWN), *MAY_DIFFER))
    }
    assert not surprising, json.dumps(surprising, indent=1)
    for known, reason in KNOWN:
        listed = [one["id"] for one in verdicts if re.search(known, one["id"])]
        assert not listed or any(name in differing for name in listed), f"no longer true: {reason} ({known})"


def _replay(server: Running, profile: str, result: Path) -> list[dict[str, Any]]:
    """The verdict on each case. The exit status is 1 where something differs, known or not."""
    addresses = ["--url", server.addresses["REST"], "--grpc", server.grpc, "--metrics", server.addresses["metrics"]]
    done = _run(
        "replay.py", "--profile", profile, *addresses, "--json", str(result), "--quiet", "--rtol", FIGURES, codes=(0, 1)
    )
    print(done)  # pytest shows the table when the test fails
    with result.open(encoding="utf-8") as lines:  # not splitlines(): answers hold other line separators
        return [json.loads(line) for line in lines]


def _run(script: str, *args: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([sys.executable, str(GOLDEN / script), *args], capture_output=True, text=True)
    assert done.returncode in codes, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
