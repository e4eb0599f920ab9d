"""Makes the files beside it, with the old version that is installed: pip install lightgbm==VERSION pandas==1.5.3."""

from __future__ import annotations

import pickle
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

# The wheels of LightGBM 2 run on Python 3.11 with numpy 1.24, if these names that numpy has dropped are there.
for dropped in (bool, int, float):
    setattr(np, dropped.__name__, dropped)

ROWS = np.arange(240)
TABLE = pd.DataFrame(
    {
        "size": ROWS * 0.25,
        "city": pd.Categorical(np.array(["Bern", "Lima", "Oslo"])[ROWS % 3]),
        "month": pd.Categorical(np.array([10, 11, 12, 20])[ROWS % 4]),
        "flag": ROWS // 7 % 2,
    }
)
TARGETS = (ROWS % 3 == 1) * 3.0 + (ROWS % 4 - 1) ** 2 + ROWS * 0.01
OPTIONS = {"verbosity": -1, "num_leaves": 6, "min_data_in_leaf": 1, "min_data_per_group": 1, "cat_smooth": 1}

folder, version = Path(__file__).parent, lightgbm.__version__
booster = lightgbm.train({**OPTIONS, "objective": "regression"}, lightgbm.Dataset(TABLE, TARGETS), 3)
booster.save_model(str(folder / f"{version}.txt"))
booster.predict(TABLE[:12]).tofile(folder / f"{version}.answers", ",")
if version == "3.3.5":
    labels = np.array(["low", "high"])[(TARGETS > 3).astype(int)]
    fitted = lightgbm.LGBMClassifier(n_estimators=1, num_leaves=2).fit(TABLE[["size", "flag"]], labels)
    (folder / f"{version}.pkl").write_bytes(pickle.dumps(fitted, protocol=4))
