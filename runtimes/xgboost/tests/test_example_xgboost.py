"""The example does what its page says: train, start, ask over REST and gRPC."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import run_example

pytestmark = pytest.mark.slow


def test_the_commands_of_its_page_work(tmp_path: Path) -> None:
    outcome = run_example("xgboost", "iris", tmp_path)
    assert outcome.output("predict") == [0, 2]
    assert outcome.printed.split() == ["[[0]", "[2]]"]
