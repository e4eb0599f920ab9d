"""The alibi-explain runtime: each explainer's answer is alibi's own, bit for bit, for the same random numbers."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from sklearn.datasets import load_iris

from mlserve import ModelSettings
from mlserve.errors import MLServeError, ModelLoadError
from mlserve.types import InferenceRequest, RequestOutput
from mlserve_alibi_explain import AlibiExplainRuntime
from mlserve_alibi_explain.kinds import kind_of
from mlserve_alibi_explain.words import words_of
from tests.explanations import explained, own, request_of, texts
from tests.old_runtimes import check_old_names

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi import explainers
    from alibi.saving import load_explainer

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

X = load_iris().data.astype("float32")
Y = load_iris().target
IMAGE = np.zeros((1, 16, 16, 1), "float32")
IMAGE[:, 4:12, 4:12] = 1
SLIC = {"n_segments": 4, "compactness": 5, "sigma": 0.5, "start_label": 0}
IMAGES = {"image_shape": [16, 16, 1], "segmentation_fn": "slic", "segmentation_kwargs": SLIC}


def one_row() -> InferenceRequest:
    request = request_of(X[0])
    request.inputs[0].shape = [4]
    return request


# -- explainers that ask a model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_anchors_of_rows(world: Any, transport: str) -> None:
    uri = world.folder / "anchor_tabular"
    extra = {"explainer_type": "anchor_tabular", "infer_uri": world.uri("iris", transport), "seed": 7}
    first, again, both = explained(
        extra, request_of(X[:1]), request_of(X[:1], threshold=0.8), request_of(X[[0, 100]]), uri=uri
    )
    make = lambda: load_explainer(uri, world.models["iris"].predict)  # noqa: E731
    assert texts(first) == [own(make, X[0])]
    assert json.loads(texts(again)[0])["meta"]["params"]["threshold"] == 0.8
    assert [json.loads(one)["data"]["raw"]["prediction"] for one in texts(both)] == [[0], [2]]


def test_shap_of_each_row_and_of_all_rows(world: Any) -> None:
    uri = world.folder / "kernel_shap"
    extra = {
        "explainer_type": "kernel_shap",
        "infer_uri": world.uri("iris"),
        "infer_output": "predict_proba",
        "seed": 7,
    }
    make = lambda: load_explainer(uri, world.models["iris"].predict_proba)  # noqa: E731
    (each,) = explained(extra, request_of(X[:2], nsamples=50), uri=uri)
    assert texts(each) == [own(make, X[place : place + 1], nsamples=50) for place in (0, 1)]
    (together,) = explained({**extra, "explainer_batch": True}, request_of(X[:2], nsamples=50), uri=uri)
    assert texts(together) == [own(make, X[:2], nsamples=50)]


def test_anchors_of_images_by_init_parameters(world: Any) -> None:
    extra = {"explainer_type": "anchor_image", "infer_uri": world.uri("bright"), "init_parameters": IMAGES, "seed": 7}
    (found,) = explained(extra, request_of(IMAGE, p_sample=0.3))
    make = lambda: explainers.AnchorImage(world.models["bright"].predict, **IMAGES)  # noqa: E731
    assert texts(found) == [own(make, IMAGE[0], p_sample=0.3)]
    assert json.loads(texts(found)[0])["data"]["raw"]["prediction"] == [1]


def test_anchors_of_texts(world: Any) -> None:
    uri = world.folder / "anchor_text"
    extra = {"explainer_type": "anchor_text", "infer_uri": world.uri("good")}
    (found,) = explained(extra, request_of(["a good book", "a bad book"]), uri=uri)
    good, bad = (json.loads(one)["data"] for one in texts(found))
    assert good["anchor"] == ["good"]
    assert (good["raw"]["prediction"], bad["raw"]["prediction"]) == ([1], [0])
    by_name = {**extra, "init_parameters": {"nlp": "en", "sampling_strategy": "unknown"}}
    (again,) = explained(by_name, request_of(["a good book"]))
    assert json.loads(texts(again)[0])["data"]["anchor"] == ["good"]


@pytest.mark.parametrize(
    ("kind", "output", "arguments"),
    [
        ("ale", "predict_proba", {"features": [0]}),
        ("partial_dependence", "predict_proba", {"features": [0], "grid_resolution": 5}),
        ("permutation_importance", "predict", {"y": Y.tolist(), "n_repeats": 3}),
    ],
)
def test_explanations_of_a_model_as_a_whole(world: Any, kind: str, output: str, arguments: dict[str, Any]) -> None:
    uri = world.folder / kind
    extra = {"explainer_type": kind, "infer_uri": world.uri("iris"), "infer_output": output, "seed": 7}
    (found,) = explained(extra, request_of(X, **arguments), uri=uri)
    make = lambda: load_explainer(uri, getattr(world.models["iris"], output))  # noqa: E731
    given = {name: np.asarray(value) if name == "y" else value for name, value in arguments.items()}
    assert texts(found) == [own(make, X, **given)]


def test_the_variance_of_partial_dependence(world: Any) -> None:
    extra = {"explainer_type": "PartialDependenceVariance", "infer_output": "predict_proba", "init_parameters": {}}
    (found,) = explained({**extra, "infer_uri": world.uri("iris")}, request_of(X, grid_resolution=4))
    make = lambda: explainers.PartialDependenceVariance(world.models["iris"].predict_proba)  # noqa: E731
    assert texts(found) == [own(make, X, grid_resolution=4)]


# -- explainers that look into a model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "model", "arguments"),
    [("tree_shap", "forest", {}), ("tree_partial_dependence", "boosted", {"features": [0], "grid_resolution": 5})],
)
def test_explanations_of_trees(world: Any, kind: str, model: str, arguments: dict[str, Any]) -> None:
    uri = world.folder / kind
    extra = {"explainer_type": kind, "infer_uri": str(world.folder / f"{model}.joblib"), "threads": 1}
    (found,) = explained(extra, request_of(X[:3], **arguments), uri=uri)
    assert texts(found) == [own(lambda: load_explainer(uri, world.models[model]), X[:3], **arguments)]


def test_explanations_of_trees_by_init_parameters(world: Any) -> None:
    uri = str(world.folder / "boosted.joblib")
    extra = {"infer_uri": uri, "init_parameters": {}, "explain_parameters": {"grid_resolution": 4}}
    (found,) = explained({**extra, "explainer_type": "tree_partial_dependence_variance"}, request_of(X))
    make = lambda: explainers.PartialDependenceVariance(world.models["boosted"])  # noqa: E731
    assert texts(found) == [own(make, X, grid_resolution=4)]
    (shap,) = explained({"explainer_type": "tree_shap", "infer_uri": uri, "init_parameters": {}}, request_of(X[:2]))
    assert json.loads(texts(shap)[0])["meta"]["name"] == "TreeShap"


def test_gradients_explain_the_likeliest_class_or_the_one_asked_for(world: Any) -> None:
    uri = world.folder / "integrated_gradients"
    extra = {"explainer_type": "integrated_gradients", "infer_uri": str(world.folder / "network.keras")}
    network = world.models["network"]
    likely, asked = explained(extra, request_of(X[:2]), request_of(X[:2], target=[1, 0]), uri=uri)
    make = lambda: load_explainer(uri, network)  # noqa: E731
    assert texts(likely) == [own(make, X[:2], target=network(X[:2]).numpy().argmax(axis=1))]
    assert texts(asked) == [own(make, X[:2], target=[1, 0])]


def test_gradients_that_are_alike(world: Any) -> None:
    uri = world.folder / "gradient_similarity"
    extra = {"explainer_type": "gradient_similarity", "infer_uri": str(world.folder / "network.keras")}
    (found,) = explained(extra, request_of(X[:1]), uri=uri)
    assert texts(found) == [own(lambda: load_explainer(uri, world.models["network"]), X[:1])]


def test_gradients_of_a_module_of_pytorch(tmp_path: Path) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(4, 3))
    torch.save(network, tmp_path / "m.pt")
    made = explainers.GradientSimilarity(network, torch.nn.CrossEntropyLoss(), task="classification", backend="pytorch")
    made.fit(X[:20], Y[:20])
    made.save(tmp_path / "similar")
    extra = {"explainer_type": "GradientSimilarity", "infer_uri": str(tmp_path / "m.pt")}
    (found,) = explained(extra, request_of(X[:1]), uri=tmp_path / "similar")
    assert texts(found) == [own(lambda: load_explainer(tmp_path / "similar", network), X[:1])]


@pytest.mark.parametrize(("framework", "file"), [("xgboost", "m.ubj"), ("lightgbm", "m.txt"), ("catboost", "m.cbm")])
def test_trees_of_other_frameworks_are_read_from_their_own_files(framework: str, file: str, tmp_path: Path) -> None:
    module = importlib.import_module(framework)
    path = tmp_path / file
    if framework == "xgboost":
        model = module.train({"max_depth": 2}, module.DMatrix(X, Y), num_boost_round=3)
    elif framework == "lightgbm":
        model = module.train({"verbose": -1, "max_depth": 2}, module.Dataset(X, Y), num_boost_round=3)
    else:
        options = {"iterations": 3, "verbose": False, "allow_writing_files": False}
        model = module.CatBoostClassifier(**options).fit(X, Y > 0)  # shap 0.43 reads no regressors
    model.save_model(str(path))
    (found,) = explained(
        {"explainer_type": "tree_shap", "infer_uri": str(path), "init_parameters": {}}, request_of(X[:2])
    )
    data = json.loads(texts(found)[0])["data"]
    asked = module.DMatrix(X[:2]) if framework == "xgboost" else X[:2]
    base, effects = np.ravel(data["expected_value"])[0], np.array(data["shap_values"][0])
    raw = model.predict(asked, prediction_type="RawFormulaVal") if framework == "catboost" else model.predict(asked)
    np.testing.assert_allclose(effects.sum(axis=1) + base, raw, atol=1e-4)  # what SHAP promises
    with pytest.raises(MLServeError, match=r"takes instances of shape \[-1, 4\], got \[-1, 3\]"):
        explained({"explainer_type": "tree_shap", "infer_uri": str(path), "init_parameters": {}}, request_of(X[:2, :3]))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def failure(extra: dict[str, Any], request: InferenceRequest, uri: Path | None) -> MLServeError:
    with pytest.raises(MLServeError) as caught:
        explained(extra, request, uri=uri)
    return caught.value


@pytest.mark.parametrize(
    ("model", "more", "status", "words"),
    [
        ("failing", {}, 502, r"the model at http://\S+/failing/infer could not be asked: .*no luck"),
        ("missing", {}, 502, "could not be asked: .*missing"),
        ("iris", {"infer_output": "nope"}, 502, "gave no output"),
        ("slow", {"infer_timeout": 1}, 504, r"/slow/infer gave no answer in time: .*within 1 s"),
    ],
)
def test_what_the_model_does_wrong_is_not_the_clients_fault(
    world: Any, model: str, more: dict[str, Any], status: int, words: str
) -> None:
    extra = {"explainer_type": "anchor_tabular", "infer_uri": world.uri(model), **more}
    error = failure(extra, request_of(X[:1]), world.folder / "anchor_tabular")
    assert error.http_status == status
    assert re.search(words, str(error)), str(error)


@pytest.mark.parametrize("kind", ["ale", "partial_dependence", "permutation_importance", "counterfactual_rl"])
@pytest.mark.parametrize(
    ("columns", "output", "status", "words"),
    [
        (5, None, 400, "the model at .*strict.* does not take these instances: .*4 columns here"),
        (5, "predict", 400, "the model at .*strict.* does not take these instances: .*4 columns here"),
        (4, "nope", 502, "the model at .*strict.* could not be asked: .*no output 'nope' here"),
    ],
)
def test_rows_that_the_model_refuses_are_the_clients_fault(
    world: Any, kind: str, columns: int, output: str | None, status: int, words: str
) -> None:
    """Where the explainer has no shape of its own. An output that the model has not is the fault of the settings."""
    arguments = {"permutation_importance": {"y": [0, 1]}, "counterfactual_rl": {"Y_t": [1]}}.get(kind, {})
    extra = {"explainer_type": kind, "infer_uri": world.uri("strict"), **({"infer_output": output} if output else {})}
    error = failure(extra, request_of(np.ones((2, columns), "float32"), **arguments), world.folder / kind)
    assert error.http_status == status, str(error)
    assert re.search(words, str(error)), str(error)


@pytest.mark.parametrize("columns", [3, 5])
def test_rows_of_another_width_than_its_data_are_refused_by_shap(world: Any, columns: int) -> None:
    extra = {"explainer_type": "kernel_shap", "infer_uri": world.uri("strict")}
    error = failure(extra, request_of(np.ones((1, columns))), world.folder / "kernel_shap")
    assert error.http_status == 400
    assert f"takes instances of shape [-1, 4], got [-1, {columns}]" in str(error)


def test_a_model_that_refuses_what_an_explainer_made_is_not_the_clients_fault(world: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((5, 6)))
    made = {"init_parameters": {}, "infer_uri": world.uri("strict"), "explainer_type": "kernel_shap"}
    error = failure(made, request_of(np.ones((1, 6))), tmp_path / "wide.npy")
    assert error.http_status == 502
    assert "could not be asked: " in str(error)


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        ("threshold is 0", "ValueError: threshold is 0"),
        ("", "ValueError"),
        (
            "something is wrong\n\n\x1b[1mshape (1, 3)\x1b[0m\n\nArguments: x",
            "ValueError: something is wrong shape (1, 3)",
        ),
        (
            "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most "
            'recent call last):\n  File "/srv/lib/site-packages/a.py", line 3, in f\n    x + y\nValueError: sizes 3, 4',
            "ValueError: sizes 3, 4",
        ),
        ("cannot open /srv/models/why/explainer.dill of 'a/b'", "ValueError: cannot open explainer.dill of 'a/b'"),
        ("http://h:1/v2/models/m is 1 / 2", "ValueError: http://h:1/v2/models/m is 1 / 2"),
    ],
)
def test_a_client_is_told_no_trace_and_no_folder_of_the_server(complaint: str, words: str) -> None:
    assert words_of(ValueError(complaint)) == words


def test_a_server_that_is_down_is_told_by_its_address(world: Any) -> None:
    extra = {"explainer_type": "kernel_shap", "infer_uri": "http://127.0.0.1:1/v2/models/iris/infer"}
    error = failure(extra, request_of(X[:1]), world.folder / "kernel_shap")
    assert error.http_status == 502
    assert "127.0.0.1:1/v2/models/iris/infer could not be asked" in str(error)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (request_of(X[0]), r"of shape \[-1, 4\], got \[-1, 1\]"),
        (one_row(), r"of shape \[n, ...\], got \[4\]: one instance is of shape \[1, 4\]"),
        (request_of(X[:1, :3]), r"takes instances of shape \[-1, 4\], got \[-1, 3\]"),
        (request_of(["a"]), "explains numbers"),
        (request_of(X[:1], threshold="high"), "'threshold': expected a number from 0 to 1, got 'high'"),
        (request_of(X[:0]), "explains an instance, and the request has none: inputs.0. is empty"),
        (InferenceRequest(inputs=[]), "no input"),
        (InferenceRequest(inputs=request_of(X[:1]).inputs, outputs=[RequestOutput(name="nope")]), "no output 'nope'"),
    ],
)
def test_what_cannot_be_explained_is_refused(world: Any, request_: InferenceRequest, words: str) -> None:
    extra = {"explainer_type": "anchor_tabular", "infer_uri": world.uri("iris")}
    error = failure(extra, request_, world.folder / "anchor_tabular")
    assert error.http_status == 400, str(error)
    assert re.search(words, str(error)), str(error)


@pytest.mark.parametrize(
    ("kind", "model", "uri"),
    [
        ("tree_shap", "forest", None),
        ("tree_shap", "forest", "tree_shap"),
        ("tree_partial_dependence", "boosted", None),
        ("tree_partial_dependence_variance", "boosted", None),
    ],
)
@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (200, 1), (2, 4, 1)])
def test_rows_of_another_width_than_the_trees_are_refused(
    world: Any, kind: str, model: str, uri: str | None, shape: tuple[int, ...]
) -> None:
    """shap's C code does not look: it reads and writes beyond its buffers."""
    extra = {"explainer_type": kind, "infer_uri": str(world.folder / f"{model}.joblib")}
    made = {} if uri else {"init_parameters": {}}
    error = failure({**extra, **made}, request_of(np.zeros(shape, "float32")), world.folder / uri if uri else None)
    assert error.http_status == 400
    assert f"takes instances of shape [-1, 4], got [-1, {', '.join(map(str, shape[1:]))}]" in str(error)


