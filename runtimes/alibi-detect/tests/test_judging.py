"""What a request is refused for before a detector sees it, and that a refused one leaves no trace."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anyio
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlserve import ModelSettings
from mlserve.codecs import NumpyCodec, NumpyRequestCodec, StringCodec
from mlserve.errors import InferenceError
from mlserve.types import InferenceRequest, Parameters, RequestInput, RequestOutput
from mlserve_alibi_detect import AlibiDetectRuntime
from mlserve_alibi_detect.collecting import Collector
from mlserve_alibi_detect.judging import Judge

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi_detect.cd import (
        ChiSquareDrift,
        ClassifierDrift,
        CVMDriftOnline,
        FETDriftOnline,
        KSDrift,
        LSDDDrift,
        LSDDDriftOnline,
        MMDDrift,
        MMDDriftOnline,
        TabularDrift,
    )
    from alibi_detect.od import IForest, Mahalanobis
    from alibi_detect.saving import save_detector

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(100, 3)).astype("float32")
BITS = (ROWS > 0).astype("int64")
TABLE = np.array([[one, "abc"[at % 3]] for at, one in enumerate(ROWS[:, 0].tolist())], object)
TEXTS = np.array([["a", "b", "c"]])
ONLINE = {"ert": 50, "verbose": False}


def halved(rows: Any) -> Any:
    """A preprocessing step."""
    return rows / 2


def lengths(words: list[str]) -> Any:
    """Another one, which takes texts."""
    return np.array([[float(len(one))] for one in words])


def fitted_forest() -> Any:
    forest = IForest(threshold=0.0)
    forest.fit(ROWS)
    return forest


MADE: dict[str, Any] = {
    "classifier": lambda: ClassifierDrift(ROWS, LogisticRegression(), backend="sklearn", n_folds=2),
    "several": lambda: ClassifierDrift(
        ROWS, make_pipeline(StandardScaler(), LogisticRegression()), backend="sklearn", n_folds=2
    ),
    "ks": lambda: KSDrift(ROWS),
    "mixed table": lambda: TabularDrift(TABLE, categories_per_feature={1: None}),
    "words": lambda: ChiSquareDrift(np.array(["a", "b"] * 50, object)),
    "lengths": lambda: KSDrift(["a", "bcd"] * 50, preprocess_fn=lengths),
    "mmd": lambda: MMDDrift(ROWS, backend="pytorch", n_permutations=5),
    "mmd of halves": lambda: MMDDrift(ROWS, backend="pytorch", n_permutations=5, preprocess_fn=halved),
    "mmd of tensorflow": lambda: MMDDrift(ROWS, backend="tensorflow", n_permutations=5),
    "lsdd": lambda: LSDDDrift(ROWS, backend="pytorch", n_permutations=5),
    "mmd online": lambda: MMDDriftOnline(ROWS, window_size=5, backend="pytorch", n_bootstraps=100, **ONLINE),
    "lsdd online": lambda: LSDDDriftOnline(ROWS, window_size=5, backend="pytorch", n_bootstraps=100, **ONLINE),
    "cvm online": lambda: CVMDriftOnline(ROWS, window_sizes=[10], n_bootstraps=500, batch_size=100, **ONLINE),
    "fet online": lambda: FETDriftOnline(BITS, window_sizes=[10], n_bootstraps=500, **ONLINE),
    "forest": fitted_forest,
    "mahalanobis": lambda: Mahalanobis(threshold=5.0),
    "renewed": lambda: KSDrift(ROWS, update_x_ref={"last": 50}),
}


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of saved detectors, each made when it is first asked for."""
    return tmp_path_factory.mktemp("detectors")


def load(detectors: Path, kind: str, **extra: Any) -> AlibiDetectRuntime:
    folder = detectors / kind
    if not folder.exists():
        save_detector(MADE[kind](), str(folder))
    parameters = {"uri": str(folder), "version": "v1", "extra": extra}
    model = AlibiDetectRuntime(ModelSettings(name="d", implementation=AlibiDetectRuntime, parameters=parameters))
    assert anyio.run(model.load)
    return model


