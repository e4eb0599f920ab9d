"""Trains a small XGBoost model and saves it beside this file, with the settings that serve it.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

from sklearn.datasets import load_iris
from xgboost import XGBClassifier

FOLDER = Path(__file__).resolve().parent
SETTINGS = {
    "name": "iris",
    "implementation": "mlserve_xgboost.XGBoostModel",
    "parameters": {"uri": "./model.ubj", "version": "v1"},
}


def main() -> None:
    features, species = load_iris(return_X_y=True)
    model = XGBClassifier(n_estimators=20, max_depth=3)
    model.fit(features, species)
    model.save_model(FOLDER / "model.ubj")
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model.ubj'}: {model.score(features, species):.1%} right on its own training data")


if __name__ == "__main__":
    main()
