"""Trains a small LightGBM model and saves it beside this file, with the settings that serve it.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

import lightgbm
from sklearn.datasets import load_iris

FOLDER = Path(__file__).resolve().parent
OPTIONS = {"objective": "multiclass", "num_class": 3, "num_leaves": 4, "verbosity": -1}
SETTINGS = {
    "name": "iris",
    "implementation": "mlserve_lightgbm.LightGBMModel",
    "parameters": {"uri": "./model.txt", "version": "v1"},
}


def main() -> None:
    features, species = load_iris(return_X_y=True)
    model = lightgbm.train(OPTIONS, lightgbm.Dataset(features, species), num_boost_round=20)
    model.save_model(FOLDER / "model.txt")
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    right = (model.predict(features).argmax(axis=1) == species).mean()
    print(f"{FOLDER / 'model.txt'}: {right:.1%} right on its own training data")


if __name__ == "__main__":
    main()
