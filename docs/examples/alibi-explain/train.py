"""Trains a small scikit-learn model and an explainer of it, each in a folder of its own with its settings.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

import joblib
from alibi.explainers import AnchorTabular
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

FOLDER = Path(__file__).resolve().parent
MODEL = {
    "name": "iris",
    "implementation": "mlserve_sklearn.SKLearnModel",
    "parameters": {"uri": "./model.joblib", "version": "v1"},
}
EXPLAINER = {
    "name": "why",
    "implementation": "mlserve_alibi_explain.AlibiExplainRuntime",
    "parameters": {
        "uri": "./explainer",
        "version": "v1",
        "extra": {
            "explainer_type": "anchor_tabular",
            "infer_uri": "http://localhost:8080/v2/models/iris/infer",
            "seed": 0,
        },
    },
}


def main() -> None:
    iris = load_iris()
    model = LogisticRegression(max_iter=500).fit(iris.data, iris.target)
    explainer = AnchorTabular(model.predict, list(iris.feature_names))
    explainer.fit(iris.data)
    for settings in (MODEL, EXPLAINER):
        place = FOLDER / settings["name"]
        place.mkdir(exist_ok=True)
        (place / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    joblib.dump(model, FOLDER / "iris" / "model.joblib")
    explainer.save(FOLDER / "why" / "explainer")  # before it explains anything: what it draws then is saved with it
    print(f"{FOLDER / 'why' / 'explainer'}: knows {len(iris.data)} flowers")


if __name__ == "__main__":
    main()
