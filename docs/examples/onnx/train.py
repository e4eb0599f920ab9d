"""Trains a small classifier, exports it to ONNX beside this file, and writes the settings that serve it.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDER = Path(__file__).resolve().parent
SETTINGS = {
    "name": "iris",
    "implementation": "mlserve_onnx.OnnxModel",
    "max_batch_size": 32,
    "max_batch_time": 0.005,
    "parameters": {"uri": "./model.onnx", "version": "v1"},
}


def main() -> None:
    features, species = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, species)
    graph = to_onnx(model, features[:1].astype(np.float32), options={"zipmap": False})
    (FOLDER / "model.onnx").write_bytes(graph.SerializeToString())
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model.onnx'}: {model.score(features, species):.1%} right on its own training data")


if __name__ == "__main__":
    main()