def ask(model: AlibiDetectRuntime, data: Any, *outputs: str) -> dict[str, Any]:
    request = NumpyRequestCodec.encode_request(data)
    request.outputs = [RequestOutput(name=name) for name in outputs] or None
    return {one.name: NumpyCodec.decode_output(one) for one in model.predict(request).outputs}


def times(model: AlibiDetectRuntime, rows: Any) -> list[int]:
    return [int(one) for one in ask(model, rows)["time"].ravel()]


def check_refused(model: AlibiDetectRuntime, words: str, data: Any, *outputs: str) -> None:
    with pytest.raises(InferenceError, match=words) as caught:
        ask(model, data, *outputs)
    assert caught.value.http_status == 400


@pytest.fixture
def fresh(detectors: Path) -> Any:
    """Loads a detector, without what it learnt in the test before."""
    loaded: list[AlibiDetectRuntime] = []

    def make(kind: str, **extra: Any) -> AlibiDetectRuntime:
        loaded.append(load(detectors, kind, **extra))
        loaded[-1]._detector.reset_state()
        return loaded[-1]

    yield make
    for model in loaded:
        anyio.run(model.unload)


# -- what a refused request leaves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cvm online", "fet online", "mmd online"])
def test_texts_do_not_end_a_detector_of_numbers(detectors: Path, fresh: Any, kind: str) -> None:
    rows = BITS if kind == "fet online" else ROWS
    model = fresh(kind)
    assert times(model, rows[:2]) == [1, 2]
    check_refused(model, "takes numbers, got BYTES", TEXTS)
    assert times(model, rows[2:12]) == list(range(3, 13))
    assert anyio.run(model.unload)
    assert times(load(detectors, kind), rows[:1]) == [13]


@pytest.mark.parametrize("kind", ["mmd online", "lsdd online", "cvm online", "mahalanobis", "renewed"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_would_blind_a_detector_that_remembers_are_refused(detectors: Path, kind: str, odd: float) -> None:
    model = load(detectors, kind)
    if odd != 1e300 or kind.startswith(("mmd", "lsdd")):  # of 32 bits
        words = "a number is beyond FP32" if odd == 1e300 else "NaN or infinity would spoil the test of the others"
        check_refused(model, words, np.full((1, 3), odd))
    found = ask(model, ROWS[:20])
    told = {"mahalanobis": "instance_score", "renewed": "p_val"}.get(kind, "test_stat")
    assert np.isfinite(found[told]).any()  # before its window is full, an online detector tells NaN


def test_rows_before_the_one_that_a_detector_refuses_are_not_seen(detectors: Path, fresh: Any) -> None:
    model = fresh("fet online", state_save_freq=1)
    assert times(model, BITS[:2]) == [1, 2]
    for _ in range(2):
        check_refused(model, "must consist of only", np.concatenate([BITS[:3], BITS[:1] + 5]))
    assert times(load(detectors, "fet online"), BITS[:1]) == [3]


def test_a_name_of_no_output_is_refused_before_the_first_answer_and_after_it(fresh: Any) -> None:
    model = fresh("mmd online")
    for at in (1, 2):
        check_refused(model, "no output 'nope': it has is_drift, .*time", ROWS[:3], "time", "nope")
        assert times(model, ROWS[:1]) == [at]


def test_a_detector_that_learns_learns_nothing_of_a_refused_request(detectors: Path) -> None:
    refusing, other = load(detectors, "mahalanobis"), load(detectors, "mahalanobis")
    check_refused(refusing, "no output 'nope'", ROWS[:50] * 9, "nope")
    for rows in (ROWS[:50], ROWS[50:]):
        np.testing.assert_array_equal(ask(refusing, rows)["instance_score"], ask(other, rows)["instance_score"])


# -- types of numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mmd online", "lsdd online"])
@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "bool"])
def test_numbers_become_those_of_the_reference_data(fresh: Any, kind: str, dtype: str) -> None:
    rows = np.abs(ROWS * 10).astype(dtype)
    model = fresh(kind)
    expected = ask(model, rows.astype("float32"))
    model._detector.reset_state()
    np.testing.assert_array_equal(ask(model, rows)["test_stat"], expected["test_stat"])


