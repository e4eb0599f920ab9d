"""Makes the files beside it, with the old versions that it needs: pip install scikit-learn==1.2.2 numpy==1.24.4."""

from __future__ import annotations

import pickle
from pathlib import Path

import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

ROWS, TARGETS = [[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 5.0]], [0, 1, 0, 1]
REMAINDER = ColumnTransformer([("scaled", StandardScaler(), [0])], remainder="passthrough")
ESTIMATORS = {
    "boosting": GradientBoostingClassifier(n_estimators=1, max_depth=1),
    "imputer": make_pipeline(SimpleImputer(), LinearRegression()),
    "linear": make_pipeline(StandardScaler(), LinearRegression()),
    "neighbors": KNeighborsRegressor(n_neighbors=1),
    "remainder": make_pipeline(REMAINDER, LinearRegression()),
    "tree": DecisionTreeRegressor(max_depth=1),
}

assert sklearn.__version__ == "1.2.2"
for name, estimator in ESTIMATORS.items():
    fitted = estimator.fit(ROWS, TARGETS)
    Path(__file__).with_name(f"{name}.pkl").write_bytes(pickle.dumps(fitted, protocol=4))
