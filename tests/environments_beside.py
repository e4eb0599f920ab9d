"""A server of the ordinary environment, with models of this test's environment beside its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from mlserve.types import InferenceResponse
from tests.serving import Running, serving, write_model

ORDINARY = Path(__file__).resolve().parents[1] / ".venv" / "bin" / "python"
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.3, 2.9, 5.6, 1.8]]

_TRAIN = """
import json, sys
import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
iris = load_iris()
model = LogisticRegression(max_iter=500).fit(iris.data, iris.target)
joblib.dump(model, "model.joblib")
json.dump(model.predict_proba(json.load(sys.stdin)).ravel().tolist(), sys.stdout)
"""
_NUMPY = """
import numpy
from mlserve import MLModel
from mlserve.codecs import StringCodec
from mlserve.types import InferenceResponse


class Numpy(MLModel):
    def predict(self, payload):
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("numpy", [numpy.__version__])])
"""


class Beside:
    """A running server, what it should say of FLOWERS, and how to ask it."""

    def __init__(self, server: Running, expected: list[float]) -> None:
        self.server = server
        self.expected = expected

    def infer(self, model: str, body: dict[str, Any]) -> InferenceResponse:
        """The answer to a request in JSON."""
        answer = httpx.post(f"{self.server.rest}/v2/models/{model}/infer", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        return InferenceResponse.parse_raw(answer.content)

    def check_neighbours(self) -> None:
        """The ordinary model answers as its own framework, and each side has its own numpy."""
        tensor = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": FLOWERS}
        found = self.infer("iris", {"inputs": [tensor], "outputs": [{"name": "predict_proba"}]})
        assert list(found.outputs[0].data) == self.expected
        probe = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [0]}]}
        ours, theirs = (self.infer(name, probe).outputs[0].data[0] for name in ("numpy-here", "numpy-there"))
        assert _text(ours) == np.__version__
        assert _text(theirs) == _run(ORDINARY, "import numpy; print(numpy.__version__)").strip()
        assert _text(ours) != _text(theirs)


@contextmanager
def serving_beside(folder: Path, *args: str) -> Iterator[Beside]:
    """The models in `folder` (their settings name `environment()`), in a server of the ordinary environment."""
    assert ORDINARY.exists(), f"{ORDINARY} is missing: run scripts/environment"
    place = write_model(folder, "iris", "sklearn", parameters={"uri": "./model.joblib"})
    expected = json.loads(_run(ORDINARY, _TRAIN, cwd=place, text=json.dumps(FLOWERS)))
    for name, more in (("numpy-here", environment()), ("numpy-there", {})):
        where = write_model(folder, name, "numpy_model.Numpy", parameters=more)
        (where / "numpy_model.py").write_text(_NUMPY)
    with serving(folder, *args, python=ORDINARY, start_seconds=200) as server:
        yield Beside(server, expected)


def environment() -> dict[str, Any]:
    """The parameter of a model that runs in this test's environment."""
    return {"environment_path": sys.prefix}


def _run(python: Path, code: str, text: str = "", cwd: Path | None = None) -> str:
    done = subprocess.run([python, "-c", code], input=text, cwd=cwd, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
