"""Categories of LightGBM models: which columns they are comes from the file, and what cannot be told is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest

from mlserve_lightgbm import LightGBMModel
from mlserve_lightgbm.categories import categories_by_column
from tests.runtime_trial import Trial, ask, refusal

TRIAL = Trial(LightGBMModel)

OPTIONS = {
    "objective": "regression", "verbosity": -1, "num_threads": 1, "num_leaves": 8, "min_data_in_leaf": 1,
    "min_data_per_group": 1, "cat_smooth": 1, "max_cat_to_onehot": 1,
}  # fmt: skip
ROWS = np.arange(240)
TABLE = pd.DataFrame(
    {
        "size": ROWS * 0.25,
        "the city": pd.Categorical(np.array(["Bern", "Lima", "Oslo"])[ROWS % 3]),
        "month": pd.Categorical(np.array([10, 11, 12, 20])[ROWS % 4]),
        "open": pd.Categorical(ROWS // 5 % 2 == 1),
        "kind": pd.Categorical(["one"] * len(ROWS)),
        "flag": ROWS // 7 % 2,
    }
)
TARGETS = (ROWS % 3 == 1) * 3.0 + (ROWS % 4 - 1) ** 2 + (ROWS // 5 % 2) * 2 + ROWS * 0.01


def train(table: Any = TABLE, **options: Any) -> lightgbm.Booster:
    return lightgbm.train(OPTIONS, lightgbm.Dataset(table, TARGETS, **options), 8)


def plain(table: Any = TABLE) -> Any:
    """Rows as a client sends them: without types of categories."""
    kinds = {name: table[name].cat.categories.dtype for name in table.columns if table[name].dtype.name == "category"}
    return table.astype(kinds)


def load(folder: Path, booster: lightgbm.Booster, **extra: Any) -> Any:
    booster.save_model(folder / "model.txt")
    return TRIAL.load(folder, content_type="pd", extra=extra)


BOOSTER = train()


def test_text_numbers_and_booleans_of_a_frame_become_the_categories_of_training(tmp_path: Path) -> None:
    model = load(tmp_path, BOOSTER)
    wanted = BOOSTER.predict(TABLE)
    assert len(set(BOOSTER.predict(TABLE.assign(month=TABLE["month"].cat.set_categories([20, 12, 11, 10]))))) > 8
    assert np.array_equal(ask(model, plain())["predict"].ravel(), wanted)
    shuffled = plain()[list(TABLE.columns)[::-1]].iloc[[5, 1]]  # not all categories are there
    assert np.array_equal(ask(model, shuffled)["predict"].ravel(), wanted[[5, 1]])
    as_signed = plain().astype({"month": float, "open": float})  # as the metadata of numbers has it
    assert np.array_equal(ask(model, as_signed)["predict"].ravel(), wanted)


def test_an_estimator_takes_them_too(tmp_path: Path) -> None:
    fitted = lightgbm.LGBMRegressor(n_estimators=5, n_jobs=1, verbosity=-1).fit(TABLE, TARGETS)
    joblib.dump(fitted, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path, content_type="pd")
    assert np.array_equal(ask(model, plain())["predict"].ravel(), fitted.predict(TABLE))


def test_missing_and_unknown_categories_are_missing_values_as_in_lightgbm(tmp_path: Path) -> None:
    model = load(tmp_path, BOOSTER)
    rows = plain().iloc[:3].astype({"the city": object, "month": float})
    rows.loc[0, "the city"], rows.loc[1, "month"] = None, np.nan
    rows.loc[2, "month"] = 13
    missing = TABLE.iloc[:3].copy()
    missing.loc[0, "the city"], missing.loc[[1, 2], "month"] = None, np.nan
    assert np.array_equal(ask(model, rows)["predict"].ravel(), BOOSTER.predict(missing))
    rows["the city"] = np.full(3, np.nan)  # missing in all rows, sent as numbers
    missing["the city"] = missing["the city"].where([False] * 3)
    assert np.array_equal(ask(model, rows)["predict"].ravel(), BOOSTER.predict(missing))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("month", ["10", "11"], "column 'month' holds categories that are numbers (10, 11, 12, …), got text"),
        ("the city", [0, 1], "column 'the city' holds categories that are text ('Bern', 'Lima', 'Oslo'), got numbers"),
        ("month", [True, False], "categories that are numbers (10, 11, 12, …), got booleans"),
        ("open", ["True", "False"], "categories that are booleans (False, True), got text"),
        ("size", ["1", "2"], "Fields with bad pandas dtypes: size"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path: Path, column: str, values: list[Any], words: str) -> None:
    """LightGBM would take them for missing ones, and answer."""
    assert words in refusal(load(tmp_path, BOOSTER), plain().iloc[:2].assign(**{column: values}))


def test_the_signature_names_the_columns_and_which_are_text(tmp_path: Path) -> None:
    declared = load(tmp_path, BOOSTER, signature=True).inputs
    assert [(one.name, one.datatype) for one in declared] == [
        ("size", "FP64"),
        ("the_city", "BYTES"),
        ("month", "FP64"),
        ("open", "FP64"),
        ("kind", "BYTES"),
        ("flag", "FP64"),
    ]
    assert declared[1].parameters.content_type == "str"


# -- which columns ----------------------------------------------------------------------------------------------------


def test_categories_with_an_order_are_found_among_the_numbers(tmp_path: Path) -> None:
    """LightGBM numbers them, but takes them as numbers: so the file has their list, and no mark."""
    table = TABLE.assign(month=TABLE["month"].cat.as_ordered())
    booster = train(table)
    found = categories_by_column(booster)
    assert found is not None and list(found) == ["the_city", "month", "open", "kind"]
    assert np.array_equal(ask(load(tmp_path, booster), plain())["predict"].ravel(), booster.predict(table))


def test_columns_that_the_training_named_do_not_move_the_lists(tmp_path: Path) -> None:
    """Here 'digit' is a category of LightGBM without a list, and 'month' has a list, but is no category of LightGBM."""
    table = TABLE[["size", "month"]].assign(digit=ROWS % 5)
    booster = train(table, categorical_feature=["digit"])
    model = load(tmp_path, booster, signature=True)
    # 'digit' could be what the list is of: nothing in the file says that it is not.
    assert model.inputs == []
    assert "does not tell which columns they are" in refusal(model, plain(table))
    as_numbers = np.column_stack([table["size"], table["month"].cat.codes, table["digit"]]).astype(float)
    array = TRIAL.load(tmp_path)
    assert np.array_equal(ask(array, as_numbers)["predict"].ravel(), booster.predict(table))


def test_text_is_known_by_being_text_where_the_file_hides_the_columns(tmp_path: Path) -> None:
    zones = pd.Categorical(np.array(["a", "b", "c"])[ROWS // 3 % 3])
    table = TABLE[["size", "the city"]].assign(zone=zones, digit=ROWS // 9 % 3)
    booster = train(table, categorical_feature=["the city", "zone", "digit"])
    assert categories_by_column(booster) is None
    model = load(tmp_path, booster)
    assert np.array_equal(ask(model, plain(table))["predict"].ravel(), booster.predict(table))
    told = refusal(model, plain(table).assign(zone=1.0))
    assert "2 columns were categories of text in training, but 'the city' of these are text" in told


def test_a_number_that_could_be_the_category_is_not_guessed(tmp_path: Path) -> None:
    """Two categories that are numbers, and a column of 0 and 1: either can be what the list is of."""
    table = TABLE[["flag"]].assign(side=pd.Categorical(np.array([5, 6])[ROWS % 2]), size=TABLE["size"])
    booster = train(table)
    assert categories_by_column(booster) is None
    assert "does not tell which columns" in refusal(load(tmp_path, booster), plain(table))


def test_a_frame_whose_columns_are_called_as_lightgbm_calls_them_keeps_its_names(tmp_path: Path) -> None:
    table = TABLE[["size", "month"]].set_axis(["Column_0", "Column_1"], axis=1)
    booster = train(table)
    found = ask(load(tmp_path, booster), plain(table)[["Column_1", "Column_0"]])["predict"].ravel()
    assert np.array_equal(found, booster.predict(table))
