"""The iris model on LitServe: `litserve_iris.py FOLDER PORT`. Takes and gives the same JSON as the other servers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import joblib
import litserve
import numpy as np


class Iris(litserve.LitAPI):
    """One row per call."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.model = joblib.load(Path(sys.argv[1]) / "iris" / "model.joblib")

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads an annotation as a schema
        """The row, and the call's id."""
        given = request["inputs"][0]
        return request["id"], np.asarray(given["data"], np.float32).reshape(given["shape"])

    def predict(self, x: Any) -> Any:
        """The class."""
        return x[0], self.model.predict(x[1])

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The answer."""
        call_id, classes = output
        tensor = {"name": "predict", "datatype": "INT64", "shape": [len(classes), 1], "data": classes.tolist()}
        return {"id": call_id, "model_name": "iris", "outputs": [tensor]}


if __name__ == "__main__":
    server = litserve.LitServer(Iris(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