def test_a_number_that_does_not_go_into_their_type_is_refused() -> None:
    """By a detector that learns of whole numbers, as one with an embedding does."""
    detector = SimpleNamespace(meta={"backend": "pytorch", "detector_type": "drift"}, x_ref=BITS)
    judge = Judge("d", detector, 1, None)
    assert judge.rows(np.array([[1.0, 2.0, 3.0]])).dtype == BITS.dtype
    with pytest.raises(InferenceError, match="takes INT64, as its reference data are, got FP64"):
        judge.rows(np.array([[1.0, 2.5, 3.0]]))


def test_tensorflow_takes_all_numbers_too(detectors: Path) -> None:
    for dtype in ("float64", "int64", "uint8", "bool"):
        assert ask(load(detectors, "mmd of tensorflow"), ROWS[:20].astype(dtype))["is_drift"].shape == (1, 1)


def table_of(*columns: Any) -> InferenceRequest:
    codecs = [StringCodec if isinstance(one, list) else NumpyCodec for one in columns]
    inputs = [codec.encode_input(f"c{at}", one) for at, (codec, one) in enumerate(zip(codecs, columns))]
    return InferenceRequest(inputs=inputs, parameters={"content_type": "pd"})


def test_a_detector_of_numbers_and_texts_is_served(detectors: Path) -> None:
    model = load(detectors, "mixed table", batch_size=2)
    numbers, words = ROWS[:20, 0], ["a", "b"] * 10
    spoiled = numbers.copy()
    spoiled[3] = np.nan
    assert model.predict(table_of(numbers, words)).outputs == []
    for columns, told in (
        ((words, numbers), "takes numbers in column 0, got 'a'"),
        ((spoiled, words), "takes numbers in column 0, got nan"),
        ((numbers, numbers), "takes texts in column 1, got "),
        ((numbers, words, numbers), r"takes an array of shape \[-1, 2\], got \[20, 3\]"),
    ):
        with pytest.raises(InferenceError, match=told):
            model.predict(table_of(*columns))
    (drift,) = [one for one in model.predict(table_of(numbers, words)).outputs if one.name == "is_drift"]
    assert NumpyCodec.decode_output(drift).shape == (1, 1)


@pytest.mark.parametrize("size", [None, 2])
def test_numbers_are_refused_where_the_reference_is_a_row_of_texts(detectors: Path, size: int | None) -> None:
    model = load(detectors, "words", batch_size=size)
    numbers = InferenceRequest(inputs=[RequestInput(name="x", shape=[20], datatype="INT64", data=list(range(20)))])
    words = InferenceRequest(
        inputs=[RequestInput(name="x", shape=[20], datatype="BYTES", data=["a", "b"] * 10)],
        parameters={"content_type": "np"},
    )
    for _ in range(2):
        with pytest.raises(InferenceError, match="takes texts in column 0, got 0"):
            model.predict(numbers)
        answers = [model.predict(words).outputs for _ in range(size or 1)]
    assert [bool(one) for one in answers] == [False] * (len(answers) - 1) + [True]


# -- requests that are collected ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mmd", "ks", "mahalanobis"])
def test_types_of_numbers_mix_in_a_batch(detectors: Path, kind: str) -> None:
    model = load(detectors, kind, batch_size=3)
    for _ in range(2):
        assert ask(model, ROWS[:10].astype("float64")) == {}
        assert ask(model, ROWS[:10]) == {}
        assert ask(model, ROWS[:10])


def test_before_a_step_that_may_take_one_type_only_a_batch_has_that_of_its_first(detectors: Path) -> None:
    model = load(detectors, "mmd of halves", batch_size=2)
    for first, second in ((ROWS, ROWS.astype("float64")), (ROWS.astype("float64"), ROWS), (BITS, ROWS)):
        assert ask(model, first[:10]) == {}
        assert ask(model, second[:10])


