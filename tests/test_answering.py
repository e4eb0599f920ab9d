"""What handlers return becomes JSON as FastAPI's response models make it, and is filtered by its annotation."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar, Union

import fastapi
import httpx
import msgspec
import numpy as np
import pydantic
import pytest
import typing_extensions

from mlserve.answering import json_of
from mlserve.codecs import NumpyCodec, StringCodec
from mlserve.errors import ModelError
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """FastAPI, which is compared with, is asked on asyncio."""
    return "asyncio"


class Public(pydantic.BaseModel):
    a: int
    b: str | None = None


class Private(Public):
    password: str = "hunter2"


class Named(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    a: int = pydantic.Field(alias="A")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Open:
    a: int
    b: str = "x"


@dataclasses.dataclass
class Closed(Open):
    password: str = "hunter2"


@dataclasses.dataclass
class Holder:
    one: Open
    many: list[Public] = dataclasses.field(default_factory=list)


class Own:
    """A class that says nothing about JSON."""

    def __init__(self) -> None:
        self.a = 1
        self.b = [b"x", {"k": (1, 2)}]


class Pairs:
    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter([("a", 1)])


class Keys(typing_extensions.TypedDict):
    a: int
    b: typing_extensions.NotRequired[list[Public]]


Count = NewType("Count", int)
Bounded = Annotated[int, pydantic.Field(ge=3)]
MOMENT = dt.datetime(2020, 1, 2, tzinfo=dt.timezone.utc)

HINTS: list[Any] = [
    *(int, float, str, bool, bytes, None, Any, dict, list, dict[str, int], dict[str, float], list[int], list[float]),
    *(list[str], set[int], tuple[int, str], tuple[int, ...], Sequence[int], dict[str, Any], dict[str, list[int]]),
    *(int | None, float | None, list[int] | None, Union[int, str], Union[Public, str], Union[Public, Private]),
    *(
        Public,
        Private,
        Named,
        list[Public],
        dict[str, Public],
        Public | None,
        Open,
        list[Open],
        Open | None,
        Keys,
        Count,
    ),
    *(
        Bounded,
        list[Bounded],
        Literal["x", 1],
        Colour,
        dt.datetime,
        uuid.UUID,
        decimal.Decimal,
        Holder,
        Union[dict[str, int], list[Open]],
    ),
]
VALUES: list[Any] = [
    *(0, 1, 5, -3, 1.5, 2.0, float("nan"), True, "x", "5", "red", "", b"x", b"\xc3\xa9", b"5", b"\xff", None),
    *([], [1, 2], ["1", 2.0], (1, "x"), [1, 1], {1}, [None], {}, {"a": 1}, {"a": "5"}, {"a": 1, "zz": 2}, {"a": None}),
    *({"a": [1]}, {"a": 1, "b": "x", "password": "p"}, {"a": [b"x"]}, {"k": {"a": 1, "password": "p"}}),
    *(Public(a=1), Private(a=1), [Private(a=1)], {"k": Private(a=1)}, [Public(a=1), {"a": "2", "zz": 3}], Named(a=1)),
    *(Open(1), Closed(1), [Closed(1)], Holder(Closed(1), [Private(a=2)]), {"one": {"a": 1, "password": "p"}}),
    *({"a": 1, "b": [Private(a=1)]}, Colour.RED, MOMENT, {"a": MOMENT}, uuid.UUID(int=5), decimal.Decimal("1.5")),
    *(np.float32(0.5), np.int64(3), {"a": np.float32(0.5)}),
    *(Own(), [Own()], {"a": Own()}, Pairs(), ValueError("x"), object(), Own, Path("/x"), re.compile("x")),
    *(ipaddress.ip_address("1.2.3.4"), ipaddress.ip_network("10.0.0.0/31"), dt.time(1, 2)),
    *(dt.timedelta(seconds=90), {"a": dt.timedelta(days=-1, microseconds=5)}, dt.datetime(2020, 1, 2, 3, 4, 5, 600)),
    *([dt.datetime(2020, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1)))], {MOMENT.date(): 1}, [MOMENT.timetz()]),
    *(pydantic.SecretStr("s"), {"a": pydantic.SecretStr("s")}, pydantic.HttpUrl("http://h/")),
]
OPEN_HINTS = (Any, None, dict, list, dict[str, Any])


def is_known(value: Any, hint: Any, expected: Any) -> bool:
    """Whether a difference is meant: FastAPI lets through, or refuses, what it has no reason to."""
    if hint is Any and isinstance(value, decimal.Decimal):
        return True  # text there, but a number without an annotation
    inner = value["a"] if isinstance(value, dict) and "a" in value else value
    inner = inner[0] if isinstance(inner, list) and inner else inner
    if hint in OPEN_HINTS and expected is None and isinstance(inner, (np.generic, Own, Pairs, ValueError)):
        return True  # numpy's values are JSON here, and other objects their attributes also where `Any` is promised
    if isinstance(inner, dt.timedelta) and hint is not None and expected:
        return True  # where it is promised, in days and seconds alone: a year, and a minute in some versions, are more
    if value is Colour.RED and (expected == ["red"] or hint is bytes):
        return True  # an enum's value is not checked there
    if hint is list and isinstance(value, (pydantic.BaseModel, Pairs, ipaddress.IPv4Network)):
        return True  # whatever can be iterated is a list there
    return hint == Sequence[int] and value == {1}


def ours(value: Any, hint: Any) -> Any:
    """What a handler's answer reads as; None if it is refused."""
    try:
        return [json.loads(json_of(value, type(None) if hint is None else hint))]
    except Exception:
        return None


