"""Which columns a model takes and gives, and of which types, as far as its stages say."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pyspark.ml import PipelineModel
from pyspark.ml.classification import OneVsRestModel
from pyspark.ml.feature import BucketedRandomProjectionLSHModel, MinHashLSHModel, RFormulaModel
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.regression import IsotonicRegressionModel
from pyspark.ml.tuning import CrossValidatorModel, TrainValidationSplitModel
from pyspark.sql.types import ArrayType, DataType, DoubleType, StringType, StructField, StructType

from mlserve_mllib.errors import SPARK_ERRORS

__all__ = ["FEATURES", "PREDICTION", "Columns", "stages_of"]

PREDICTION = "prediction"
FEATURES = "features"  # what Spark calls the column of vectors unless told otherwise
_TAKEN = ("inputCol", "inputCols", "featuresCol", "userCol", "itemCol", "itemsCol")
_GIVEN = ("outputCol", "outputCols", "predictionCol", "probabilityCol", "rawPredictionCol", "leafCol")
# In which order to try what a stage takes: some take several, and the first is the likeliest.
_TRIED = (StringType(), DoubleType(), VectorUDT(), ArrayType(StringType()))


class Columns(NamedTuple):
    """The columns of a model."""

    taken: dict[str, DataType] | None  # by name, in the order of the stages; None: the stages do not say
    given: dict[str, DataType]  # what a transform adds, as far as that is known
    width: int | None  # of the vectors in the only column there is, where the model knows it
    usual: list[str]  # the outputs for a request that names none; empty: what a transform shows to be the last
    numbers_too: frozenset[str] = frozenset()  # columns of vectors that may be of numbers instead

    @classmethod
    def of(cls, model: Any, session: Any) -> Columns:
        """The columns of a model of Spark ML."""
        schema = StructType()
        taken: dict[str, DataType] = {}
        given: dict[str, DataType] = {}
        known = True
        stages = stages_of(model)
        for stage in stages:
            outer = [name for name in _names(stage, _TAKEN) if name not in schema.names]
            known = known and not isinstance(stage, RFormulaModel) and bool(outer or _names(stage, _TAKEN))
            found = _types_of(stage, outer, schema, session)
            if found is None:
                known, names = False, _names(stage, _GIVEN)  # of types that are not known: any will do here
                schema = StructType([*schema.fields, *(StructField(name, VectorUDT()) for name in names)])
                continue
            kind, after = found
            taken.update(dict.fromkeys(outer, kind))
            before = {*schema.names, *outer}
            given.update({field.name: field.dataType for field in after.fields if field.name not in before})
            schema = after
        if not known:
            return cls(None, given, None, _usual(stages, given, known))
        given = _given_to(model, taken, session) or given
        numbers_too = frozenset(taken) if _is_isotonic(stages[0]) and len(taken) == 1 else frozenset[str]()
        width = _width(stages[0]) if len(taken) == 1 else None
        return cls(taken, given, width, _usual(stages, given, known), numbers_too)


def stages_of(model: Any) -> list[Any]:
    """The stages, those of pipelines within pipelines and of the best one found too; a model alone is its own."""
    if isinstance(model, PipelineModel):
        return [stage for one in model.stages for stage in stages_of(one)]
    if isinstance(model, CrossValidatorModel | TrainValidationSplitModel):
        return stages_of(model.bestModel)
    return [model]


def _usual(stages: list[Any], given: dict[str, DataType], known: bool) -> list[str]:
    """`prediction`; else that of the last stage that makes one, under its own name; else what the last stage gives."""
    predictions = [name for stage in stages for name in _names(stage, ("predictionCol",))]
    names = list(given) if known else [*given, *predictions]
    found = [name for name in predictions if name in names]
    return [PREDICTION] if PREDICTION in names else found[-1:] or list(given)[-1:]


def _is_isotonic(stage: Any) -> bool:
    """Whether it takes numbers, or one of the numbers in a vector."""
    return isinstance(stage, IsotonicRegressionModel)


def _names(stage: Any, params: tuple[str, ...]) -> list[str]:
    """The columns that a stage's params name."""
    if isinstance(stage, RFormulaModel):  # whose features are what it gives
        params = ("featuresCol",) if params is _GIVEN else ()
    found: list[str] = []
    for param in params:
        if stage.hasParam(param) and stage.isDefined(stage.getParam(param)):
            value = stage.getOrDefault(param)
            found += value if isinstance(value, list) else [value]
    return [name for name in dict.fromkeys(found) if name]


def _types_of(stage: Any, outer: list[str], schema: StructType, session: Any) -> tuple[DataType, StructType] | None:
    """The type that a stage takes for its outer columns, and the schema after it; None if none of ours fits."""
    java = stage._to_java() if isinstance(stage, OneVsRestModel) else getattr(stage, "_java_obj", None)
    if java is None:
        return None  # a stage in Python
    is_lsh = isinstance(stage, MinHashLSHModel | BucketedRandomProjectionLSHModel)  # lets every type pass
    for kind in (VectorUDT(),) if is_lsh or _is_isotonic(stage) else _TRIED:
        tried = StructType([*schema.fields, *(StructField(name, kind) for name in outer)])
        try:
            given = session._jvm.org.apache.spark.sql.types.DataType.fromJson(tried.json())
            return kind, StructType.fromJson(json.loads(java.transformSchema(given).json()))
        except SPARK_ERRORS:
            continue
    return None


def _given_to(model: Any, taken: dict[str, DataType], session: Any) -> dict[str, DataType]:
    """What a transform adds to no rows at all: stages are not always right about the types that they give."""
    fields = [StructField(name, kind) for name, kind in taken.items()]
    try:
        after = model.transform(session.createDataFrame([], StructType(fields))).schema
    except SPARK_ERRORS:
        return {}
    return {field.name: field.dataType for field in after.fields if field.name not in taken}


def _width(stage: Any) -> int | None:
    """How many numbers a vector has that a stage takes."""
    if _is_isotonic(stage):
        return None  # more than its featureIndex
    count = getattr(stage, "numFeatures", None)
    if isinstance(count, int) and count > 0:
        return count
    for name in ("mean", "originalMin", "maxAbs"):
        vector: Any = getattr(stage, name, None)
        if hasattr(vector, "toArray"):
            return len(vector.toArray()) or None
    return None
