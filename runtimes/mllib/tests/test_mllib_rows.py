"""Answers keep to the rows of their request: joins and statements that reorder, drop or multiply rows; in batches too.

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

from pyspark.ml import Pipeline, PipelineModel, Transformer
from pyspark.ml.feature import Bucketizer, SQLTransformer, StringIndexer, VectorAssembler
from pyspark.ml.recommendation import ALS
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql.functions import col

from mlserve import ModelSettings, spark_process
from mlserve.codecs import NumpyCodec, StringCodec
from mlserve.errors import InferenceError, ModelError
from mlserve.merging import merge, rows_of, split
from mlserve.types import InferenceRequest, InferenceResponse, RequestOutput

X = np.array([3.0, 1.0, 2.0, 1.0])


class Summing(Transformer, DefaultParamsReadable, DefaultParamsWritable):
    """Somebody's own stage, which takes all columns that there are, whatever their names."""

    def _transform(self, dataset: Any) -> Any:
        return dataset.withColumn("sum", sum((col(name) for name in dataset.columns[1:]), col(dataset.columns[0])))


class Sorting(Transformer, DefaultParamsReadable, DefaultParamsWritable):
    """Somebody's own stage, which changes the order."""

    def _transform(self, dataset: Any) -> Any:
        return dataset.orderBy("x")


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield session.session_of(session.Wanted(ModelSettings(name="tests")))
        gc.collect()  # models, which tell Java that they end
        for user in list(spark_process._shared.users.values()):
            spark_process.leave(user)


def load(trained: Any, folder: Path) -> MLlibModel:
    trained.write().overwrite().save(str(folder))
    model = MLlibModel(ModelSettings(name="m", implementation=MLlibModel, parameters={"uri": str(folder)}))
    assert anyio.run(model.load)
    return model


def request(*outputs: str, **given: Any) -> InferenceRequest:
    inputs = [
        (StringCodec if isinstance(values, list) else NumpyCodec).encode_input(name, values)
        for name, values in given.items()
    ]
    return InferenceRequest(inputs=inputs, outputs=[RequestOutput(name=name) for name in outputs] or None)


def ask(model: MLlibModel, *outputs: str, **given: Any) -> list[Any]:
    return values(model.predict(request(*outputs, **given)))


def values(answer: InferenceResponse) -> list[Any]:
    """The first output."""
    return NumpyCodec.decode_output(answer.outputs[0]).ravel().tolist()


def together(model: MLlibModel, *requests: InferenceRequest) -> list[InferenceResponse]:
    """What the callers of one batch get. ModelError where they have to be asked one by one."""
    return split(model.predict(merge(requests)), [rows_of(one) for one in requests])


def test_a_recommender_whose_joins_sort_answers_in_the_order_of_the_request(spark: Any, tmp_path: Path) -> None:
    ratings = [(user, item, float(user * item % 5)) for user in range(20) for item in range(4)]
    table = spark.createDataFrame(ratings, ["user", "item", "rating"])
    als = ALS(rank=2, maxIter=1, seed=1, numUserBlocks=1, numItemBlocks=1, coldStartStrategy="drop")
    model = load(als.fit(table), tmp_path / "als")
    users, items = np.array([17, 3, 11, 999, 5, 3]), np.array([2, 3, 1, 1, 0, 2])
    alone = [ask(model, user=users[at : at + 1], item=items[at : at + 1]) for at in range(6)]
    assert [len(one) for one in alone] == [1, 1, 1, 0, 1, 1] and len({*map(tuple, alone)}) == 6
    limit = "spark.sql.autoBroadcastJoinThreshold"
    spark.conf.set(limit, -1)  # as for factors of more than 10 MB
    try:
        assert spark.conf.get(limit) == "-1"
        assert ask(model, user=users, item=items) == [one for each in alone for one in each]
        assert ask(model, "user", user=users, item=items) == [17, 3, 11, 5, 3]
        members = [request(user=users[at : at + 2], item=items[at : at + 2]) for at in (0, 2, 4)]
        answers = together(model, *members)
        assert [values(one) for one in answers] == [[*alone[at], *alone[at + 1]] for at in (0, 2, 4)]
        assert [one.outputs[0].shape for one in answers] == [[2, 1], [1, 1], [2, 1]]
    finally:
        spark.conf.unset(limit)
    anyio.run(model.unload)


def test_a_row_that_is_left_out_is_only_its_callers_matter(spark: Any, tmp_path: Path) -> None:
    table = spark.createDataFrame([("a", 1.0), ("b", 2.0)], ["c", "x"])
    stages = [
        StringIndexer(inputCol="c", outputCol="index", handleInvalid="skip"),
        VectorAssembler(inputCols=["index", "x"], outputCol="v"),
    ]
    model = load(Pipeline(stages=stages).fit(table), tmp_path / "skip")
    members = [request(c=[c], x=np.array([x])) for c, x in (("a", 5.0), ("new", 6.0), ("b", 7.0))]
    answers = together(model, *members)
    assert [values(one) for one in answers] == [[0.0, 5.0], [], [1.0, 7.0]]
    assert [one.outputs[0].shape for one in answers] == [[1, 2], [0, 2], [1, 2]]
    for member, answer in zip(members, answers, strict=True):
        alone = model.predict(member)
        assert alone.parameters is None and answer.parameters is None
        assert values(alone) == values(answer)
    with pytest.raises(InferenceError, match=r"no output 'mlserve_row': it has c, x, index, v$"):
        model.predict(request("mlserve_row", c=["a"], x=np.array([1.0])))
    taken = model.predict(request("MLSERVE_ROW", c=["b", "a"], x=X[:2], MLSERVE_ROW=np.array([8, 9])))
    assert values(taken) == [8, 9]  # a client's column of that name
    anyio.run(model.unload)


