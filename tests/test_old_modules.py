"""What stands behind old module names: answers are those that MLServer gives for the same calls."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve import compat
from mlserve.handlers import get_custom_handlers
from mlserve.repository import open_repository
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, RequestInput


@pytest.fixture(autouse=True)
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


def old(name: str) -> Any:
    return importlib.import_module(name)


def test_json_helpers_of_codecs():
    helpers = old("mlserver.codecs.json")
    value = {"a": np.array([1, 2]), "b": "ü"}
    assert helpers.encode_to_json(value) == helpers.encode_to_json_bytes(value) == '{"a":[1,2],"b":"ü"}'.encode()
    assert helpers.encode_to_json(value, use_bytes=False) == '{"a":[1,2],"b":"ü"}'
    assert helpers.encode_to_json_bytes({"a": b"x"}) == b'{"a":"x"}'
    assert json.dumps({"a": np.float32(1.5)}, cls=helpers.JSONEncoderWithArray) == '{"a": 1.5}'
    with pytest.raises(TypeError):
        helpers.encode_to_json({"a": object()})
    assert helpers.decode_from_bytelike_json_to_dict(b'{"a":1}') == {"a": 1}
    tensor = RequestInput(name="x", shape=[2], datatype="BYTES", data=[b'{"a":1}', "2"])
    assert helpers.decode_json_input_or_output(tensor) == [{"a": 1}, 2]


def test_a_response_of_rest_is_json_with_a_status_of_its_own():
    response = old("mlserver.rest.responses").Response({"a": np.array([1, 2]), "b": float("nan")}, status_code=201)
    assert (response.status_code, response.body) == (201, b'{"a":[1,2],"b":null}')
    assert response.headers["content-type"] == "application/json"
    assert old("mlserver.rest.responses").Response(b"x").body == b'"x"'


def test_text_and_nan_helpers_of_codecs():
    text, numbers = old("mlserver.codecs.string"), old("mlserver.codecs.numpy")
    assert (text.encode_str("ü"), text.decode_str("ü".encode()), text.decode_str("ü")) == ("ü".encode(), "ü", "ü")
    assert (numbers.convert_nan(float("nan")), numbers.convert_nan(1)) == (None, 1)


def test_a_request_without_a_content_type_decodes_to_itself():
    request = InferenceRequest(inputs=[RequestInput(name="x", shape=[1], datatype="INT32", data=[1])])
    assert old("mlserver.codecs").decode_inference_request(request) is request


def test_a_repository_may_change_what_the_folder_has(tmp_path):
    repository: Any = old("mlserver.repository.repository").SchemalessModelRepository

    class Renaming(repository):
        async def list(self) -> Any:
            models = await super().list()
            for one in models:
                one.name = f"my-{one.name}"
            return models

    _write_model(tmp_path / "m")
    settings = Settings(model_repository_implementation=Renaming)
    settings.model_repository_implementation_args = {"root": str(tmp_path)}
    opened = open_repository(tmp_path, settings)
    assert [one.name for one in opened.list()] == ["my-m"]
    assert [one.name for one in opened.find("m")] == ["m"]
    opened.close()
    loaded = old("mlserver.repository.load").load_model_settings(tmp_path / "m" / "model-settings.json")
    assert loaded.name == "m"


@pytest.mark.anyio
async def test_the_settings_of_a_folder(tmp_path):
    (tmp_path / "settings.json").write_text('{"http_port": 1234}')
    _write_model(tmp_path / "m")
    settings, models = await old("mlserver.cli.serve").load_settings(str(tmp_path))
    assert settings.http_port == 1234
    assert [one.name for one in models] == ["m"]


def test_a_handler_may_be_registered_afterwards():
    handlers = old("mlserver.handlers.custom")

    class Answering:
        def ping(self) -> str:
            return "pong"

    model = Answering()
    handlers.register_custom_handler(handlers.CustomHandler(rest_path="/ping", rest_method="GET"), model.ping)
    ((handler, method),) = get_custom_handlers(model)
    assert (handler.rest_path, handler.rest_method, method()) == ("/ping", "GET", "pong")


def test_small_helpers():
    utils, logs = old("mlserver.utils"), old("mlserver.logging")

    def below() -> None: ...

    def above() -> None: ...

    above.__wrapped__ = below  # type: ignore[attr-defined]
    assert utils.get_wrapped_method(above) is below
    assert utils.install_uvloop_event_loop() is None
    assert logs.get_logger() is logs.configure_logger() is logs.logger


def _write_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "model-settings.json").write_text('{"name": "m", "implementation": "mlserver.MLModel"}')
