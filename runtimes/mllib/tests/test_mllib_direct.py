"""Every predicting model of Spark ML, its params changed: few rows, many rows and Spark itself answer alike.

One Java process serves all of these tests: the runtime's own session, which trains the models too.
"""

from __future__ import annotations

import gc
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

from pyspark.ml import Pipeline, classification, clustering, regression
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import SQLTransformer, VectorAssembler
from pyspark.ml.linalg import DenseVector
from pyspark.ml.tuning import CrossValidator, TrainValidationSplit
from pyspark.mllib.feature import Word2Vec
from pyspark.mllib.recommendation import ALS, Rating

from mlserve import ModelSettings, spark_process
from mlserve.codecs import NumpyCodec
from mlserve.datatypes import datatype_of
from mlserve.errors import InferenceError, ModelLoadError
from mlserve.types import InferenceRequest, RequestOutput

ROWS = np.array([[at % 5 - 2.0, at % 3 * 1.5, at % 7 / 3] for at in range(42)])
LABELS = ROWS[:, 0] + ROWS[:, 1]
# The last one is as close to the boundary as a number gets.
ASKED = np.vstack([ROWS[:6] + 0.1, ROWS[:6], [[0.0, 0.0, 0.0]], [[1e-17, 0.0, 0.0]]])
NAMES = {"predictionCol": "p", "featuresCol": "f"}
ODDS = {**NAMES, "rawPredictionCol": "r", "probabilityCol": "q"}

TWO, THREE = {"labelCol": "two"}, {"labelCol": "three"}
_CLASSIFIERS = {
    "LogisticRegression": ({"maxIter": 3}, THREE),
    "DecisionTreeClassifier": ({"maxDepth": 2, "leafCol": "leaf"}, THREE),
    "RandomForestClassifier": ({"numTrees": 2, "maxDepth": 2, "seed": 1}, THREE),
    "NaiveBayes": ({"modelType": "gaussian"}, THREE),
    "MultilayerPerceptronClassifier": ({"layers": [3, 3], "maxIter": 3, "seed": 1}, THREE),
    "GBTClassifier": ({"maxIter": 2, "maxDepth": 2, "seed": 1}, TWO),
    "FMClassifier": ({"maxIter": 2, "seed": 1}, TWO),
}
_OTHERS = (
    *("LinearSVC", "OneVsRest", "LinearRegression", "DecisionTreeRegressor", "RandomForestRegressor", "GBTRegressor"),
    *("FMRegressor", "GeneralizedLinearRegression", "AFTSurvivalRegression", "IsotonicRegression"),
    *("KMeans", "BisectingKMeans", "GaussianMixture", "CrossValidator", "TrainValidationSplit"),
)
_THRESHOLDS = {"two": [0.05, 0.95], "three": [0.1, 0.3, 0.6]}


def changed(estimator: Any, **params: Any) -> Any:
    return estimator.copy({estimator.getParam(name): value for name, value in params.items()})


def _estimators() -> dict[str, Any]:
    """By name, an estimator; of classifiers several, with the params that predictions hang on."""
    made: dict[str, Any] = {}
    for kind, (params, label) in _CLASSIFIERS.items():
        plain = getattr(classification, kind)(**params, **label, featuresCol="f")
        made[kind] = plain
        made[f"{kind} thresholds"] = changed(plain, **ODDS, thresholds=_THRESHOLDS[label["labelCol"]])
        made[f"{kind} no raw"] = changed(plain, predictionCol="p", probabilityCol="q", rawPredictionCol="")
        made[f"{kind} no prediction"] = changed(plain, predictionCol="")
    for threshold in (0.5, 0.9):
        made[f"LogisticRegression {threshold}"] = classification.LogisticRegression(
            threshold=threshold, fitIntercept=False, maxIter=3, **TWO, **ODDS
        )
    made["LinearSVC"] = classification.LinearSVC(threshold=0.3, maxIter=3, rawPredictionCol="r", **TWO, **NAMES)
    made["OneVsRest"] = classification.OneVsRest(
        classifier=classification.LogisticRegression(maxIter=2, featuresCol="f"), **THREE, **NAMES
    )
    regressors: dict[str, dict[str, Any]] = {
        "LinearRegression": {"maxIter": 2},
        "DecisionTreeRegressor": {"maxDepth": 2, "varianceCol": "v"},
        "RandomForestRegressor": {"maxDepth": 2, "numTrees": 2, "leafCol": "leaf", "seed": 1},
        "GBTRegressor": {"maxDepth": 2, "maxIter": 2, "seed": 1},
        "FMRegressor": {"maxIter": 2, "seed": 1},
    }
    for kind, params in regressors.items():
        made[kind] = getattr(regression, kind)(labelCol="label", **params, **NAMES)
    made["GeneralizedLinearRegression"] = regression.GeneralizedLinearRegression(
        family="gaussian", link="identity", linkPredictionCol="l", maxIter=3, labelCol="label", **NAMES
    )
    made["AFTSurvivalRegression"] = regression.AFTSurvivalRegression(
        quantilesCol="q", quantileProbabilities=[0.2, 0.8], labelCol="positive", censorCol="two", maxIter=2, **NAMES
    )
    made["IsotonicRegression"] = regression.IsotonicRegression(featureIndex=1, labelCol="label", **NAMES)
    made["KMeans"] = clustering.KMeans(k=3, seed=1, **NAMES)
    made["BisectingKMeans"] = clustering.BisectingKMeans(k=3, seed=1, **NAMES)
    made["GaussianMixture"] = clustering.GaussianMixture(k=2, seed=1, maxIter=2, probabilityCol="q", **NAMES)
    search = {"estimatorParamMaps": [{}], "evaluator": RegressionEvaluator(labelCol="label", predictionCol="p")}
    made["CrossValidator"] = CrossValidator(estimator=made["LinearRegression"], numFolds=2, seed=1, **search)
    made["TrainValidationSplit"] = TrainValidationSplit(estimator=made["LinearRegression"], seed=1, **search)
    return made


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield session.session_of(session.Wanted(ModelSettings(name="tests")))
        gc.collect()  # models, which tell Java that they end
        for user in list(spark_process._shared.users.values()):
            spark_process.leave(user)


