"""Models that Spark trained and saved: all kinds of folder, columns and vectors; answers equal Spark's own.

One Java process serves all of these tests: the runtime's own session, which trains the models too.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

with warnings.catch_warnings():  # of pyspark's, which does not know pandas 3
    warnings.simplefilter("ignore")
    from mlserve_mllib import MLlibModel, session
    from mlserve_mllib import direct as direct_module
    from mlserve_mllib import frames as frames_module

from pyspark import SparkContext
from pyspark.ml import Pipeline
from pyspark.ml.classification import DecisionTreeClassifier, LogisticRegression
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import (
    BucketedRandomProjectionLSH,
    HashingTF,
    MinHashLSH,
    SQLTransformer,
    StandardScaler,
    StringIndexer,
    Tokenizer,
    VectorAssembler,
)
from pyspark.ml.linalg import DenseVector
from pyspark.mllib.regression import LabeledPoint, LinearRegressionModel
from pyspark.mllib.tree import DecisionTree

from mlserve import ModelSettings, spark_process
from mlserve.codecs import DatetimeCodec, NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec
from mlserve.errors import InferenceError, MLServeError, ModelLoadError
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest, RequestInput, RequestOutput

ROWS = np.array([[float(at % 5), float(at % 3)] for at in range(30)])
TABLE = [("ab"[at % 2], float(at % 5), float(at % 3), float(at % 2)) for at in range(30)]


class Trained:
    """The folders of the models, and what Spark itself answers."""

    def __init__(self, root: Path, spark: Any, user: session.Wanted) -> None:
        self.root = root
        self.user = user
        frame = spark.createDataFrame([(DenseVector(row), float(row.sum() > 3)) for row in ROWS], ["features", "label"])
        table = spark.createDataFrame(TABLE, ["c", "x", "y", "label"])
        self.wanted = {
            "logistic": self._save("logistic", LogisticRegression(maxIter=2), frame, frame),
            "kmeans": self._save("kmeans", KMeans(k=2, seed=1, initMode="random", maxIter=2), frame, frame),
            "pipeline": self._save(
                "pipeline",
                Pipeline(
                    stages=[
                        StandardScaler(inputCol="features", outputCol="scaled"),
                        DecisionTreeClassifier(featuresCol="scaled", maxDepth=2),
                    ]
                ),
                frame,
                frame,
            ),
            "columns": self._save(
                "columns",
                Pipeline(
                    stages=[
                        StringIndexer(inputCol="c", outputCol="ci"),
                        VectorAssembler(inputCols=["ci", "x", "y"], outputCol="features"),
                        DecisionTreeClassifier(maxDepth=2),
                    ]
                ),
                table,
                table,
            ),
        }
        Pipeline(stages=[Tokenizer(inputCol="text", outputCol="words")]).fit(
            spark.createDataFrame([("a b",)], ["text"])
        ).save(str(root / "words"))
        hashed = [Tokenizer(inputCol="text", outputCol="words"), HashingTF(inputCol="words", outputCol="hashed")]
        Pipeline(stages=hashed).fit(spark.createDataFrame([("a b",)], ["text"])).save(str(root / "hashed"))
        points = spark.sparkContext.parallelize([LabeledPoint(float(row.sum() > 3), row) for row in ROWS])
        tree = DecisionTree.trainClassifier(points, 2, {}, maxDepth=2)
        linear = LinearRegressionModel([0.5, 2.0], 1.0)
        for name, model in {"rdd-tree": tree, "rdd-linear": linear}.items():
            model.save(spark.sparkContext, str(root / name))
            self.wanted[name] = {"prediction": np.array([model.predict(list(row)) for row in ROWS])}

    def _save(self, name: str, estimator: Any, frame: Any, asked: Any) -> dict[str, Any]:
        """Trains and saves; the columns that Spark's transform gives, as arrays."""
        model = estimator.fit(frame)
        model.save(str(self.root / name))
        given = model.transform(asked)
        rows = given.collect()
        plain = [[one.toArray() if hasattr(one, "toArray") else one for one in row] for row in rows]
        return {column: np.array([row[at] for row in plain]) for at, column in enumerate(given.columns)}

    def settings(self, name: str, **extra: Any) -> ModelSettings:
        parameters = {"uri": str(self.root / name), "extra": extra or None}
        return ModelSettings(name=name, implementation=MLlibModel, parameters=parameters)

    def load(self, name: str, **extra: Any) -> MLlibModel:
        model = MLlibModel(self.settings(name, **extra))
        assert anyio.run(model.load)
        return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        user = session.Wanted(ModelSettings(name="tests"))
        yield Trained(tmp_path_factory.mktemp("spark"), session.session_of(user), user)
        for user in list(spark_process._shared.users.values()):  # one, unless a test has failed
            spark_process.leave(user)
        assert SparkContext._gateway is None


