"""Merged requests: rows that hang on other rows are never dealt out to callers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlserve.codecs import NumpyCodec
from mlserve.errors import ModelError
from mlserve.merging import merge
from mlserve.types import InferenceRequest
from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial, arrays, request_of

TRIAL = Trial(SKLearnModel)
ROWS = np.arange(12.0).reshape(4, 3) + 1
TOTALS = ROWS.sum(1)


class Extended(SKLearnModel):
    """Changes requests before they are answered."""

    async def predict(self, payload: InferenceRequest) -> Any:
        (one,) = payload.inputs
        payload.inputs = [NumpyCodec.encode_input(one.name, NumpyCodec.decode_input(one)[:, 1:])]
        return await super().predict(payload)


def merged() -> Any:
    return merge([request_of(ROWS[:1], "predict"), request_of(ROWS[1:3], "predict"), request_of(ROWS[3:], "predict")])


@pytest.mark.parametrize(
    "step",
    [
        FunctionTransformer(np.cumsum, kw_args={"axis": 0}),
        FunctionTransformer(np.sort, kw_args={"axis": 0}),
        FunctionTransformer(np.flip, kw_args={"axis": 0}),
    ],
    ids=["running sum", "sorted", "turned"],
)
def test_rows_that_hang_on_others_run_one_by_one(tmp_path: Path, step: Any) -> None:
    fitted = make_pipeline(step, LinearRegression()).fit(ROWS[::-1], TOTALS)
    joblib.dump(fitted, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path)
    for _ in range(2):
        with pytest.raises(ModelError, match="its answers to several requests cannot be cut by rows"):
            model.predict(merge([request_of(ROWS[at : at + 1], "predict") for at in (2, 0, 3, 1)]))
    assert np.array_equal(arrays(model.predict(request_of(ROWS)))["predict"].ravel(), fitted.predict(ROWS))


def test_rows_that_do_not_run_together(tmp_path: Path) -> None:
    fitted = make_pipeline(StandardScaler(), LinearRegression()).fit(ROWS, TOTALS)
    joblib.dump(fitted, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path)
    for _ in range(5):
        np.testing.assert_allclose(arrays(model.predict(merged()))["predict"].ravel(), TOTALS)


def test_code_that_extends_it_may_change_merged_requests(tmp_path: Path) -> None:
    fitted = LinearRegression().fit(ROWS[:, 1:], TOTALS)
    joblib.dump(fitted, tmp_path / "model.joblib")
    model = Trial(Extended).load(tmp_path)
    for _ in range(2):
        np.testing.assert_allclose(arrays(anyio.run(model.predict, merged()))["predict"].ravel(), TOTALS)
