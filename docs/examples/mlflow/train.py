"""Trains a small model, saves it with MLflow beside this file, and writes the settings that serve it.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.linear_model import ElasticNet

FOLDER = Path(__file__).resolve().parent
SETTINGS = {
    "name": "wine",
    "implementation": "mlserve_mlflow.MLflowRuntime",
    "parameters": {"uri": "./model", "version": "v1"},
}


def main() -> None:
    wines = load_wine(as_frame=True).frame[["alcohol", "malic_acid", "hue", "proline"]]
    features, proline = wines[["alcohol", "malic_acid", "hue"]], wines["proline"]
    model = ElasticNet(alpha=0.01).fit(features, proline)
    signature = infer_signature(features, model.predict(features))
    shutil.rmtree(FOLDER / "model", ignore_errors=True)
    mlflow.sklearn.save_model(model, FOLDER / "model", signature=signature, pip_requirements=["scikit-learn", "skops"])
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model'}: R² {model.score(features, proline):.2f} on its own training data")


if __name__ == "__main__":
    main()