@pytest.fixture(scope="module")
def table(spark: Any) -> Any:
    rows = [
        (DenseVector(abs(row) if at % 2 else row), float(at % 2), float(at % 3), float(label), float(abs(label) + 1))
        for at, (row, label) in enumerate(zip(ROWS, LABELS, strict=True))
    ]
    return spark.createDataFrame(rows, ["f", "two", "three", "label", "positive"]).cache()


def load(folder: Path, **extra: Any) -> MLlibModel:
    settings = ModelSettings(
        name="m", implementation=MLlibModel, parameters={"uri": str(folder), "extra": extra or None}
    )
    model = MLlibModel(settings)
    assert anyio.run(model.load)
    return model


def ask(model: MLlibModel, *outputs: str, **given: Any) -> dict[str, Any]:
    inputs = [NumpyCodec.encode_input(name, values) for name, values in given.items()]
    names = [RequestOutput(name=name) for name in outputs] or None
    answer = model.predict(InferenceRequest(inputs=inputs, outputs=names))
    return {one.name: NumpyCodec.decode_output(one) for one in answer.outputs}


def columns_of(frame: Any) -> dict[str, Any]:
    """A frame of Spark as arrays of [rows, size]."""
    rows = frame.collect()
    plain = [[one.toArray() if hasattr(one, "toArray") else one for one in row] for row in rows]
    return {
        column: np.array([row[at] for row in plain]).reshape(len(rows), -1) for at, column in enumerate(frame.columns)
    }


@pytest.mark.parametrize("name", [*_CLASSIFIERS, *_OTHERS])
def test_few_rows_and_many_are_answered_as_spark_does(spark: Any, table: Any, tmp_path: Path, name: str) -> None:
    """Whatever columns come before the vectors, and whichever outputs are asked for."""
    kinds = _estimators()
    chosen = [one for one in kinds if one.split()[0] == name]
    assert chosen
    asked = spark.createDataFrame([(DenseVector(row),) for row in ASKED], ["f"])
    many = np.tile(ASKED, (10, 1))
    for at, kind in enumerate(chosen):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained = kinds[kind].fit(table)
            gc.collect()  # pyspark leaves pools of threads to the collector
        trained.save(str(tmp_path / str(at)))
        wanted = columns_of(trained.transform(asked))
        model = load(tmp_path / str(at), signature=True)
        names = [one for one in wanted if one != "f"]
        assert [one.name for one in model.inputs] == ["f"] and {one.name for one in model.outputs} == set(names), kind
        beside = ask(model, *names, other=ASKED * 0, f=ASKED)
        by_job = ask(model, *names, f=many)
        for outputs in (names, *([one] for one in names)):
            few = ask(model, *outputs, f=ASKED)
            for one in outputs:
                assert few[one].dtype == by_job[one].dtype == beside[one].dtype, (kind, one)
                assert np.array_equal(few[one], wanted[one]), (kind, one)
                assert np.array_equal(beside[one], wanted[one]), (kind, one, "another column first")
                assert np.array_equal(by_job[one], np.tile(wanted[one], (10, 1))), (kind, one, "many rows")
        usual = next(iter(ask(model, f=ASKED)))
        assert usual == (next((one for one in ("prediction", "p") if one in wanted), names[-1])), kind
        for one in model.outputs:
            assert one.datatype == datatype_of(by_job[one.name].dtype), (kind, one)
            assert all(size in (-1, was) for size, was in zip(one.shape, by_job[one.name].shape, strict=True)), one
        anyio.run(model.unload)


