"""Texts and numbers together: what a text pipeline makes of numbers, and answers in whose rows both are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlserve.codecs import StringCodec, StringRequestCodec
from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial, refusal, refusal_of, request_of

TRIAL = Trial(SKLearnModel)
TABLE = pd.DataFrame({"age": [20, 30, 40], "city": ["Oslo", "Lima", "Rome"], "ok": [True, False, True]})


def load(folder: Path, fitted: Any, **parameters: Any) -> Any:
    joblib.dump(fitted, folder / "model.joblib")
    return TRIAL.load(folder, **parameters)


def test_numbers_for_a_text_pipeline_are_the_clients_fault(tmp_path: Path) -> None:
    model = load(tmp_path, make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["a good", "bad day"], [0, 1]))
    told = refusal(model, np.array([[1.5], [2.5]]))
    assert told == (
        "model 'm' cannot use this input: it takes text, not ndarray; send datatype BYTES with the content type 'str'"
    )
    request = StringRequestCodec.encode_request(["good", "day"])
    request.inputs[0].data = ["good", None]
    assert "it takes text, not NoneType" in refusal_of(model, request)


def _spell(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.spelled  # no frame has it: a mistake in code of one's own


def test_an_estimator_that_lacks_an_attribute_is_not_the_clients_fault(tmp_path: Path) -> None:
    scaler = StandardScaler().fit([[1.0], [2.0]])
    del scaler.scale_, scaler.with_std  # as from another version of the library
    with pytest.raises(AttributeError, match="with_std"):
        load(tmp_path, scaler).predict(request_of(np.array([[1.0]])))
    model = load(tmp_path, FunctionTransformer(_spell), content_type="pd")
    with pytest.raises(AttributeError, match="spelled"):
        model.predict(request_of(TABLE))


PASSING = ColumnTransformer([("n", StandardScaler(), ["age"])], remainder="passthrough")


@pytest.mark.parametrize("signature", [False, True])
def test_rows_of_texts_and_numbers_become_an_output_a_column(tmp_path: Path, signature: bool) -> None:
    fitted = PASSING.fit(TABLE)
    model = load(tmp_path, fitted, content_type="pd", extra={"signature": signature})
    scaled, city, ok = model.predict(request_of(TABLE, "transform")).outputs
    assert [scaled.name, city.name, ok.name] == fitted.get_feature_names_out().tolist()
    assert (scaled.datatype, scaled.shape) == ("FP64", [3, 1])
    assert list(scaled.data) == [row[0] for row in fitted.transform(TABLE)]
    assert (city.datatype, city.shape, StringCodec.decode_output(city)) == ("BYTES", [3, 1], ["Oslo", "Lima", "Rome"])
    assert city.parameters.content_type == "str"
    assert (ok.datatype, list(ok.data)) == ("BOOL", [True, False, True])


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    model = load(tmp_path, make_pipeline(PASSING, FunctionTransformer()).fit(TABLE), content_type="pd")
    outputs = model.predict(request_of(TABLE)).outputs
    assert [one.name for one in outputs] == ["transform_0", "transform_1", "transform_2"]


def test_texts_alone_and_numbers_alone_stay_one_output(tmp_path: Path) -> None:
    passing = ColumnTransformer([("n", StandardScaler(), ["age"])], remainder="passthrough").fit(TABLE)
    numbers = TABLE.assign(city=[1, 2, 3])
    (sent,) = load(tmp_path, passing, content_type="pd").predict(request_of(numbers)).outputs
    assert (sent.name, sent.shape) == ("transform", [3, 3])


def test_a_sparse_answer_that_would_be_too_large_written_out_is_refused(tmp_path: Path) -> None:
    vectorizer = HashingVectorizer().fit(["a"])
    model = load(tmp_path, vectorizer, content_type="str")
    told = refusal_of(model, StringRequestCodec.encode_request(["a"] * 24))
    assert "'transform' is sparse, and would be 24 rows of 1048576 numbers each" in told
    assert "at most 25000000 numbers (parameters.extra.max_answer_numbers): send at most 23 rows at a time" in told
    few = load(
        tmp_path, HashingVectorizer(n_features=8).fit(["a"]), content_type="str", extra={"max_answer_numbers": 16}
    )
    assert few.predict(StringRequestCodec.encode_request(["a b", "c"])).outputs[0].shape == [2, 8]
    assert "send at most 2 rows" in refusal_of(few, StringRequestCodec.encode_request(["a", "b", "c"]))
