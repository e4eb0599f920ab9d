"""Embeddings for CatBoost: the file tells their widths, and nothing else gets to CatBoost, which would crash."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pandas as pd
import pytest

from mlserve.codecs import NumpyCodec
from mlserve.errors import MLServeError, ModelLoadError
from mlserve.testing import check_runtime, running_server
from mlserve.types import InferenceRequest, RequestInput, RequestOutput
from mlserve_catboost import CatboostModel
from mlserve_catboost.embeddings import embedding_widths
from tests.runtime_trial import Trial, arrays, ask, refusal, refusal_of, request_of

TRIAL = Trial(CatboostModel)
OPTIONS: dict[str, Any] = {"iterations": 8, "verbose": False, "allow_writing_files": False, "thread_count": 1}
GENERATOR = np.random.default_rng(0)
FOUR, NINE, Z = GENERATOR.normal(size=(90, 4)), GENERATOR.normal(size=(90, 9)), GENERATOR.normal(size=90)
TABLE = pd.DataFrame({"e": list(FOUR), "z": Z, "g": list(NINE)})
BOTH = FOUR[:, 2] + Z + NINE[:, 0]


def fit(table: Any, target: Any, embeddings: list[Any], kind: Any = catboost.CatBoostClassifier, **more: Any) -> Any:
    return kind(**OPTIONS, **more).fit(catboost.Pool(table, target, embedding_features=embeddings))


CLASSIFIER = fit(TABLE, (BOTH > 0).astype(int), ["e", "g"])
ROWS = [[list(vector), float(z)] for vector, z in zip(FOUR, Z)]
UNNAMED = fit(ROWS, (FOUR[:, 2] > 0).astype(int), [0])


def request_with(tensor: dict[str, Any], rows: int = 3) -> InferenceRequest:
    """A request with an embedding as somebody sends it, and good values in the other columns."""
    z = NumpyCodec.encode_input("z", Z[:rows])
    g = {"name": "g", "shape": [rows, 9], "datatype": "FP64", "data": NINE[:rows].ravel().tolist()}
    return InferenceRequest(
        parameters={"content_type": "pd"},
        inputs=[RequestInput(name="e", **tensor), z, RequestInput(**g, parameters={"content_type": "np"})],
        outputs=[RequestOutput(name="predict_proba")],
    )


def as_json(*cells: Any) -> dict[str, Any]:
    """A column of which each cell is its JSON text."""
    data = [json.dumps(one) for one in cells]
    return {"shape": [len(data), 1], "datatype": "BYTES", "data": data, "parameters": {"content_type": "pd_json"}}


@pytest.mark.parametrize(
    ("fitted", "widths"),
    [
        (CLASSIFIER, {"e": 4, "g": 9}),
        (fit(TABLE, BOTH, ["e", "g"], catboost.CatBoostRegressor), {"e": 4, "g": 9}),
        (fit(TABLE, BOTH, ["e", "g"], catboost.CatBoostRegressor, grow_policy="Lossguide"), {"e": 4, "g": 9}),
        (fit(TABLE, (BOTH * 2).round().clip(-2, 2), ["e", "g"], loss_function="MultiClass"), {"e": 4, "g": 9}),
        (fit(TABLE[["e", "z"]], Z, ["e"], catboost.CatBoostRegressor, depth=1), {"e": None}),
        (fit(TABLE[["e", "g"]], (NINE[:, 0] > 0).astype(int), ["e", "g"], depth=1), {"e": None, "g": 9}),
        (UNNAMED, {"0": 4}),
    ],
    ids=["classifier", "regressor", "lossguide", "classes", "unused", "first unused", "unnamed"],
)
def test_the_file_tells_how_wide_each_embedding_is(tmp_path: Path, fitted: Any, widths: dict[str, Any]) -> None:
    fitted.save_model(str(tmp_path / "model.cbm"))
    assert TRIAL.load(tmp_path).input_check().embeddings == widths


def test_widths_are_found_behind_the_parts_of_categories_and_text(tmp_path: Path) -> None:
    table = TABLE.assign(city=["Oslo", "Lima", "Bern"] * 30, note=["good day", "bad", "embed_process_1"] * 30)
    target = (BOTH + (table["city"] == "Lima") + (table["note"] == "bad") > 0.5).astype(int)
    fitted = catboost.CatBoostClassifier(
        **OPTIONS, cat_features=["city"], text_features=["note"], embedding_features=["e", "g"]
    ).fit(table, target)
    fitted.save_model(str(tmp_path / "model.cbm"))
    model = TRIAL.load(tmp_path, content_type="pd")
    assert model.input_check().embeddings == {"e": 4, "g": 9}
    assert np.array_equal(ask(model, table, "predict_proba")["predict_proba"], fitted.predict_proba(table))


def test_embeddings_as_json_and_as_tensors_are_answered_as_by_catboost(tmp_path: Path) -> None:
    CLASSIFIER.save_model(str(tmp_path / "model.cbm"))
    wanted = CLASSIFIER.predict_proba(TABLE.head(3))
    (answer,) = check_runtime(TRIAL.settings(tmp_path), request_with(as_json(*FOUR[:3].tolist())), batches=True)
    assert np.array_equal(arrays(answer)["predict_proba"], wanted)
    plain = TRIAL.load(tmp_path)
    described = TRIAL.load(tmp_path, content_type="pd", extra={"signature": True})
    assert [(one.name, one.datatype, one.shape) for one in described.inputs] == [
        ("e", "FP64", [-1, 4]),
        ("z", "FP64", [-1, 1]),
        ("g", "FP64", [-1, 9]),
    ]
    flat = {"shape": [3, 4], "datatype": "FP64", "data": FOUR[:3].ravel().tolist()}
    for model, tensor in (
        (described, flat),
        (plain, {**flat, "parameters": {"content_type": "np"}}),
        (plain, {**flat, "data": FOUR[:3].tolist()}),
    ):
        assert np.array_equal(arrays(model.predict(request_with(tensor)))["predict_proba"], wanted)


GOOD = [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (as_json(GOOD, [0.5, 1.0, 1.5], GOOD), "row 1 has 3"),
        (as_json(GOOD, GOOD, [*GOOD, 1.0]), "row 2 has 5"),
        (as_json([], GOOD, GOOD), "row 0 has 0"),
        (as_json(GOOD, GOOD, None), "row 2 has a value of type NoneType"),
        (as_json({}, GOOD, GOOD), "row 0 has a value of type dict"),
        (as_json("", GOOD, GOOD), "row 0 has a value of type str"),
        (as_json(1.5, 2.5, 3.5), "row 0 has 1"),
        (as_json(GOOD, [0.5, None, 1.5, 2.0], GOOD), "row 1 has others"),
        (as_json(GOOD, ["0.5", "1", "1", "1"], GOOD), "row 1 has others"),
        (as_json(GOOD, [True, 1, 1, 1], GOOD), "row 1 has others"),
        (as_json([[0.5], [1.0], [1.5], [2.0]], GOOD, GOOD), "row 0 has others"),
        (as_json([[0.5], [1.0, 2.0], [1.5], [2.0]], GOOD, GOOD), "row 0 has others"),
        (as_json([10**300, 1, 1, 1], GOOD, GOOD), "row 0 has others"),
        (as_json([1e39, 1, 1, 1], GOOD, GOOD), "row 0 has others"),
        ({"shape": [3, 3], "datatype": "FP64", "data": [0.5] * 9, "parameters": {"content_type": "np"}}, "has 3"),
        ({"shape": [3, 1], "datatype": "FP64", "data": [0.5] * 3, "parameters": {"content_type": "np"}}, "has 1"),
        ({"shape": [3, 2, 2], "datatype": "FP64", "data": [0.5] * 12, "parameters": {"content_type": "np"}}, "has 2"),
        ({"shape": [3, 4], "datatype": "FP64", "data": [None] * 12, "parameters": {"content_type": "np"}}, "others"),
        ({"shape": [3, 4], "datatype": "BOOL", "data": [True] * 12, "parameters": {"content_type": "np"}}, "others"),
        ({"shape": [3, 1], "datatype": "BYTES", "data": ["", "abcd", "1234"]}, "row 0 has a value of type str"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_what_is_no_embedding_of_the_models_width_never_reaches_catboost(
    tmp_path: Path, tensor: dict[str, Any], told: str
) -> None:
    CLASSIFIER.save_model(str(tmp_path / "model.cbm"))
    words = refusal_of(TRIAL.load(tmp_path), request_with(tensor))
    assert "column 'e' holds embeddings, each a list of 4 finite numbers, but row" in words
    assert told in words


def test_a_column_without_rows_is_refused_in_words(tmp_path: Path) -> None:
    CLASSIFIER.save_model(str(tmp_path / "model.cbm"))
    tensor = {"shape": [0, 4], "datatype": "FP64", "data": [], "parameters": {"content_type": "np"}}
    assert "CatBoost needs one row at least" in refusal_of(TRIAL.load(tmp_path), request_with(tensor, 0))


def test_embeddings_that_the_trees_do_not_use_are_vectors_of_one_width(tmp_path: Path) -> None:
    fitted = fit(TABLE[["e", "z"]], Z, ["e"], catboost.CatBoostRegressor, depth=1)
    fitted.save_model(str(tmp_path / "model.cbm"))
    model = TRIAL.load(tmp_path, content_type="pd", extra={"signature": True})
    assert model.inputs[0].shape == [-1, -1]
    some = pd.DataFrame({"e": [[1.0, 2.0]] * 3, "z": Z[:3]})
    assert np.array_equal(ask(model, some)["predict"].ravel(), fitted.predict(TABLE[["e", "z"]].head(3)))
    for cells, told in (([[1.0], [1.0, 2.0], [1.0]], "row 1 has 2"), ([[], [], []], "row 0 has 0")):
        assert told in refusal(model, some.assign(e=cells))


def test_columns_without_names_are_checked_by_their_place(tmp_path: Path) -> None:
    UNNAMED.save_model(str(tmp_path / "model.cbm"))
    model = TRIAL.load(tmp_path, extra={"signature": True})
    assert model.inputs == []
    frame = pd.DataFrame({"any": list(FOUR[:3]), "other": Z[:3]})
    wanted = UNNAMED.predict_proba(catboost.Pool(ROWS[:3], embedding_features=[0]))
    assert np.array_equal(ask(model, frame, "predict_proba")["predict_proba"], wanted)
    assert "row 1 has 1" in refusal(model, frame.assign(any=[[1.0] * 4, [1.0], [1.0] * 4]))
    assert "row 0 has a value of type float" in refusal(model, np.ones((2, 2)))
    assert "row 0 has a value of type str" in refusal(model, np.array([["", 0.1]], object))


def test_a_model_whose_widths_cannot_be_told_is_not_served(tmp_path: Path) -> None:
    fit(TABLE[["g", "z"]], BOTH, ["g"], catboost.CatBoostRegressor).save_model(str(tmp_path / "model.cbm"))
    content = (tmp_path / "model.cbm").read_bytes()
    calcer = content.index(b"EmbedCalcerV1\0\0\0\3\0\0\0")  # that of LDA, beside that of KNN
    place = content.index(struct.pack("<i", 9), calcer)
    (tmp_path / "model.cbm").write_bytes(content[:place] + struct.pack("<i", 8) + content[place + 4 :])
    with pytest.raises(ModelLoadError, match=r"how many numbers they have cannot be read.* widths of \["):
        TRIAL.load(tmp_path)


def test_damaged_files_have_no_widths_and_no_other_end(tmp_path: Path) -> None:
    CLASSIFIER.save_model(str(tmp_path / "model.cbm"))
    content = (tmp_path / "model.cbm").read_bytes()
    good = embedding_widths(content)
    cut = 0
    for _ in range(300):
        damaged = bytearray(content[: int(GENERATOR.integers(0, len(content)))])
        for place in GENERATOR.integers(0, max(len(damaged), 1), 20):
            damaged[place : place + 1] = GENERATOR.bytes(1)
        try:
            assert all(width is None or width >= 1 for width in embedding_widths(bytes(damaged)).values())
        except ValueError:
            cut += 1
    assert good == {0: 4, 2: 9} and cut > 100


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_embedding_in_a_batch_fails_alone_and_no_worker_ends(tmp_path: Path, workers: int) -> None:
    CLASSIFIER.save_model(str(tmp_path / "model.cbm"))
    batching = {"max_batch_size": 6, "max_batch_time": 60.0, "batch_eager": False}  # a batch is all six
    settings = {"name": "m", "implementation": "catboost", **batching}
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    cells: list[Any] = [FOUR[0].tolist(), [], FOUR[1].tolist(), [0.5], FOUR[2].tolist(), None]
    with running_server(tmp_path, parallel_workers=workers) as server, ThreadPoolExecutor(6) as pool:

        def send(cell: Any) -> Any:
            try:
                return arrays(server.infer("m", request_with(as_json(cell), 1)))["predict_proba"]
            except MLServeError as error:
                return str(error)

        for found in (list(pool.map(send, cells)) for _ in range(2)):
            for at in (0, 2, 4):
                row = TABLE.head(1).assign(e=[cells[at]])
                assert np.array_equal(found[at], CLASSIFIER.predict_proba(row))
            for at, told in ((1, "row 0 has 0"), (3, "row 0 has 1"), (5, "row 0 has a value of type NoneType")):
                assert told in str(found[at])


def test_a_request_of_the_table_itself_passes_the_conformance_suite(tmp_path: Path) -> None:
    CLASSIFIER.save_model(str(tmp_path / "model.cbm"))
    request = request_of(TABLE.head(9), "predict", "calc_leaf_indexes")
    (answer,) = check_runtime(TRIAL.settings(tmp_path), request, batches=True)
    found = arrays(answer)
    assert np.array_equal(found["predict"].ravel(), CLASSIFIER.predict(TABLE.head(9)))
    assert np.array_equal(found["calc_leaf_indexes"], CLASSIFIER.calc_leaf_indexes(TABLE.head(9)))
