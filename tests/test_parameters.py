"""Parameters: a dict with attributes, and private ones that never leave the process."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import msgspec
import numpy as np
import pytest

from mlserve.types import (
    Parameters,
    RequestOutput,
    ValidationError,
)


def test_parameters_have_attributes_and_items() -> None:
    parameters = Parameters(content_type="np", extra=[1])
    assert parameters.content_type == parameters["content_type"] == "np"
    assert parameters.extra == [1]
    assert parameters.headers is None
    assert parameters.get("headers") is None
    parameters.extra = 2
    parameters["more"] = 3
    assert parameters == {"content_type": "np", "extra": 2, "more": 3}
    assert parameters.model_extra == {"extra": 2, "more": 3}
    del parameters.more
    assert "more" not in parameters
    for name in ("more", "_more"):
        assert getattr(parameters, name, "absent") == "absent"
        with pytest.raises(AttributeError):
            delattr(parameters, name)


def test_parameters_have_the_methods_of_models() -> None:
    made = Parameters(content_type="np", extra=1)
    assert Parameters.model_validate_json(made.model_dump_json()) == Parameters.parse_raw(made.json()) == made
    assert Parameters.model_construct(extra=1).model_fields_set == {"extra"}
    assert Parameters.model_json_schema()["properties"].keys() == {"content_type", "headers"}
    assert Parameters.model_validate({"extra": 1}).model_extra == {"extra": 1}


@pytest.mark.parametrize("make", [lambda fields: Parameters(**fields), Parameters.parse_obj])
@pytest.mark.parametrize(("name", "value"), [("content_type", 5), ("headers", "x")])
def test_parameters_with_a_type_are_held_to_it(make: Any, name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="Input should be a valid") as caught:
        make({name: value})
    assert caught.value.errors()[0]["loc"] == (name,)
    with pytest.raises(ValidationError, match="valid dictionary"):
        Parameters.parse_obj([1])
    with pytest.raises(ValidationError, match="Invalid JSON"):
        Parameters.parse_raw("{")


def test_none_and_absent_parameters_are_the_same() -> None:
    parameters = Parameters(content_type=None, headers={"a": "b"})
    parameters.headers = None
    parameters["extra"] = None
    assert parameters == Parameters() == Parameters({"x": None}) == {}
    assert RequestOutput(name="x", parameters=parameters).model_dump_json().count('"parameters":{}') == 1
    assert Parameters(a=1, b=None).model_dump() == {"a": 1}


def test_parameters_are_true_even_if_empty() -> None:
    assert Parameters()
    assert len(Parameters()) == 0


def test_private_attributes_never_leave_the_process() -> None:
    parameters = Parameters(a=1)
    parameters._decoded_payload = np.zeros(2)
    assert parameters._decoded_payload is parameters.copy()._decoded_payload
    assert parameters.model_dump() == dict(parameters) == {"a": 1}
    assert parameters.model_dump_json() == '{"a":1}'
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(parameters)) == {"a": 1}
    again = pickle.loads(pickle.dumps(parameters))
    assert type(again) is Parameters
    assert not hasattr(again, "_decoded_payload")
    assert not hasattr(copy.deepcopy(parameters), "_decoded_payload")
    del parameters._decoded_payload
    assert not hasattr(parameters, "_decoded_payload")


def test_a_deferred_attribute_is_made_once_when_it_is_read() -> None:
    calls: list[int] = []
    parameters = Parameters()
    parameters._defer("_decoded_payload", lambda: calls.append(1) or "value")
    assert calls == []
    assert parameters._decoded_payload == "value"
    assert parameters._decoded_payload == "value"
    assert calls == [1]


def test_parameters_copies() -> None:
    parameters = Parameters(a=[1])
    assert parameters.copy(update={"a": None, "b": 2}) == {"b": 2}
    assert parameters.model_copy(deep=True).a is not parameters.a
    assert Parameters.model_validate({"a": 1}) == Parameters.parse_obj(Parameters(a=1))
    assert repr(Parameters(a=1, b="x" * 100)) == f"Parameters(a=1, b='{'x' * 56}...)"


# -- keys that are called like methods of dicts -----------------------------------------------------------------------

METHODS = ("clear", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values")


def test_a_key_that_is_called_like_a_method_is_an_attribute() -> None:
    parameters = Parameters(**{name: at for at, name in enumerate(METHODS)})
    for again in (parameters, copy.copy(parameters), copy.deepcopy(parameters), pickle.loads(pickle.dumps(parameters))):
        assert [getattr(again, name) for name in METHODS] == list(range(len(METHODS)))
        assert dict(again) == {**again} == again.model_dump() == {name: at for at, name in enumerate(METHODS)}
        assert json.loads(again.model_dump_json()) == again.model_dump()
    assert repr(parameters).startswith("Parameters(clear=0, fromkeys=1")
    assert parameters.copy(update={"items": 5}).items == 5
    del parameters.items
    assert len(parameters.items()) == len(METHODS) - 1
    parameters.pop = None
    assert parameters.pop("values") == METHODS.index("values")


def test_the_methods_are_there_without_such_a_key() -> None:
    parameters = Parameters(a=1)
    parameters.update(b=2)
    assert (parameters.get("a"), list(parameters.items()), parameters.pop("b")) == (1, [("a", 1), ("b", 2)], 2)
    assert Parameters.fromkeys("a", 1) == {"a": 1}
