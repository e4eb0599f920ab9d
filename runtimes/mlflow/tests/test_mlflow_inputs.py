"""What the runtime makes of a request: by the signature, without loss; and what it refuses, with which words."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, DataType, Object, Property

from mlserve.codecs import PandasCodec, StringCodec
from mlserve.errors import InferenceError, MLServeError, ModelError
from mlserve.merging import merge
from mlserve.types import InferenceRequest
from mlserve_mlflow import MLflowRuntime

SEEN: list[Any] = []  # what the models below were called with


class Keeps(mlflow.pyfunc.PythonModel):
    """A model that notes what it is given."""

    def predict(self, context, model_input, params=None):
        SEEN[:] = [model_input, params]
        return ["done"]


class OfHints(mlflow.pyfunc.PythonModel):
    """A model whose signature comes from its type hints."""

    def predict(self, model_input: list[str]) -> list[str]:
        SEEN[:] = [model_input]
        return model_input


class OfRecords(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[dict[str, float]]) -> list[float]:
        SEEN[:] = [model_input]
        return [sum(one.values()) for one in model_input]


def columns(*kinds: tuple[str, Any], params: Any = None) -> ModelSignature:
    return ModelSignature(inputs=Schema([ColSpec(kind, name) for name, kind in kinds]), params=params)


def tensor(name: str, values: Any, datatype: str = "FP64", shape: Any = None, content_type: Any = None) -> Any:
    array = np.asarray(values)
    parameters = {"content_type": content_type} if content_type else None
    shape = list(array.shape) if shape is None else shape
    return {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "data": array.ravel().tolist(),
        "parameters": parameters,
    }


def ask(model: MLflowRuntime, *inputs: Any, **parameters: Any) -> Any:
    """What the model behind the runtime is called with."""
    SEEN.clear()
    model.predict(InferenceRequest(inputs=list(inputs), parameters=parameters or None))
    return SEEN[0]


def refusal(model: MLflowRuntime, *inputs: Any, **parameters: Any) -> str:
    with pytest.raises(MLServeError) as caught:
        ask(model, *inputs, **parameters)
    assert caught.value.http_status == 400, caught.value
    return str(caught.value)


class OfBlobs(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[bytes]):
        SEEN[:] = [model_input]
        return ["done"]


@pytest.mark.parametrize("name", ["z", "other", "input-0"])
@pytest.mark.parametrize("data", ["YWJj", b"YWJj"])  # as over REST, and over gRPC
def test_a_lone_tensor_has_the_content_type_of_the_only_column_under_any_name(
    save: Any, load: Any, name: str, data: Any
) -> None:
    asked = {"name": name, "shape": [1, 1], "datatype": "BYTES", "data": [data]}
    found = ask(load(save(Keeps(), columns(("z", "binary")))), asked)
    assert (list(found.columns), found["z"].tolist()) == (["z"], [b"abc"])
    assert ask(load(save(OfBlobs(), name="blobs")), asked) == [b"abc"]
    own = {**asked, "data": ["abc"], "parameters": {"content_type": "str"}}  # what it says itself goes first
    assert ask(load(save(Keeps(), columns(("z", "binary")), "own")), own)["z"].tolist() == ["abc"]


@pytest.fixture
def two(save: Any, load: Any) -> MLflowRuntime:
    """A model of two columns of doubles."""
    return load(save(Keeps(), columns(("a", "double"), ("b", "double"))))


WANTED = pd.DataFrame({"a": [1.0, 3.0], "b": [2.0, 4.0]})
A, B = tensor("a", [1, 3]), tensor("b", [[2], [4]])
MATRIX = tensor("x", [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("inputs", "content_type"),
    [
        ([A, B], None),
        ([B, A], "pd"),
        ([A, B], "dict"),
        ([A, B, tensor("more", [0, 0])], None),
        ([MATRIX], None),
        ([MATRIX], "np"),
        ([{**A, "datatype": "INT64"}, {**B, "datatype": "INT8"}], None),
        ([{**A, "datatype": "FP32"}, {**B, "datatype": "UINT64"}], None),
        ([{**MATRIX, "datatype": "INT32"}], None),
    ],
)
def test_columns_come_as_tensors_of_their_own_or_as_one(two: MLflowRuntime, inputs: Any, content_type: Any) -> None:
    found = ask(two, *inputs, **({"content_type": content_type} if content_type else {}))
    pd.testing.assert_frame_equal(found, WANTED)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([A], "Model is missing inputs ['b']"),
        ([tensor("x", np.ones((2, 3)))], "Model is missing inputs"),
        ([A, {**B, "shape": [2, 2]}], "'b': shape [2, 2] needs 4 values"),
        ([A, tensor("b", [2**53 + 1, 0], "INT64")], "'b': the signature says float64, and 9007199254740993 of int64"),
        ([A, tensor("b", ["x", "y"], "BYTES")], "Can not safely convert"),
    ],
)
def test_columns_that_do_not_fit_are_refused(two: MLflowRuntime, inputs: Any, words: str) -> None:
    assert words in refusal(two, *inputs)


def test_a_refused_tensor_is_told_with_the_columns(two: MLflowRuntime) -> None:
    told = refusal(two, tensor("x", np.ones((2, 3))), content_type="np")
    assert "the model takes 2 columns a, b" in told and "got a tensor of shape [2, 3]" in told


def test_every_kind_of_column(save: Any, load: Any) -> None:
    kinds = {"i": "integer", "l": "long", "f": "float", "t": "boolean", "s": "string", "y": "binary", "d": "datetime"}
    model = load(save(Keeps(), columns(*kinds.items())))
    day = datetime.datetime(2026, 1, 2, 3, 4, 5)
    found = ask(
        model,
        tensor("i", [7.0], "FP64"),
        tensor("l", [2**62], "INT64"),
        tensor("f", [0.5], "FP64"),
        tensor("t", [True], "BOOL"),
        tensor("s", ["köln"], "BYTES"),
        tensor("y", ["/w=="], "BYTES"),
        tensor("d", [day.isoformat()], "BYTES"),
    )
    assert {name: str(kind) for name, kind in found.dtypes.items() if name in "ilftd"} == {
        "i": "int32",
        "l": "int64",
        "f": "float32",
        "t": "bool",
        "d": "datetime64[ns]",
    }
    assert found.iloc[0].to_dict() == {"i": 7, "l": 2**62, "f": 0.5, "t": True, "s": "köln", "y": b"\xff", "d": day}


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("integer", tensor("a", [1.5]), "the signature says int32, and 1.5 of float64 cannot be kept exactly"),
        ("integer", tensor("a", [2**31], "INT64"), "2147483648 of int64 cannot be kept exactly"),
        ("long", tensor("a", [None], "FP64"), "nan of float64 cannot be kept exactly"),
        ("float", tensor("a", [0.1]), "0.1 of float64 cannot be kept exactly"),
        ("boolean", tensor("a", [2], "INT64"), "2 of int64 cannot be kept exactly"),
        ("datetime", tensor("a", ["soon"], "BYTES", content_type="str"), "these are no dates"),
        ("string", tensor("a", [1.0]), "content type 'str' needs datatype BYTES, got FP64"),
    ],
    ids=lambda one: str(one)[:12],
)
def test_what_would_lose_something_is_refused(save: Any, load: Any, kind: str, given: Any, words: str) -> None:
    assert words in refusal(load(save(Keeps(), columns(("a", kind)))), given)


def test_dates_with_a_zone_are_told_in_utc(save: Any, load: Any) -> None:
    model = load(save(Keeps(), columns(("a", "datetime"))))
    found = ask(model, tensor("a", ["2026-01-02T03:00:00+02:00"], "BYTES"))
    assert found["a"][0] == pd.Timestamp("2026-01-02T01:00:00")


def test_a_lone_column_may_have_any_name(save: Any, load: Any) -> None:
    model = load(save(Keeps(), columns(("text", "string"))))
    for given in (tensor("x", ["a", "b"], "BYTES"), tensor("text", [["a"], ["b"]], "BYTES")):
        assert ask(model, given)["text"].tolist() == ["a", "b"]
    assert ask(model, tensor("x", ["a"], "BYTES"), content_type="str")["text"].tolist() == ["a"]


def test_columns_without_names_go_by_place(save: Any, load: Any) -> None:
    signature = ModelSignature(inputs=Schema([ColSpec("double"), ColSpec("long")]))
    model = load(save(Keeps(), signature))
    found = ask(model, tensor("q", [1], "INT64"), tensor("p", [2.0], "FP64"))
    assert [str(kind) for kind in found.dtypes] == ["float64", "int64"]


def test_nested_columns_are_json(save: Any, load: Any) -> None:
    record = Object([Property("k", DataType.string), Property("n", DataType.long)])
    model = load(save(Keeps(), columns(("rows", Array(DataType.double)), ("of", record))))
    assert [one.parameters.content_type for one in model.inputs] == ["pd_json", "pd_json"]
    of = tensor("of", ['{"k": "a", "n": 1}', '{"k": "b", "n": 2}'], "BYTES")
    for content_type in (None, "pd_json", "str"):
        rows = tensor("rows", ["[1.0, 2.0]", "[3.0]"], "BYTES", content_type=content_type)
        found = ask(model, rows, of)
        assert [list(one) for one in found["rows"]] == [[1.0, 2.0], [3.0]]
        assert found["of"].tolist() == [{"k": "a", "n": 1}, {"k": "b", "n": 2}]
    assert "Model is missing inputs ['rows']" in refusal(model, of)
    assert "'rows': the signature wants JSON in each row, and 'x' is none" in refusal(
        model, tensor("rows", ["x", "y"], "BYTES"), of
    )


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_one_tensor_of_the_signature(save: Any, load: Any) -> None:
    model = load(save(Keeps(), ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 2))]))))
    for given, more in ((MATRIX, {}), (MATRIX, {"content_type": "dict"}), (MATRIX, {"content_type": "np"})):
        found = ask(model, given, **more)
        assert found.dtype == np.float32 and found.tolist() == [[1, 2], [3, 4]]
    assert "Shape of input (1, 4) does not match expected shape (-1, 2)" in refusal(model, {**MATRIX, "shape": [1, 4]})
    assert "0.1 of float64 cannot be kept exactly" in refusal(model, tensor("x", [[0.1, 1]]))
    assert "the model takes one tensor, got 2: a, b" in refusal(model, A, B, content_type="dict")


def test_text_tensors_are_numpys_text(save: Any, load: Any) -> None:
    model = load(save(Keeps(), ModelSignature(inputs=Schema([TensorSpec(np.dtype("str"), (-1,))]))))
    for content_type in (None, "str"):
        found = ask(model, tensor("x", ["a", "köln"], "BYTES", content_type=content_type))
        assert found.dtype.kind == "U" and found.tolist() == ["a", "köln"]


def test_tensors_go_by_name(save: Any, load: Any) -> None:
    parts = [TensorSpec(np.dtype("float64"), (-1, 2), "x"), TensorSpec(np.dtype("int64"), (-1,), "n")]
    model = load(save(Keeps(), ModelSignature(inputs=Schema(parts))))
    found = ask(model, tensor("n", [1, 2], "INT32"), MATRIX, tensor("more", [1.0]))
    assert found["n"].dtype == np.int64 and found["x"].tolist() == [[1, 2], [3, 4]]
    assert "the model takes tensors x, n; missing: n, got: x" in refusal(model, MATRIX)
    lone = load(save(Keeps(), ModelSignature(inputs=Schema(parts[:1])), "lone"))
    assert ask(lone, {**MATRIX, "name": "any"})["x"].tolist() == [[1, 2], [3, 4]]


# -- type hints and no signature --------------------------------------------------------------------------------------


def test_a_model_of_type_hints_gets_lists(save: Any, load: Any) -> None:
    model = load(save(OfHints()))
    for given in (tensor("x", ["a", "b"], "BYTES"), tensor("x", ["a", "b"], "BYTES", content_type="str")):
        assert ask(model, given) == ["a", "b"]
    assert "Expected type str, but got float" in refusal(model, tensor("x", [1.0]))
    records = load(save(OfRecords(), name="records"))
    for content_type in (None, "pd_json"):
        assert ask(records, tensor("x", ['{"a": 1.5}'], "BYTES", content_type=content_type)) == [{"a": 1.5}]


def test_without_a_signature_content_types_decide(save: Any, load: Any) -> None:
    model = load(save(Keeps()))
    assert ask(model, MATRIX).tolist() == [[1, 2], [3, 4]]
    pd.testing.assert_frame_equal(ask(model, A, B), WANTED)
    assert ask(model, A, B, content_type="dict")["b"].tolist() == [[2], [4]]
    assert ask(model, tensor("x", ["a"], "BYTES", content_type="str")) == ["a"]
    assert ask(load(model.settings.parameters.uri, content_type="dict"), A)["a"].tolist() == [1, 3]


# -- params -----------------------------------------------------------------------------------------------------------

PARAMS = ParamSchema([ParamSpec("alpha", "double", 0.5), ParamSpec("names", "string", ["a"], (-1,))])


def test_params_of_the_signature_come_from_the_requests_parameters(save: Any, load: Any) -> None:
    model = load(save(Keeps(), columns(("a", "double"), params=PARAMS)))
    for given, wanted in (
        ({}, {"alpha": 0.5, "names": ["a"]}),
        ({"alpha": 2, "unknown": 1}, {"alpha": 2.0, "names": ["a"]}),
        ({"names": ["x", "y"]}, {"alpha": 0.5, "names": ["x", "y"]}),
    ):
        ask(model, A, **given)
        assert {name: list(v) if name == "names" else v for name, v in SEEN[1].items()} == wanted
    assert "Can not safely convert" in refusal(model, A, alpha="much")


class OfRows(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        SEEN.append((len(model_input), params["alpha"], list(params["names"])))
        return model_input["a"]


def test_requests_of_a_batch_share_params_or_run_alone(save: Any, load: Any) -> None:
    model = load(save(OfRows(), columns(("a", "double"), params=PARAMS)))

    def batch(*alphas: Any, **more: Any) -> InferenceRequest:
        parts = [{"alpha": alpha, **more} if alpha is not None else more for alpha in alphas]
        return merge([InferenceRequest(inputs=[tensor("a", [[1.0]])], parameters=part) for part in parts])

    SEEN.clear()
    model.predict(batch(0.25, 0.25, names=["x"]))
    assert SEEN == [(2, 0.25, ["x"]), (1, 0.25, ["x"]), (1, 0.25, ["x"])]  # the first batch is compared with both alone
    for alphas in ((0.25, 0.75), (0.25, None)):
        with pytest.raises(InferenceError, match="requests of one batch differ in 'alpha'"):
            model.predict(batch(*alphas))


# -- failures of the model --------------------------------------------------------------------------------------------


class Fails(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return {"a": 1}[model_input["a"][0]]


OF_CODE = """
import mlflow

