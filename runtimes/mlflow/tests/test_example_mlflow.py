"""The MLflow example does what its page says, over both protocols; its answers are those of MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import mlflow.models
import mlflow.pyfunc
import pandas as pd
import pytest

from mlserve.testing import running_server
from tests.examples import EXAMPLES, run_example

pytestmark = pytest.mark.slow


def test_the_commands_of_its_page_work(tmp_path: Path) -> None:
    outcome = run_example("mlflow", "wine", tmp_path)
    wines = pd.DataFrame({"alcohol": [14.2, 12.4], "malic_acid": [1.7, 0.9], "hue": [1.04, 1.36]})
    wanted = mlflow.pyfunc.load_model(str(outcome.folder / "model")).predict(wines).tolist()
    assert outcome.output("output-1") == wanted
    assert [float(one) for one in outcome.printed.replace("[", " ").replace("]", " ").split()] == pytest.approx(wanted)
    page = (EXAMPLES / "mlflow" / "README.md").read_text()
    assert "localhost:8080/invocations -H 'Content-Type: application/json' -d @invocation.json" in page
    saved = mlflow.models.Model.load(str(outcome.folder / "model")).flavors["sklearn"]["serialization_format"]
    install = next(line for line in page.splitlines() if line.startswith("pip install"))
    assert saved in install.split()  # MLflow's smaller package, which the runtime asks for, does not bring it
    with running_server(outcome.folder) as server:
        body = json.loads((outcome.folder / "invocation.json").read_text())
        assert httpx.post(f"{server.rest}/invocations", json=body).json() == {"predictions": wanted}
