"""A server with the models that are explained, and saved explainers of them; alibi is imported once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import joblib
import numpy
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from tests.serving import Running, serving, write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    import spacy
    import tensorflow
    import torch
    from alibi import explainers

IRIS = load_iris()
X, Y = IRIS.data.astype("float32"), IRIS.target
SLIC = {"n_segments": 4, "compactness": 5, "sigma": 0.5, "start_label": 0}
# Served for the black-box explainers; each request's first tensor, to an output for each function below.
CODE = """
import anyio
import joblib
import numpy as np
import shapes
from mlserve import MLModel
from mlserve.codecs import NumpyCodec, StringCodec
from mlserve.errors import InferenceError
from mlserve.types import InferenceResponse


class Plain(MLModel):
    async def load(self):
        name = self.settings.parameters.extra.get("class")
        self.model = getattr(shapes, name)() if name else joblib.load(self.settings.parameters.uri)

    async def predict(self, payload):
        tensor = payload.inputs[0]
        is_text = tensor.datatype == "BYTES"
        data = StringCodec.decode_input(tensor) if is_text else NumpyCodec.decode_input(tensor)
        asked = [one.name for one in payload.outputs or ()] or ["predict"]
        known = [name for name in asked if hasattr(self.model, name)]
        outputs = [NumpyCodec.encode_output(name, getattr(self.model, name)(data)) for name in known]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Strict(Plain):
    # refuses, as runtimes do, rows of another width than 4 and outputs that it has not

    async def predict(self, payload):
        if payload.inputs[0].shape[1:] != [4]:
            raise InferenceError("rows have 4 columns here")
        for one in payload.outputs or ():
            if one.name != "predict":
                raise InferenceError(f"no output '{one.name}' here")
        return await super().predict(payload)


class Failing(MLModel):
    def predict(self, payload):
        raise ZeroDivisionError("no luck")


class Odd(MLModel):
    # answers all but what was asked for

    def predict(self, payload):
        rows = len(payload.inputs[0].data) // payload.inputs[0].shape[-1]
        shapes = {"few": (rows - 1, 3), "none": (0, 3), "deep": (rows, 3, 2)}
        arrays = {name: np.zeros(shape) for name, shape in shapes.items()}
        outputs = [NumpyCodec.encode_output(name, value) for name, value in arrays.items()]
        outputs.append(StringCodec.encode_output("texts", ["x"] * rows))
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Slow(MLModel):
    async def predict(self, payload):
        await anyio.sleep(300)
"""
SHAPES = '''
import numpy as np


class Bright:
    """Whether the middle of an image is bright."""

    def predict(self, images):
        return (images[:, 4:12, 4:12].mean(axis=(1, 2, 3)) > 0.5).astype("int64")


class Sums:
    """Of the columns."""

    def predict(self, rows):
        return rows.sum(axis=1)


class Good:
    """Whether a text has the word."""

    def predict(self, texts):
        return np.array([int("good" in text) for text in texts])
'''

SERVED = [
    ("iris", "Plain", {}),
    ("bright", "Plain", {"class": "Bright"}),
    ("good", "Plain", {"class": "Good"}),
    ("strict", "Strict", {"class": "Sums"}),
    ("failing", "Failing", {}),
    ("slow", "Slow", {}),
    ("odd", "Odd", {}),
]


class World(NamedTuple):
    """What the tests explain."""

    server: Running
    folder: Path  # with a saved explainer or a model under each name
    models: dict[str, Any]  # in this process

    def uri(self, model: str, transport: str = "http") -> str:
        if transport == "grpc":
            return f"grpc://{self.server.grpc}/{model}"
        return f"{self.server.rest}/v2/models/{model}/infer"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    models = _models(folder)
    _explainers(folder, models)
    served = folder / "served"
    served.mkdir()
    for name, kind, extra in SERVED:
        parameters = {"uri": str(folder / f"{name}.joblib"), "extra": extra}
        place = write_model(served, name, f"explained.{kind}", parameters=parameters)
        (place / "explained.py").write_text(CODE)
        (place / "shapes.py").write_text(SHAPES)
    with serving(served, "--parallel-workers", "0") as server:
        yield World(server, folder, models)


def _models(folder: Path) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "shapes"}
    exec(SHAPES, space)
    keras = tensorflow.keras
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    network.save(folder / "network.keras")
    models = {
        "iris": LogisticRegression(max_iter=500).fit(X, Y),
        "forest": RandomForestClassifier(n_estimators=5, max_depth=3, random_state=0).fit(X, Y),
        "boosted": GradientBoostingClassifier(n_estimators=3, random_state=0).fit(X, Y > 0),
    }
    for name, model in models.items():
        joblib.dump(model, folder / f"{name}.joblib")
    return {**models, "network": network, "bright": space["Bright"](), "good": space["Good"]()}


def _explainers(folder: Path, models: dict[str, Any]) -> None:
    iris = models["iris"]
    anchors = explainers.AnchorTabular(iris.predict, list(IRIS.feature_names), seed=0)
    anchors.fit(X)
    shap = explainers.KernelShap(iris.predict_proba, seed=0)
    shap.fit(X[:20])
    trees = explainers.TreeShap(models["forest"], model_output="raw")
    trees.fit()
    made = {
        "anchor_tabular": anchors,
        "kernel_shap": shap,
        "tree_shap": trees,
        "tree_partial_dependence": explainers.TreePartialDependence(models["boosted"]),
        "integrated_gradients": explainers.IntegratedGradients(models["network"], n_steps=10),
        "anchor_text": explainers.AnchorText(models["good"].predict, nlp=spacy.blank("en"), seed=0),
        "ale": explainers.ALE(iris.predict_proba),
        "partial_dependence": explainers.PartialDependence(iris.predict_proba),
        "permutation_importance": explainers.PermutationImportance(iris.predict, score_fns=["accuracy"]),
        "gradient_similarity": _similarity(models["network"]),
        "counterfactual_rl": _counterfactuals(iris),
    }
    numpy.save(folder / "flowers.npy", X)
    for name, explainer in made.items():
        explainer.save(folder / name)


def _similarity(network: Any) -> Any:
    loss = tensorflow.keras.losses.sparse_categorical_crossentropy
    explainer = explainers.GradientSimilarity(network, loss_fn=loss, task="classification", backend="tensorflow")
    explainer.fit(X[:20], Y[:20])
    return explainer


def _counterfactuals(iris: Any) -> Any:
    encoder, decoder = torch.nn.Linear(4, 3), torch.nn.Linear(3, 4)
    steps = {"train_steps": 5, "batch_size": 10, "num_workers": 0, "backend": "pytorch", "seed": 0}
    explainer = explainers.CounterfactualRL(
        iris.predict_proba, encoder, decoder, latent_dim=3, coeff_sparsity=0.5, coeff_consistency=0.5, **steps
    )
    explainer.fit(X)
    return explainer