def vectors(*outputs: str, rows: Any = ROWS) -> InferenceRequest:
    request = NumpyRequestCodec.encode_request(rows)
    request.outputs = [RequestOutput(name=name) for name in outputs] or None
    return request


def columns(*outputs: str, **changed: Any) -> InferenceRequest:
    inputs = [
        StringCodec.encode_input("c", changed.get("c", [row[0] for row in TABLE])),
        NumpyCodec.encode_input("y", np.array([row[2] for row in TABLE])),
        NumpyCodec.encode_input("x", np.array([row[1] for row in TABLE], np.int64)),
    ]
    return InferenceRequest(inputs=inputs, outputs=[RequestOutput(name=name) for name in outputs] or None)


def ask(model: MLlibModel, request: InferenceRequest) -> dict[str, Any]:
    answer = model.predict(request)
    return {
        one.name: NumpyCodec.decode_output(one) if one.datatype != "BYTES" else StringCodec.decode_output(one)
        for one in answer.outputs
    }


def refusal(model: MLlibModel, request: InferenceRequest) -> str:
    with pytest.raises(MLServeError) as caught:
        ask(model, request)
    assert caught.value.http_status == 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("logistic", ["probability", "prediction", "rawPrediction"]),
        ("kmeans", ["prediction"]),
        ("pipeline", ["prediction", "probability", "scaled"]),
    ],
)
def test_it_passes_the_conformance_suite_and_answers_as_spark_does(
    trained: Trained, name: str, outputs: list[str]
) -> None:
    wanted = trained.wanted[name]
    expected = {one: wanted[one] for one in outputs}
    (answer,) = check_runtime(trained.settings(name), vectors(*outputs), expected=expected, batches=True)
    assert [one.name for one in answer.outputs] == outputs
    model = trained.load(name)
    assert np.array_equal(ask(model, vectors())["prediction"].ravel(), wanted["prediction"])
    anyio.run(model.unload)


def test_many_rows_are_answered_as_few(trained: Trained) -> None:
    few, many = columns("probability", "c"), columns("probability", "c")
    for one in many.inputs:
        codec = StringCodec if one.datatype == "BYTES" else NumpyCodec
        values = codec.decode_input(one)
        repeated = values * 6 if codec is StringCodec else np.tile(values.ravel(), 6)
        one.data, one.shape = codec.encode_input("x", repeated).data, [180, 1]
    model = trained.load("columns")
    found, all_found = ask(model, few), ask(model, many)
    assert np.array_equal(np.tile(found["probability"], (6, 1)), all_found["probability"])
    assert found["c"] * 6 == all_found["c"]
    anyio.run(model.unload)