def test_isotonic_regression_takes_numbers_or_one_number_of_a_vector(spark: Any, table: Any, tmp_path: Path) -> None:
    trained = regression.IsotonicRegression(featureIndex=2, labelCol="label", featuresCol="f").fit(table)
    trained.save(str(tmp_path / "iso"))
    model = load(tmp_path / "iso")
    numbers = ASKED[:, 2]
    wanted = [trained.predict(float(one)) for one in numbers]
    for rows in (ASKED, numbers, numbers.reshape(-1, 1)):
        assert ask(model, f=rows)["prediction"].ravel().tolist() == wanted
    assert ask(model, f=np.array([1, 2]))["prediction"].ravel().tolist() == [trained.predict(one) for one in (1.0, 2.0)]
    with pytest.raises(InferenceError, match="cannot use this input"):
        ask(model, f=ASKED[:, :2])
    anyio.run(model.unload)


def test_a_prediction_of_another_name_is_the_usual_output(spark: Any, tmp_path: Path) -> None:
    """Also behind a stage whose columns are not known."""
    frame = spark.createDataFrame([(float(at), float(at % 2)) for at in range(10)], ["age", "label"])
    stages = [
        SQLTransformer(statement="SELECT *, age * 2 AS twice FROM __THIS__"),
        VectorAssembler(inputCols=["age", "twice"], outputCol="features"),
        classification.LogisticRegression(predictionCol="out", maxIter=2),
    ]
    trained = Pipeline(stages=stages).fit(frame)
    trained.save(str(tmp_path / "sql"))
    model = load(tmp_path / "sql", signature=True)
    ages = np.array([2.0, 5.0])
    wanted = columns_of(trained.transform(spark.createDataFrame([(2.0,), (5.0,)], ["age"])))["out"]
    answer = ask(model, age=ages)
    assert list(answer) == ["out"] and np.array_equal(answer["out"], wanted)
    assert model.outputs[0].name == "out"
    anyio.run(model.unload)


def test_a_recommender_of_rdds_rates_pairs(spark: Any, tmp_path: Path) -> None:
    context = spark.sparkContext
    ratings = [Rating(user, item, float(user * item % 5)) for user in range(5) for item in range(4)]
    trained = ALS.train(context.parallelize(ratings), 2, 2, seed=1)
    trained.save(context, str(tmp_path / "als"))
    model = load(tmp_path / "als", signature=True)
    pairs = np.array([[1, 2], [3, 0], [99, 1], [1, 2]])
    known = [trained.predict(1, 2), trained.predict(3, 0)]
    wanted = [[known[0]], [known[1]], [np.nan], [known[0]]]
    assert np.array_equal(ask(model, any=pairs)["prediction"], wanted, equal_nan=True)
    by_name = ask(model, product=pairs[:, 1], user=pairs[:, 0].astype(np.float64))["prediction"]
    assert np.array_equal(by_name, wanted, equal_nan=True)
    assert [(one.name, one.datatype) for one in model.inputs] == [("user", "INT64"), ("product", "INT64")]
    assert [(one.name, one.datatype) for one in model.outputs] == [("prediction", "FP64")]
    for bad in (np.array([[0.5, 1]]), np.array([[2**40, 1]])):
        with pytest.raises(InferenceError, match="'user' takes one whole number of 32 bits a row"):
            ask(model, any=bad)
    with pytest.raises(InferenceError, match="missing: product"):
        ask(model, user=pairs[:, 0])
    anyio.run(model.unload)


def test_a_model_of_rdds_that_predicts_nothing_is_refused(spark: Any, tmp_path: Path) -> None:
    words = spark.sparkContext.parallelize([["a", "b"], ["b", "c"]])
    Word2Vec().setVectorSize(2).setMinCount(0).setSeed(1).fit(words).save(spark.sparkContext, str(tmp_path / "words"))
    with pytest.raises(
        ModelLoadError, match=r"a org\.apache\.spark\.mllib\.feature\.Word2VecModel, which predicts nothing"
    ):
        load(tmp_path / "words")