class Fails(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return {"a": 1}[model_input["a"][0]]
"""
FROM_CODE = f"{OF_CODE}\nmlflow.models.set_model(Fails())\n"
BY_A_LOADER = f"""{OF_CODE}
def _load_pyfunc(path):
    class Bare:
        def predict(self, model_input, params=None):
            return Fails().predict(None, model_input)
    return Bare()
"""


@pytest.mark.parametrize("way", ["pickled", "from code", "by a loader"])
def test_a_mistake_in_somebodys_code_is_no_fault_of_the_client(
    tmp_path: Path, save: Any, load: Callable[..., Any], way: str
) -> None:
    code = tmp_path / "own_loader.py"
    code.write_text(FROM_CODE if way == "from code" else BY_A_LOADER)
    if way == "by a loader":
        folder = save(None, loader_module="own_loader", code_paths=[str(code)])
    else:
        folder = save(Fails() if way == "pickled" else str(code))
    model = load(folder)
    with pytest.raises(KeyError):
        ask(model, A, B)


def test_bytes_that_are_no_text_are_refused(save: Any, load: Any) -> None:
    model = load(save(Keeps(), ModelSignature(inputs=Schema([TensorSpec(np.dtype("str"), (-1,))]))))
    request = InferenceRequest(inputs=[StringCodec.encode_input("x", ["a"])])
    request.inputs[0].parameters = None
    request.inputs[0].data = [b"\xff"]  # type: ignore[assignment]
    with pytest.raises(MLServeError) as caught:
        model.predict(request)
    assert caught.value.http_status == 400 and "no UTF-8" in str(caught.value)


def test_nothing_is_no_prediction(save: Any, load: Any) -> None:
    class Silent(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return None

    with pytest.raises(ModelError, match="gave None"):
        load(save(Silent())).predict(PandasCodec.encode_request(WANTED))