def test_every_type_of_column_survives_either_way(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by a stage that leaves all columns as they are."""
    day = datetime.datetime(2026, 1, 2, 3, 4, 5)
    inputs = [
        StringCodec.encode_input("text", ["a b"]),
        NumpyCodec.encode_input("whole", np.array([2**62])),
        NumpyCodec.encode_input("real", np.array([np.nan])),
        NumpyCodec.encode_input("flag", np.array([True])),
        NumpyCodec.encode_input("vector", np.array([[1.0, 2.0]])),
        RequestInput(name="list", shape=[1], datatype="BYTES", data=["[1, 2]"], parameters={"content_type": "pd_json"}),
        DatetimeCodec.encode_input("when", [day]),
    ]
    names = [one.name for one in inputs]
    model = trained.load("words")
    answers = []
    for limit in (128, 0):
        monkeypatch.setattr(frames_module, "_LOCAL_ROWS", limit)
        request = InferenceRequest(inputs=inputs, outputs=[RequestOutput(name=name) for name in names])
        answer = model.predict(request)
        answers.append(
            [(one.name, one.datatype, one.shape, bytes(one.data.to_raw(one.datatype))) for one in answer.outputs]
        )
        assert DatetimeCodec.decode_output(answer.outputs[-1]) == [day]
        assert NumpyCodec.decode_output(answer.outputs[1]).tolist() == [[2**62]]
    assert answers[0] == answers[1]
    anyio.run(model.unload)


def test_a_few_vectors_are_answered_without_a_job_and_alike(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("logistic", "kmeans"):
        model = trained.load(name)
        names = model._direct.names
        directly = ask(model, vectors(*names))
        tracker = model._session.sparkContext.statusTracker()
        before = len(tracker.getJobIdsForGroup(None))
        assert before > 0
        ask(model, vectors(*names))
        assert len(tracker.getJobIdsForGroup(None)) == before
        monkeypatch.setattr(direct_module, "_ROWS", 0)
        by_job = ask(model, vectors(*names))
        monkeypatch.undo()
        for one in names:
            assert directly[one].dtype == by_job[one].dtype and np.array_equal(directly[one], by_job[one])
        anyio.run(model.unload)


def test_columns_go_in_by_name_and_chosen_ones_come_out(trained: Trained) -> None:
    wanted = trained.wanted["columns"]
    outputs = ["probability", "c", "prediction"]
    (answer,) = check_runtime(
        trained.settings("columns"), columns(*outputs), expected={"probability": wanted["probability"]}, batches=True
    )
    assert StringCodec.decode_output(answer.outputs[1]) == [row[0] for row in TABLE]
    model = trained.load("columns")
    as_frame = columns("prediction")
    as_frame.parameters = {"content_type": "pd"}  # type: ignore[assignment]
    assert np.array_equal(ask(model, as_frame)["prediction"].ravel(), wanted["prediction"])
    assert "missing: y" in refusal(model, InferenceRequest(inputs=[columns().inputs[0], columns().inputs[2]]))
    assert "Unseen label: z" in refusal(model, columns(c=["z"] * len(TABLE)))
    assert "no output 'nope': it has c, y, x, ci, features, rawPrediction" in refusal(model, columns("nope"))
    assert "output 'c' is asked for 3 times" in refusal(model, columns("c", "c", "c"))
    assert "a tensor for each, or one of shape [rows, 3]; got a tensor of shape [30, 2]" in refusal(model, vectors())
    short = columns()
    short.inputs[1] = NumpyCodec.encode_input("y", np.ones(2))
    assert "columns need the same number of rows" in refusal(model, short)
    anyio.run(model.unload)


def test_text_goes_in_and_lists_come_out(trained: Trained) -> None:
    model = trained.load("words")
    answer = model.predict(InferenceRequest(inputs=[StringCodec.encode_input("any", ["a b", "C"])]))
    (words,) = answer.outputs
    assert words.name == "words" and words.parameters.content_type == "pd_json"
    assert PandasCodec.decode_response(answer)["words"].tolist() == [["a", "b"], ["c"]]
    assert "'text' takes one value a row" in refusal(model, vectors())
    anyio.run(model.unload)


def test_models_of_rdds_give_their_predictions(trained: Trained) -> None:
    for name in ("rdd-linear", "rdd-tree"):
        model = trained.load(name)
        assert np.array_equal(ask(model, vectors())["prediction"].ravel(), trained.wanted[name]["prediction"])
        assert "no output 'probability': it gives prediction" in refusal(model, vectors("probability"))
        if name == "rdd-linear":  # a tree does not know how many numbers there were
            assert "a tensor of shape [rows, 2], got [2, 3]" in refusal(model, vectors(rows=np.ones((2, 3))))
        anyio.run(model.unload)


def test_no_rows_give_no_rows(trained: Trained) -> None:
    model = trained.load("logistic")
    answer = model.predict(vectors("prediction", "probability", rows=np.zeros((0, 2))))
    assert [one.shape[0] for one in answer.outputs] == [0, 0]
    anyio.run(model.unload)


def test_a_stage_of_which_nothing_is_known_gives_its_last_column(trained: Trained) -> None:
    statement = "SELECT *, x * 2 AS twice FROM __THIS__"
    SQLTransformer(statement=statement).write().overwrite().save(str(trained.root / "sql"))
    model = trained.load("sql")
    (twice,) = model.predict(InferenceRequest(inputs=[NumpyCodec.encode_input("x", np.array([1.0, 2.5]))])).outputs
    assert twice.name == "twice" and NumpyCodec.decode_output(twice).ravel().tolist() == [2.0, 5.0]
    anyio.run(model.unload)


@pytest.mark.parametrize(
    ("kind", "options"), [(MinHashLSH, {"numHashTables": 2}), (BucketedRandomProjectionLSH, {"bucketLength": 1.0})]
)
def test_hashes_of_vectors_are_lists_of_vectors(trained: Trained, kind: Any, options: dict[str, Any]) -> None:
    frame = session.session_of(trained.user).createDataFrame([(DenseVector(row + 1),) for row in ROWS], ["features"])
    fitted = kind(inputCol="features", outputCol="hashes", seed=1, **options).fit(frame)
    fitted.write().overwrite().save(str(trained.root / "hashing"))
    wanted = [[one.toArray().tolist() for one in row.hashes] for row in fitted.transform(frame).collect()]
    model = trained.load("hashing", signature=True)
    assert [(one.name, str(one.datatype)) for one in model.inputs] == [("features", "FP64")]
    assert PandasCodec.decode_response(model.predict(vectors(rows=ROWS + 1)))["hashes"].tolist() == wanted
    anyio.run(model.unload)


def test_vectors_of_another_size_are_refused(trained: Trained) -> None:
    for name in ("logistic", "pipeline", "kmeans"):
        model = trained.load(name)
        told = refusal(model, vectors(rows=np.ones((2, 3))))
        assert "takes 'features' as a tensor of shape [rows, 2], got [2, 3]" in told
        assert "no output 'nope': it has features" in refusal(model, vectors("nope"))
        anyio.run(model.unload)


def test_a_signature_describes_the_answers_that_come(trained: Trained) -> None:
    plain = trained.load("columns")
    assert plain.inputs == []
    anyio.run(plain.unload)
    for name, request in (("logistic", vectors), ("kmeans", vectors), ("columns", columns)):
        model = trained.load(name, signature=True)
        declared = model.outputs
        assert declared[0].name == "prediction"
        answer = model.predict(request(*(one.name for one in declared)))
        for one, output in zip(declared, answer.outputs, strict=True):
            assert (one.name, one.datatype) == (output.name, output.datatype)
            assert all(size in (-1, found) for size, found in zip(one.shape, output.shape, strict=True))
        anyio.run(model.unload)
        if name == "logistic":
            assert [(one.name, one.shape) for one in model.inputs] == [("features", [-1, 2])]
    assert [(one.name, one.datatype) for one in model.inputs] == [("c", "BYTES"), ("x", "FP64"), ("y", "FP64")]


def test_models_in_one_process_share_a_session(trained: Trained) -> None:
    used = len(spark_process._shared.users)
    model = trained.load("kmeans", threads=1, memory="1g")
    assert len(spark_process._shared.users) == used + 1
    for wanted, words in (({"threads": 2}, "threads 2, but it runs with 1"), ({"memory": "2g"}, "memory 2g")):
        with pytest.raises(ModelLoadError, match=words):
            trained.load("kmeans", **wanted)
    anyio.run(model.unload)
    anyio.run(model.unload)  # a second time does nothing
    assert len(spark_process._shared.users) == used
    conf = SparkContext.getOrCreate().getConf()
    assert conf.get("spark.driver.bindAddress") == conf.get("spark.driver.host") == "127.0.0.1"
    assert (conf.get("spark.ui.enabled"), conf.get("spark.master")) == ("false", "local[1]")


def test_a_folder_that_spark_cannot_read_is_told_with_the_versions(trained: Trained) -> None:
    used = len(spark_process._shared.users)
    text = '{"class":"org.apache.spark.ml.classification.NoSuchModel","sparkVersion":"9.0.0"}'
    odd = trained.root / "odd" / "metadata"
    odd.mkdir(parents=True)
    (odd / "part-00000").write_text(text)
    with pytest.raises(ModelLoadError, match=r"a org\.apache\.spark\.ml\.classification\.NoSuchModel.*by Spark 9\.0"):
        trained.load("odd")
    (odd / "part-00000").write_text(text.replace("NoSuchModel", "LogisticRegressionModel"))
    with pytest.raises(ModelLoadError, match=r"Spark cannot read .*saved by Spark 9\.0\.0 \(here: "):
        trained.load("odd")
    assert len(spark_process._shared.users) == used


@pytest.mark.parametrize("is_seen", [True, False])
def test_z_a_java_process_that_is_gone_is_started_again(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    """Also where the system still says for a moment that it runs, after it was killed."""
    models = {name: trained.load(name) for name in ("logistic", "columns")}
    session.stop_using(trained.user)
    process: Any = SparkContext._gateway.proc  # type: ignore[union-attr]
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if not is_seen:
        monkeypatch.setattr(process, "poll", lambda: None)
    for name, request in (("logistic", vectors()), ("columns", columns())):
        found = ask(models[name], request)["prediction"].ravel()
        assert np.array_equal(found, trained.wanted[name]["prediction"])
    assert len(spark_process._shared.users) == 2 and session.is_alive(models["columns"]._session)
    for model in models.values():
        anyio.run(model.unload)
    assert SparkContext._gateway is None


def test_sparse_vectors_that_would_be_too_large_written_out_are_refused(trained: Trained) -> None:
    model = trained.load("hashed", max_answer_numbers=2**19)
    outputs = [RequestOutput(name="hashed")]
    asked = [InferenceRequest(inputs=[StringCodec.encode_input("text", ["a"] * n)], outputs=outputs) for n in (2, 3)]
    assert model.predict(asked[0]).outputs[0].shape == [2, 2**18]
    with pytest.raises(InferenceError, match="'hashed' is sparse, and would be 3 rows of 262144 numbers each") as told:
        model.predict(asked[1])
    assert "(parameters.extra.max_answer_numbers): send at most 2 rows at a time" in str(told.value)
    anyio.run(model.unload)


def test_a_number_that_is_missing_in_json_is_told_by_spark(trained: Trained) -> None:
    model = trained.load("columns")
    asked = columns()
    values = [json.dumps(value) for value in [1, 2.5, None, *(row[1] for row in TABLE[3:])]]
    parameters = {"content_type": "pd_json"}
    asked.inputs[2] = RequestInput(name="x", shape=[30, 1], datatype="BYTES", data=values, parameters=parameters)
    with pytest.raises(InferenceError, match="cannot use this input"):
        model.predict(asked)
    anyio.run(model.unload)
