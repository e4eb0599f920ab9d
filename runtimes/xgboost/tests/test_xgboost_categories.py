"""Categories on frames for XGBoost: missing ones are answered as by XGBoost itself, those it never saw are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost

from mlserve.types import InferenceRequest
from mlserve_xgboost import XGBoostModel
from tests.runtime_trial import Trial, arrays, refusal_of

TRIAL = Trial(XGBoostModel)
TEXTS, NUMBERS = ["ab", "abc", "b"], [10, 30, 40]

pytestmark = pytest.mark.skipif(
    tuple(map(int, xgboost.__version__.split(".")[:2])) < (3, 1), reason="files before 3.1 name no categories"
)


def fitted_on(categories: list[Any]) -> Any:
    """A model to which each category and a missing one mean another value."""
    codes = np.arange(-1, len(categories)).repeat(20)
    table = pd.DataFrame({"age": np.arange(len(codes)) % 7.0, "kind": pd.Categorical.from_codes(codes, categories)})
    options: dict[str, Any] = {"n_estimators": 5, "enable_categorical": True, "max_cat_to_onehot": 1, "n_jobs": 1}
    return xgboost.XGBRegressor(**options).fit(table, codes * 5.0 + table["age"])


def request_of(datatype: str, data: list[Any], content_type: str | None = None) -> InferenceRequest:
    shape = [len(data), 1] if content_type != "np" else [len(data) // 2, 2]
    kinds: dict[str, Any] = {"name": "kind", "datatype": datatype, "shape": shape, "data": data}
    if content_type is not None:
        kinds["parameters"] = {"content_type": content_type}
    ages = {"name": "age", "datatype": "FP64", "shape": [shape[0], 1], "data": [3.0] * shape[0]}
    return InferenceRequest(parameters={"content_type": "pd"}, inputs=[ages, kinds])


def table_of(kinds: list[Any], categories: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"age": [3.0] * len(kinds), "kind": pd.Categorical(kinds, categories=categories)})


def test_an_only_category_that_is_an_empty_text_is_one(tmp_path: Path) -> None:
    fitted = fitted_on([""])
    fitted.save_model(tmp_path / "model.json")
    found = arrays(TRIAL.load(tmp_path).predict(request_of("BYTES", ["", None], "str")))["predict"]
    assert np.array_equal(found.ravel(), fitted.predict(table_of(["", None], [""])))


@pytest.mark.parametrize(
    ("categories", "datatype", "content_type"),
    [
        (TEXTS, "BYTES", None),
        (TEXTS, "BYTES", "str"),
        (TEXTS, "FP64", None),
        (NUMBERS, "BYTES", "str"),
        (NUMBERS, "FP64", None),
    ],
)
def test_rows_whose_categories_are_all_missing_are_answered(
    tmp_path: Path, categories: list[Any], datatype: str, content_type: str | None
) -> None:
    fitted = fitted_on(categories)
    fitted.save_model(tmp_path / "model.json")
    request = request_of(datatype, [None, None], content_type)
    found = arrays(TRIAL.load(tmp_path).predict(request))["predict"].ravel()
    assert np.array_equal(found, fitted.predict(table_of([None, None], categories)))


def test_texts_are_answered_beside_missing_ones_whichever_there_are(tmp_path: Path) -> None:
    fitted = fitted_on(TEXTS)
    fitted.save_model(tmp_path / "model.json")
    model = TRIAL.load(tmp_path)
    for kinds in (["b"], ["abc", None], ["b", "ab", "abc"], [None, "b"]):
        found = arrays(model.predict(request_of("BYTES", kinds)))["predict"].ravel()
        assert np.array_equal(found, fitted.predict(table_of(kinds, TEXTS)))


@pytest.mark.parametrize(
    ("datatype", "data", "content_type", "told"),
    [
        ("BYTES", ["[10]"], "pd_json", "[10] in row 0"),
        ("BYTES", ["null", '{"a": 1}'], "pd_json", "{'a': 1} in row 1"),
        ("BYTES", ["1" + "0" * 4000], "pd_json", "1" + "0" * 79 + " in row 0"),
        ("BYTES", [None, ""], None, " in row 1 was none in training"),  # XGBoost answers as for the first category
        ("BYTES", ["a"], None, "a in row 0"),  # and this one as "ab"
        ("BYTES", ["bb"], None, "bb in row 0"),
        ("BYTES", ["AAAA"], "base64", "in row 0"),
        ("INT64", [20], None, "20 in row 0"),
        ("INT64", [10, 30, 10, 30], "np", "[10 30] in row 0"),
    ],
    ids=["list", "object", "huge", "empty", "beginning", "longer", "bytes", "number", "rows"],
)
@pytest.mark.parametrize("categories", [TEXTS, NUMBERS], ids=["texts", "numbers"])
def test_what_was_no_category_in_training_is_refused_in_words(
    tmp_path: Path, categories: list[Any], datatype: str, data: list[Any], content_type: str | None, told: str
) -> None:
    fitted_on(categories).save_model(tmp_path / "model.json")
    words = refusal_of(TRIAL.load(tmp_path), request_of(datatype, data, content_type))
    kind = "text" if categories is TEXTS else "whole numbers"
    assert f"column 'kind' holds categories that are {kind}, of which" in words
    assert told in words


def test_texts_beyond_ascii_are_refused_since_xgboost_takes_them_for_others(tmp_path: Path) -> None:
    categories = ["Bern", "Lima", "Zürich"]
    fitted = fitted_on(categories)
    fitted.save_model(tmp_path / "model.json")
    words = refusal_of(TRIAL.load(tmp_path), request_of("BYTES", ["Bern"]))
    assert "columns 'kind' are text" in words and "send one tensor with the categories' numbers" in words
    numbers = InferenceRequest(
        inputs=[{"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[3.0, 0], [3.0, 2]]}]
    )
    found = arrays(TRIAL.load(tmp_path).predict(numbers))["predict"].ravel()
    assert np.array_equal(
        found, fitted.predict(pd.DataFrame({"age": 3.0, "kind": pd.Categorical.from_codes([0, 2], categories)}))
    )
