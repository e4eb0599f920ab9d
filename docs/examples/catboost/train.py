"""Trains a small CatBoost model on a table with categories and saves it beside this file, with its settings.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from catboost import CatBoostClassifier

FOLDER = Path(__file__).resolve().parent
OPTIONS = {"iterations": 50, "depth": 3, "random_seed": 0, "verbose": False, "allow_writing_files": False}
SETTINGS = {
    "name": "rentals",
    "implementation": "mlserve_catboost.CatboostModel",
    "parameters": {"uri": "./model.cbm", "version": "v1", "content_type": "pd", "extra": {"signature": True}},
}


def table() -> pd.DataFrame:
    """Flats, and whether they were let within a week: cheap ones are, and those in Lima that have a balcony."""
    rows = [
        {"city": city, "rent": rent, "balcony": balcony, "let": rent < 900 or (city == "Lima" and balcony == "yes")}
        for city in ("Oslo", "Lima", "Bern")
        for rent in range(500, 2000, 100)
        for balcony in ("yes", "no")
    ]
    return pd.DataFrame(rows)


def main() -> None:
    flats = table()
    features = flats[["city", "rent", "balcony"]]
    model = CatBoostClassifier(cat_features=["city", "balcony"], **OPTIONS)
    model.fit(features, flats["let"].map({True: "let", False: "waiting"}))
    model.save_model(str(FOLDER / "model.cbm"))
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model.cbm'}: trained on {len(flats)} flats")


if __name__ == "__main__":
    main()