def collected(*parts: Any) -> Collector:
    collector = Collector("d", len(parts))
    assert [collector.add(part, "numbers") for part in parts] == [False] * (len(parts) - 1) + [True]
    return collector


@pytest.mark.parametrize(
    ("first", "second", "common", "others"),
    [
        (("uint8", [200]), ("int8", [-5]), "int16", []),
        (("uint32", [4_000_000_000]), ("int32", [-5]), "int64", []),
        (("float16", [1]), ("float32", [1e6]), "float32", []),
        (("float16", [1]), ("int64", [70_000]), "float64", ["int64"]),
        (("float32", [1]), ("float64", [1764172801]), "float64", ["float32"]),
        (("int64", [2**24 + 1]), ("float32", [0.5]), "float64", []),
        (("int64", [2**24]), ("float32", [0.5]), "float64", ["float32"]),
        (("float32", [1]), ("float64", [1e300]), "float64", []),
        (("bool", [True]), ("int64", [5]), "int64", []),
        (("int64", [1]), ("float32", [1]), "float64", ["int64", "float32"]),
    ],
)
def test_numbers_of_several_types_keep_their_values(first: Any, second: Any, common: str, others: list[str]) -> None:
    """Other types are tried only where the detector refuses the one that holds all; whole numbers never change."""
    made, *more = collected(np.array(first[1], first[0]), np.array(second[1], second[0])).batches()
    assert made.dtype == common and made.tolist() == [*first[1], *second[1]]
    assert [one.dtype for one in more] == others


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 + 5])
def test_whole_numbers_that_no_type_holds_beside_others_are_in_nobodys_way(number: int) -> None:
    first, second = np.array([number], "uint64"), np.array([-0.5], "float32")
    batch, *_ = collected(first, second).batches()
    assert batch.tolist() == [float(number), -0.5]


def test_whole_numbers_and_fractions_of_a_table_are_tested_together(detectors: Path) -> None:
    model = load(detectors, "mixed table", batch_size=2)
    numbers, words = ROWS[:20, 0], ["a", "b"] * 10
    for first, second in ((numbers, numbers > 0), ((numbers * 10).astype("int64"), numbers), (numbers, numbers)):
        assert model.predict(table_of(first, words)).outputs == []
        assert model.predict(table_of(second, words)).outputs


def test_what_was_answered_last_is_tried_before_what_came() -> None:
    collector = collected(ROWS, ROWS)
    collector.answered(next(collector.batches()))
    for part in (ROWS.astype("float64"), ROWS.astype("float16").astype("float64")):
        collector.add(part, "numbers")
    assert [one.dtype for one in collector.batches()] == ["float64", "float32"]


def test_texts_of_a_batch_stay_whole() -> None:
    (batch,) = collected(np.array(["a long text"]), np.array(["a"])).batches()
    assert batch.tolist() == ["a long text", "a"]


