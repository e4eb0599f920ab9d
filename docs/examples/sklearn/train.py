"""Trains a small scikit-learn model and saves it beside this file, with the settings that serve it.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDER = Path(__file__).resolve().parent
SETTINGS = {
    "name": "iris",
    "implementation": "mlserve_sklearn.SKLearnModel",
    "parameters": {"uri": "./model.joblib", "version": "v1"},
}


def main() -> None:
    features, species = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(features, species)
    joblib.dump(model, FOLDER / "model.joblib")
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model.joblib'}: {model.score(features, species):.1%} right on its own training data")


if __name__ == "__main__":
    main()