def test_requests_cannot_be_merged() -> None:
    extra = {"explainer_type": "ale", "infer_uri": "http://127.0.0.1:1/v2/models/iris/infer", "init_parameters": {}}
    for batching in (
        {"max_batch_size": 4, "max_batch_time": 0.1},
        {"max_batch_time": "auto", "target_latency_seconds": 1},
    ):
        settings = ModelSettings(
            name="why", implementation=AlibiExplainRuntime, parameters={"extra": extra}, **batching
        )
        with pytest.raises(ModelLoadError, match="requests for explanations cannot be merged"):
            anyio.run(AlibiExplainRuntime(settings).load)


def test_each_class_of_alibi_is_served_or_has_a_reason_why_not() -> None:
    classes = [name for name in explainers.__all__ if isinstance(getattr(explainers, name), type)]
    assert "AnchorTabular" in classes
    for name in classes:
        try:
            assert kind_of("m", name).class_name == name
        except ModelLoadError as error:
            assert f"no explainer '{name}' can be served (" in str(error)


@pytest.mark.parametrize(
    ("extra", "artifact", "words"),
    [
        ({"explainer_type": None}, "anchor_tabular", "explainer_type is not set"),
        ({"infer_uri": None}, "anchor_tabular", "infer_uri is not set"),
        (
            {"explainer_type": "anchors"},
            "anchor_tabular",
            "no explainer 'anchors' can be served; expected one of .*ale",
        ),
        ({"explainer_type": "counterfactual_proto"}, "ale", "alibi cannot save a CounterfactualProto"),
        (
            {"explainer_type": "distributed_anchor_tabular"},
            None,
            r"\('anchor_tabular' explains the same.*expected one of",
        ),
        ({"explainer_type": "alibi.prototypes.ProtoSelect"}, None, r"\(it picks typical instances of a data set"),
        ({"infer_uri": "localhost:8080"}, "anchor_tabular", "infer_uri: expected the address"),
        ({"infer_uri": "http://127.0.0.1:1/iris"}, "anchor_tabular", "infer_uri: expected the address"),
        ({}, "kernel_shap", "holds a KernelShap, but .*'anchor_tabular', which is AnchorTabular"),
        ({}, "served", "holds no explainer: it has no meta.dill"),
        ({"init_parameters": {}}, None, "must be fitted"),
        (
            {"explainer_type": "anchor_image", "init_parameters": {"shape": 1}},
            None,
            "unexpected keyword argument 'shape'",
        ),
        ({"explainer_type": "tree_shap"}, "tree_shap", "needs the model's file, got the address"),
        ({"explainer_type": "tree_shap", "infer_uri": "/nowhere"}, "tree_shap", "/nowhere does not exist"),
        ({"ssl_verify_path": "/nowhere"}, "anchor_tabular", "/nowhere is no file of certificates"),
        ({"seed": -1}, "anchor_tabular", "expected a whole number from 0 on"),
    ],
)
def test_settings_that_cannot_be_used_are_told(
    world: Any, extra: dict[str, Any], artifact: str | None, words: str
) -> None:
    given = {"explainer_type": "anchor_tabular", "infer_uri": "http://127.0.0.1:1/v2/models/iris/infer", **extra}
    with pytest.raises(ModelLoadError, match=words):
        explained(given, uri=world.folder / artifact if artifact is not None else None)