@pytest.mark.parametrize(
    ("content_type", "data", "kinds"),
    [("datetime", ["2024-01-01T00:00:00"] * 2, "datetime"), ("str", [None, "a"], "NoneType, texts")],
)
def test_lists_are_of_the_same(detectors: Path, content_type: str, data: list[Any], kinds: str) -> None:
    model = load(detectors, "lengths", batch_size=2)
    texts = InferenceRequest(inputs=[StringCodec.encode_input("x", ["a", "bcd"] * 10)])
    texts.parameters = Parameters(content_type="str")
    other = InferenceRequest(
        inputs=[
            RequestInput(name="x", shape=[2], datatype="BYTES", data=data, parameters={"content_type": content_type})
        ],
        parameters={"content_type": content_type},
    )
    assert [bool(model.predict(texts).outputs) for _ in range(2)] == [False, True]
    with pytest.raises(InferenceError, match=f"expected a list of texts as in those before, got a list of {kinds}"):
        model.predict(other)
    assert [bool(model.predict(texts).outputs) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("kind", ["classifier", "several"])
def test_a_detector_that_learns_gives_what_can_be_sent(detectors: Path, kind: str) -> None:
    found = ask(load(detectors, kind), ROWS[:20])
    assert {"is_drift", "distance", "p_val"} <= found.keys()
    assert "model" not in found


@pytest.mark.parametrize("kind", ["mmd", "ks", "forest", "mahalanobis"])
@pytest.mark.parametrize(
    ("misfit", "words"),
    [
        (ROWS[:0], "takes one row at least, got none"),
        (TEXTS, "takes numbers|as in those before"),
        (np.full((1, 3), np.nan), "NaN or infinity would spoil the test of the others"),
    ],
)
def test_what_nobody_can_test_is_not_collected(detectors: Path, kind: str, misfit: Any, words: str) -> None:
    model = load(detectors, kind, batch_size=2)
    assert [len(ask(model, ROWS[:10])) > 0 for _ in range(2)] == [False, True]
    check_refused(model, words, misfit)
    assert ask(model, ROWS[:10]) == {}
    check_refused(model, words, misfit)
    assert ask(model, ROWS[:10])


def test_who_names_no_output_loses_no_batch_of_others(detectors: Path) -> None:
    model = load(detectors, "mmd", batch_size=2)
    for _ in range(2):  # before the names are known, and after
        assert ask(model, ROWS[:10]) == {}
        check_refused(model, "no output 'nope': it has is_drift", ROWS[:10], "nope")
        assert ask(model, ROWS[:10])


# -- how much one request may cost -------------------------------------------------------------------------------------


def test_an_output_is_sent_twice_at_most(detectors: Path) -> None:
    model = load(detectors, "forest")
    request = NumpyRequestCodec.encode_request(ROWS)
    request.outputs = [RequestOutput(name="instance_score")] * 2
    assert len(model.predict(request).outputs) == 2
    check_refused(model, "asked for 3 times, 2 times at most", ROWS, *["instance_score"] * 3)


@pytest.mark.parametrize(
    ("kind", "most"), [("mmd", 5000), ("lsdd", 5000), ("mmd of halves", 5000), ("mmd online", 1000)]
)
def test_rows_are_bounded_where_they_cost_much(detectors: Path, kind: str, most: int) -> None:
    rows = np.zeros((most + 1, 3), "float32")
    check_refused(load(detectors, kind), f"takes {most} rows at most in a request, got {most + 1}", rows)


def test_rows_are_not_bounded_where_they_cost_little(detectors: Path) -> None:
    rows = np.tile(ROWS, (60, 1))
    for kind in ("ks", "forest", "mahalanobis"):
        assert ask(load(detectors, kind), rows)


@pytest.mark.parametrize("kind", ["mmd", "ks", "mmd online"])
def test_the_settings_bound_the_rows_of_a_test(detectors: Path, kind: str) -> None:
    model = load(detectors, kind, max_rows=10)
    check_refused(model, "takes 10 rows at most in a request, got 11", ROWS[:11])
    assert ask(model, ROWS[:10])


def test_requests_that_are_collected_share_the_rows_of_a_test(detectors: Path) -> None:
    model = load(detectors, "mmd", max_rows=10, batch_size=2)
    check_refused(model, "takes 5 rows at most in a request, got 6", ROWS[:6])
    assert ask(model, ROWS[:5]) == {}
    assert ask(model, ROWS[:5])


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ks", "mmd", "mmd of halves", "mmd online", "forest", "mahalanobis"])
def test_a_request_without_rows_is_refused_by_all(detectors: Path, kind: str) -> None:
    check_refused(load(detectors, kind), "takes one row at least, got none", ROWS[:0])


def test_a_refusal_names_no_files_of_the_server(detectors: Path) -> None:
    with pytest.raises(InferenceError, match=r"cannot use this input: RuntimeError: .*dtype.*") as caught:
        ask(load(detectors, "mmd of halves"), ROWS[:10].astype("float64"))
    assert "File" not in str(caught.value)
    assert "\n" not in str(caught.value)
