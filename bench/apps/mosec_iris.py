"""The iris model on mosec: `mosec_iris.py FOLDER PORT`. Takes and gives the same JSON as the other servers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# mosec reads the command line itself, in its workers too.
FOLDER = Path(os.environ.setdefault("BENCH_FOLDER", sys.argv[1]))
if len(sys.argv) == 3:
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", sys.argv[2]]

import joblib  # noqa: E402  # after the command line
import numpy as np  # noqa: E402
from mosec import Server, Worker  # noqa: E402


class Iris(Worker):
    """One row per call."""

    def __init__(self) -> None:
        super().__init__()
        self.model = joblib.load(FOLDER / "iris" / "model.joblib")

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        """Predict."""
        given = data["inputs"][0]
        classes = self.model.predict(np.asarray(given["data"], np.float32).reshape(given["shape"]))
        output = {"name": "predict", "datatype": "INT64", "shape": [len(classes), 1], "data": classes.tolist()}
        return {"id": data["id"], "model_name": "iris", "outputs": [output]}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Iris, num=1)
    server.run()