def test_a_damaged_explainer_is_told_when_it_is_loaded(world: Any, tmp_path: Path) -> None:
    (tmp_path / "meta.dill").write_bytes((world.folder / "anchor_tabular" / "meta.dill").read_bytes())
    (tmp_path / "explainer.dill").write_bytes(b"\x80\x04")
    extra = {"explainer_type": "anchor_tabular", "infer_uri": "http://127.0.0.1:1/v2/models/iris/infer"}
    with pytest.raises(ModelLoadError, match=r"cannot be loaded: .*save it again"):
        explained(extra, uri=tmp_path)


def test_a_caller_that_leaves_ends_its_explanation(world: Any) -> None:
    """The thread is freed at the next call of the model, which is cancelled with it; the next request is answered."""

    async def live() -> None:
        extra = {"explainer_type": "anchor_tabular", "infer_uri": world.uri("slow")}
        parameters = {"uri": str(world.folder / "anchor_tabular"), "extra": extra}
        model = AlibiExplainRuntime(
            ModelSettings(name="why", implementation=AlibiExplainRuntime, parameters=parameters)
        )
        await model.load()
        with anyio.fail_after(100):  # the model takes 300 s
            with anyio.move_on_after(0.5) as scope:
                await model.predict(request_of(X[:1]))
            assert scope.cancelled_caught
            task = asyncio.current_task()  # as a worker cancels calls
            assert task is not None
            asyncio.get_running_loop().call_later(0.5, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await model.predict(request_of(X[:1]))
            if sys.version_info >= (3, 11):
                task.uncancel()
        await model.unload()

    anyio.run(live)


def test_its_modules_have_mlservers_names() -> None:
    check_old_names("mlserver_alibi_explain")