async def fastapis(client: httpx.AsyncClient) -> Any:
    try:
        answer = await client.get("/")
    except Exception:
        return None
    return [answer.json()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hint", HINTS, ids=str)
async def test_an_answer_is_what_fastapi_makes_of_it(hint: Any) -> None:
    given: list[Any] = []

    def handler() -> Any:
        return given[0]

    class Answer(fastapi.responses.JSONResponse):
        def render(self, content: Any) -> bytes:
            return msgspec.json.encode(content)  # with null for NaN, as everywhere on this server

    handler.__annotations__["return"] = hint
    app = fastapi.FastAPI()
    app.add_api_route("/", handler, response_class=Answer)
    differ = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for value in VALUES:
            given[:] = [value]
            expected, got = await fastapis(client), ours(value, hint)
            if repr(got) != repr(expected) and not is_known(value, hint, expected):
                differ.append((value, "FastAPI", expected, "here", got))
    assert not differ


# -- what FastAPI does not know ----------------------------------------------------------------------------------------


def output() -> ResponseOutput:
    return StringCodec.encode_output("o", ["cat", "é"])


WRITTEN = {
    "name": "o",
    "shape": [2, 1],
    "datatype": "BYTES",
    "parameters": {"content_type": "str"},
    "data": ["cat", "é"],
}


def test_our_own_types_are_written_as_on_the_wire() -> None:
    numbers = NumpyCodec.encode_output("n", np.array([1.5, np.nan], "f4"))
    response = InferenceResponse(model_name="m", outputs=[output(), numbers])
    for hint in (Any, InferenceResponse, InferenceResponse | None):
        read = ours(response, hint)[0]
        assert (read["outputs"][0], read["outputs"][1]["data"]) == (WRITTEN, [1.5, None])
    for hint in (Any, list[ResponseOutput], list[ResponseOutput | str]):
        assert ours([output()], hint) == [[WRITTEN]]
    assert ours({"r": [output()], "p": Parameters(a=b"x")}, dict[str, Any]) == [{"r": [WRITTEN], "p": {"a": "x"}}]
    assert ours(output().data, Any) == [["cat", "é"]]
    assert ours({"model_name": "m", "outputs": [], "zz": 1}, InferenceResponse) == [{"model_name": "m", "outputs": []}]


def test_our_own_types_are_written_inside_of_others() -> None:
    class Struct(msgspec.Struct):
        one: ResponseOutput

    class Both(pydantic.BaseModel):
        one: ResponseOutput

    for holder in (Struct(output()), Both(one=output())):
        for hint in (Any, type(holder)):
            assert ours(holder, hint) == [{"one": WRITTEN}]


class Point(msgspec.Struct):
    x: int


class Secret(Point):
    password: str = "hunter2"


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    item: T


class Written(msgspec.Struct, rename="camel", omit_defaults=True, tag="w"):
    the_point: Point
    other: int = 3
    left_out: int | msgspec.UnsetType = msgspec.UNSET
    raw: bytes = b""


class Row(msgspec.Struct, array_like=True):
    point: Point
    n: int


class Pair(NamedTuple):
    left: int
    right: bytes


def test_structs_are_filtered_and_written_as_msgspec_does_it() -> None:
    for value, hint, expected in [
        (Secret(1), Point, {"x": 1}),
        ([Secret(1)], list[Point], [{"x": 1}]),
        (Box(Secret(1)), Box[Point], {"item": {"x": 1}}),
        (Written(Secret(1), raw=b"cat"), Written, {"type": "w", "thePoint": {"x": 1}, "raw": "Y2F0"}),
        (Row(Secret(1), 2), Row, [{"x": 1}, 2]),
        ({"x": "1", "password": "p"}, Point, {"x": 1}),
        (Point(None), Point, {"x": None}),  # type: ignore[arg-type]  # a field that is there already may be wrong
        (Pair(1, b"x"), Pair, [1, "x"]),
        (Secret(1), Any, {"x": 1, "password": "hunter2"}),
    ]:
        assert ours(value, hint) == [expected]


def test_bytes_are_text_and_nothing_else() -> None:
    assert ours({b"k": [b"cat", bytearray(b"a"), memoryview(b"b")]}, Any) == [{"k": ["cat", "a", "b"]}]
    assert ours(np.array([b"a", b"b"]), Any) == [["a", "b"]]
    bad = ResponseOutput(name="o", shape=[1], datatype="BYTES", data=[b"\xff"])
    for value in ({"x": b"\xff"}, [b"\xff"], bad):
        with pytest.raises(ModelError, match=r"a handler returned bytes: .* is not UTF-8") as caught:
            json_of(value, Any)
        assert caught.value.http_status == 500


def test_a_refused_answer_tells_the_place_and_no_secrets() -> None:
    told = "a handler returned what its annotation does not allow: "
    for value, hint, words in [
        ("x", int, "expected an integer, got 'x'"),
        ({"a": [1, "x"]}, dict[str, list[int]], "'a': [1]: expected an integer, got 'x'"),
        (Private(a=1), int, "expected an integer, got a Private"),
        ({"password": "p"}, list[int], "expected a list, got a dict"),
        ({"b": "x"}, Public, "a: Field required"),
        (InferenceResponse(model_name="m", outputs=[]), InferenceRequest, "inputs: Field required"),
        ({"x": []}, Point, "Expected `int`, got `array` - at `$.x`"),
    ]:
        with pytest.raises(ModelError) as caught:
            json_of(value, hint)
        assert (str(caught.value), caught.value.http_status) == (told + words, 500)


def test_annotations_that_say_nothing_about_json_let_all_pass() -> None:
    for hint in (np.ndarray, fastapi.Response, T, RequestInput | np.ndarray | Any, {"a": int}, "Unknown", object):
        assert ours({"a": "5"}, hint) == [{"a": "5"}]
    assert ours({"a": 1, "password": "p"}, Union[fastapi.Response, Public]) == [{"a": 1, "b": None}]
    assert ours(Private(a=1), Union[Public, np.ndarray]) == [{"a": 1, "b": None}]


def test_secrets_stay_secret_and_keys_are_text() -> None:
    class Login:
        def __init__(self) -> None:
            self.password = pydantic.SecretStr("hunter2")

    for hint in (Parameter.empty, Any, dict[str, Any]):
        written = json_of({"a": Login(), "b": [pydantic.SecretBytes(b"hunter2")]}, hint)
        assert b"hunter2" not in written and b"***" in written
    keys = {True: 1, None: 2, 1.5: 3, Path("/x"): 4, MOMENT.date(): 5, ipaddress.ip_address("1.2.3.4"): 6, b"y": 7}
    assert json.loads(json_of(keys, Parameter.empty)) == {
        "true": 1,
        "null": 2,
        "1.5": 3,
        "/x": 4,
        "2020-01-02": 5,
        "1.2.3.4": 6,
        "y": 7,
    }


def test_durations_are_seconds_where_nothing_is_promised_and_iso_8601_where_it_is() -> None:
    value = {"t": dt.timedelta(seconds=90), "d": MOMENT}
    assert json.loads(json_of(value, Parameter.empty)) == {"t": 90.0, "d": "2020-01-02T00:00:00+00:00"}
    assert json.loads(json_of(value, dict[str, Any])) == {"t": "PT90S", "d": "2020-01-02T00:00:00Z"}