ALIKE = [  # statement, output, its values for X: in the order of X, and rows do not see each other
    ("SELECT *, x * 2 AS y FROM __THIS__ ORDER BY x", "y", [[6.0, 2.0], [4.0, 2.0]]),
    ("SELECT *, explode(array(x, 9.0)) AS y FROM __THIS__ ORDER BY x", "y", [[3, 9, 1, 9], [2, 9, 1, 9]]),
    ("SELECT * FROM __THIS__ WHERE x > 1 ORDER BY x", "x", [[3.0], [2.0]]),
    ("SELECT x + 1 AS y FROM __THIS__", "y", [[4.0, 2.0], [3.0, 2.0]]),  # without a number, by a plan that keeps rows
]


@pytest.mark.parametrize(("statement", "output", "wanted"), ALIKE)
def test_rows_of_a_statement_go_back_to_their_callers(
    spark: Any, tmp_path: Path, statement: str, output: str, wanted: list[list[float]]
) -> None:
    model = load(SQLTransformer(statement=statement), tmp_path / "sql")
    assert ask(model, output, x=X) == wanted[0] + wanted[1]
    members = [request(output, x=X[:2]), request(output, x=X[2:])]
    assert [values(one) for one in together(model, *members)] == wanted
    anyio.run(model.unload)


APART = [  # rows see each other, or nothing says whose they are; in the order of X where a number can travel
    ("SELECT *, sum(x) OVER (PARTITION BY x) AS y FROM __THIS__", "y", [3.0, 2.0, 2.0, 2.0]),
    ("SELECT a.x, a.x + b.v AS y FROM __THIS__ a JOIN VALUES (1, 2) AS b(k, v) ON a.x = b.k", "y", [3.0, 3.0]),
    ("SELECT a.*, b.k AS y FROM __THIS__ a RIGHT JOIN VALUES (2), (1), (7) AS b(k) ON a.x = b.k", "y", [1, 2, 1, 7]),
    ("SELECT * FROM __THIS__ WHERE x > (SELECT avg(x) FROM __THIS__)", "x", [3.0, 2.0]),
    ("SELECT *, x AS y FROM __THIS__ ORDER BY x LIMIT 3", "y", [1.0, 1.0, 2.0]),
    ("SELECT x AS y FROM __THIS__ ORDER BY x", "y", [1.0, 1.0, 2.0, 3.0]),
    ("SELECT DISTINCT * FROM __THIS__ ORDER BY x", "x", [1.0, 2.0, 3.0]),
    ("SELECT x, count(*) AS y FROM __THIS__ GROUP BY x ORDER BY x", "y", [2, 1, 1]),
    ("SELECT * FROM __THIS__ UNION ALL SELECT 5", "x", [3.0, 1.0, 2.0, 1.0, 5.0]),
]


@pytest.mark.parametrize(("statement", "output", "wanted"), APART)
def test_a_statement_whose_rows_are_not_each_for_itself_is_asked_one_by_one(
    spark: Any, tmp_path: Path, statement: str, output: str, wanted: list[float]
) -> None:
    model = load(SQLTransformer(statement=statement), tmp_path / "sql")
    for _ in range(2):  # the second time it is known whether a number travels
        assert ask(model, output, x=X) == wanted
    with pytest.raises(ModelError, match="whose cannot be told; ask one by one"):
        together(model, request(output, x=X[:2]), request(output, x=X[2:]))
    anyio.run(model.unload)


def test_a_statement_that_looks_at_all_columns_sees_the_clients_only(spark: Any, tmp_path: Path) -> None:
    model = load(SQLTransformer(statement="SELECT *, size(array(*)) AS y FROM __THIS__"), tmp_path / "sql")
    assert ask(model, "y", x=X) == [1, 1, 1, 1]
    answers = together(model, request("y", x=X[:3]), request("y", x=X[3:]))
    assert [values(one) for one in answers] == [[1, 1, 1], [1]]
    anyio.run(model.unload)


def test_a_stage_of_somebodys_own_sees_the_clients_columns_only(spark: Any, tmp_path: Path) -> None:
    model = load(PipelineModel([Summing()]), tmp_path / "summing")
    assert ask(model, "sum", x=X, y=X) == [6.0, 2.0, 4.0, 2.0]
    answers = together(model, request("sum", x=X[:2], y=X[:2]), request("sum", x=X[2:], y=X[2:]))
    assert [values(one) for one in answers] == [[6.0, 2.0], [4.0, 2.0]]
    anyio.run(model.unload)
    bucketizer = Bucketizer(splits=[0.0, 2.0, 4.0], inputCol="x", outputCol="b", handleInvalid="skip")
    model = load(PipelineModel([Summing(), bucketizer]), tmp_path / "skipping")
    full, holed = request("b", x=X[:2]), request("b", x=np.array([np.nan]))
    assert [values(one) for one in together(model, full, full)] == [[1.0, 0.0], [1.0, 0.0]]
    with pytest.raises(ModelError, match="ask one by one"):
        together(model, full, holed)
    anyio.run(model.unload)
    model = load(PipelineModel([Sorting()]), tmp_path / "sorting")
    assert ask(model, x=X) == [1.0, 1.0, 2.0, 3.0]
    with pytest.raises(ModelError, match="ask one by one"):
        together(model, request(x=X[:2]), request(x=X[2:]))
    anyio.run(model.unload)
