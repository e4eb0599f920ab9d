"""The CatBoost example does what its page says, and its answers are those of the model that it trained."""

from __future__ import annotations

import re
from pathlib import Path

import catboost
import pytest

from tests.examples import run_example

pytestmark = pytest.mark.slow


def test_the_commands_of_its_page_work(tmp_path: Path) -> None:
    outcome = run_example("catboost", "rentals", tmp_path)
    model = catboost.CatBoostClassifier()
    model.load_model(str(outcome.folder / "model.cbm"))
    rows = [["Lima", 1500.0, "yes"], ["Oslo", 1500.0, "no"]]
    assert outcome.output("predict") == model.predict(rows).tolist() == ["let", "waiting"]
    assert outcome.output("predict_proba") == model.predict_proba(rows).ravel().tolist()
    assert re.findall("let|waiting", outcome.printed) == ["let", "waiting"]
