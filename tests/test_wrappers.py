"""Models that wrap another one, and so leave the base class's __init__ out, work with all its helpers."""

# mypy: disable-error-code="arg-type, assignment"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.codecs import NumpyRequestCodec, StringRequestCodec
from mlserve.model import MLModel
from mlserve.running import LoadedModel
from mlserve.settings import ModelSettings
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest, InferenceResponse, MetadataTensor, RequestInput, RequestOutput
from tests.clean_place import write
from tests.serving import serving

TEXT = {"name": "x", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "str"}}


class Inner(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return self.encode_response(self.decode_request(payload, default_codec=NumpyRequestCodec), NumpyRequestCodec)


class Wrapper(MLModel):
    """Delegates by properties."""

    name = property(lambda self: self._rt.name)
    version = property(lambda self: self._rt.version)
    settings = property(lambda self: self._rt.settings)
    inputs = property(lambda self: self._rt.inputs)
    outputs = property(lambda self: self._rt.outputs)
    ready = property(lambda self: self._rt.ready, lambda self, value: setattr(self._rt, "ready", value))

    def __init__(self, settings: ModelSettings) -> None:
        self._rt = Inner(settings)

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await self._rt.predict(payload)


class Delegator(MLModel):
    """Delegates what it has not."""

    def __init__(self, settings: ModelSettings) -> None:
        self._rt = Inner(settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_rt"], name)

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await self._rt.predict(payload)


class Keeper(Inner):
    """Keeps the settings itself."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings


KINDS: list[type[MLModel]] = [Wrapper, Delegator, Keeper]


def made(kind: type[MLModel]) -> MLModel:
    return kind(ModelSettings(name="m", inputs=[TEXT], outputs=[{**TEXT, "name": "o"}], parameters={"version": "v1"}))


def given() -> RequestInput:
    return RequestInput(name="x", shape=[2], datatype="BYTES", data=["a", "b"])


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_it_has_the_name_settings_and_metadata_of_the_inner_model(kind: type[MLModel]) -> None:
    model = made(kind)
    assert (model.name, model.version, repr(model)) == ("m", "v1", f"<{kind.__name__} m v1>")
    assert model._settings is model.settings and model.ready is None
    assert [one.name for one in (await model.metadata()).inputs] == ["x"]
    model.ready = False
    assert model.ready is False
    model.settings.inputs = [MetadataTensor(**{**TEXT, "name": "y"})]
    assert list(model.declared("inputs") or ()) == ["y"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_decodes_and_encodes(kind: type[MLModel]) -> None:
    model = made(kind)
    assert model.decode(given()) == ["a", "b"]
    assert model.decode_request(InferenceRequest(inputs=[given()]), default_codec=StringRequestCodec) == ["a", "b"]
    assert model.encode(["c"], RequestOutput(name="o")).parameters.content_type == "str"
    assert model.encode_response(np.array([1]), NumpyRequestCodec).outputs[0].data == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_offers_it_decoded_requests(kind: type[MLModel]) -> None:
    request = InferenceRequest(inputs=[given()])
    LoadedModel(made(kind), None).offer_decoded(request)
    assert request.inputs[0].parameters._decoded_payload == ["a", "b"]


def test_two_models_do_not_share_what_they_declare() -> None:
    one, other = made(Keeper), Keeper(ModelSettings(name="n", inputs=[{**TEXT, "name": "y"}]))
    assert list(one.declared("inputs") or ()) == ["x"] and list(other.declared("inputs") or ()) == ["y"]


def test_a_model_that_keeps_no_settings_at_all_is_told_what_to_call() -> None:
    class Bare(MLModel):
        def __init__(self, settings: ModelSettings) -> None:
            pass

    with pytest.raises(AttributeError, match=r"Bare has no settings: call super\(\).__init__\(settings\)"):
        Bare(ModelSettings(name="m")).name  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_check_of_runtimes(kind: type[MLModel]) -> None:
    numbers = RequestInput(name="x", shape=[2, 1], datatype="FP64", data=[1.0, 2.0])
    check_runtime(
        ModelSettings(name="m", implementation=kind), InferenceRequest(inputs=[numbers]), unknown_output=False
    )


@pytest.mark.slow
def test_it_is_served_under_its_old_names(tmp_path: Path) -> None:
    source = Path(__file__).read_text()
    classes = source[source.index("class Inner(") : source.index("class Delegator(")]
    imports = "from mlserver import MLModel, ModelSettings\nfrom mlserver.codecs import NumpyRequestCodec\n"
    types = "from mlserver.types import InferenceRequest, InferenceResponse\n"
    (tmp_path / "wrapping").mkdir()
    (tmp_path / "wrapping" / "wrapping.py").write_text(imports + types + classes)
    write(tmp_path / "wrapping" / "model-settings.json", {"implementation": "wrapping.Wrapper"})
    body = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1.0, 2.0]}]}
    with serving(tmp_path) as running:
        reply = httpx.post(f"{running.rest}/v2/models/wrapping/infer", json=body, timeout=60)
    assert (reply.status_code, reply.json()["outputs"][0]["data"]) == (200, [1.0, 2.0])
