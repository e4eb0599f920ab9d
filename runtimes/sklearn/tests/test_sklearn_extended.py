"""Runtimes that extend the scikit-learn runtime by the names that MLServer's has."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge

from mlserve import ModelSettings
from mlserve.codecs import NumpyRequestCodec, StringCodec
from mlserve.errors import InferenceError
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest, InferenceResponse, RequestOutput, ResponseOutput
from mlserve_sklearn import SKLearnModel
from mlserve_sklearn.sklearn import PREDICT_OUTPUT, VALID_OUTPUTS
from tests.runtime_trial import Trial, arrays, refusal, request_of

IRIS, SPECIES = load_iris(return_X_y=True)


class Extended(SKLearnModel):
    """Awaits what it extends, as it has to on MLServer."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        response = await super().predict(payload)
        response.outputs[0].name = "mine"
        return response


def test_code_that_extends_it_can_await_predict(tmp_path: Path) -> None:
    fitted = Ridge().fit(IRIS, SPECIES)
    joblib.dump(fitted, tmp_path / "model.joblib")
    request = NumpyRequestCodec.encode_request(IRIS)
    (answer,) = check_runtime(
        ModelSettings(name="m", implementation=Extended, parameters={"uri": str(tmp_path)}), request
    )
    assert answer.outputs[0].name == "mine"
    assert np.array_equal(arrays(answer)["mine"].ravel(), fitted.predict(IRIS))


class Explained(SKLearnModel):
    """Gives one output more than its model has methods, as extensions of MLServer's runtime do it."""

    def _check_request(self, payload: InferenceRequest) -> InferenceRequest:
        if not payload.outputs:
            payload.outputs = [RequestOutput(name=PREDICT_OUTPUT)]
        for one in payload.outputs:
            if one.name not in [*VALID_OUTPUTS, "explain"]:
                raise InferenceError(f"no output is called {one.name}")
        return payload

    def _get_model_outputs(self, payload: InferenceRequest) -> list[ResponseOutput]:
        assert payload.outputs
        wanted = [one.name for one in payload.outputs]
        payload.outputs = [one for one in payload.outputs if one.name != "explain"]
        extra = [StringCodec.encode_output("explain", ["because"])] if "explain" in wanted else []
        return extra + super()._get_model_outputs(payload)


class Narrowed(SKLearnModel):
    """Asks for what the runtime itself would."""

    def _check_request(self, payload: InferenceRequest) -> InferenceRequest:
        payload = super()._check_request(payload)
        assert payload.outputs
        if payload.outputs[0].name == "decision_function":
            raise InferenceError("this one is not given away")
        return payload


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((), ["predict"]),
        (("explain", "predict_proba"), ["explain", "predict_proba"]),
        (("explain",), ["explain"]),
    ],
)
def test_outputs_are_added_and_checked_by_the_names_that_mlserver_has(
    tmp_path: Path, asked: tuple[str, ...], given: list[str]
) -> None:
    fitted = LogisticRegression(max_iter=500).fit(IRIS, SPECIES)
    joblib.dump(fitted, tmp_path / "model.joblib")
    model = Trial(Explained).load(tmp_path)
    answer = model.predict(request_of(IRIS[::10], *asked))
    assert [one.name for one in answer.outputs] == given
    for name, values in arrays(answer).items():
        if name != "explain":
            assert np.array_equal(values.squeeze(), getattr(fitted, name)(IRIS[::10]))
    assert "no output is called nope" in str(refusal(model, IRIS[::10], "nope"))


def test_the_runtimes_own_check_names_the_default_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    joblib.dump(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), tmp_path / "model.joblib")
    model = Trial(Narrowed).load(tmp_path)
    assert [one.name for one in model.predict(request_of(IRIS[:2])).outputs] == ["predict"]
    assert "not given away" in str(refusal(model, IRIS[:2], "decision_function"))
    assert "has no output 'nope'" in str(refusal(model, IRIS[:2], "nope"))
