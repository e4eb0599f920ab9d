"""Handlers' arguments are converted as FastAPI, which is pydantic, does it: for every annotation and value below."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Union

import fastapi
import httpx
import msgspec
import pydantic
import pytest

from mlserve.arguments import convert
from mlserve.errors import InvalidRequest
from mlserve.frames import Handle
from mlserve.handlers import CustomHandler
from mlserve.handling import make_handler


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


class Name(str, enum.Enum):
    A = "a"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Pair:
    x: int
    y: list[float] = dataclasses.field(default_factory=list)


HINTS: list[Any] = [
    *(bool, int, float, str, bytes, type(None), decimal.Decimal, uuid.UUID),
    *(dt.datetime, dt.date, dt.time, dt.timedelta, Colour, Name, Level, Literal["a", 1], Literal[True]),
    *(int | None, str | None, bool | None, Union[int, str], Union[float, int], Union[int, float]),
    *(Union[bool, int], Union[dt.date, str], list[float], list[int], list, Sequence[int], set[int], frozenset[str]),
    *(tuple[int, str], tuple[int, ...], dict, dict[str, int], dict[int, float], list[list[int]], list[bool | None]),
    *(Pair, list[Pair], dict[str, Any], list[dict]),
]
TEXTS = """
|1|0|5| 5|5 |+5|-5|5.0|5.|5.5|.5|1e3|0x5|1_000|1__0|_1|007|1_0.0|99999999999999999999999|null|None|true|True|TRUE|false
t|f|y|n|yes|no|on|off|Yes| true|maybe|nan|NaN|inf|-inf|Infinity|x|a|red|b|2020-01-01|2020-01-01T00:00:00|\u0665
2020-01-01 00:00:00|2020-01-01T12:30|2020-01-01T12:30:15.123456|2020-01-01T12:30:15.1234567|2020-01-01T12:30:15Z
2020-01-01T12:30:15z|2020-01-01T12:30:15+01:00|2020-01-01T12:30:15+0100|2020-01-01T12:30:15+01|2020-01-01T12:30:15,5
2020-01-01T12:30:15 +01:00|2020-01-01t00:00:00|2020-01-01_00:00:00|2020-1-1|20200101|2020-13-01|2020-02-30
2020-01-01T24:00:00|2020-01-01T00:00:60|01/02/2020|1577836800|1577836800000|1577836800.5|-1|1e9| 2020-01-01|2020-01-01
12:30|12:30:15|12:30:15.5|12:30:15Z|12:30:15+01:00|24:00|P1D|PT1H30M|P2DT1H30M|-P1D|1 day|2 days, 1:30:00|1d|1:30:00
-1:30:00|00:90:00|01:30:00.5|+PT1S|P|12345678-1234-5678-1234-567812345678|12345678123456781234567812345678
{12345678-1234-5678-1234-567812345678}|urn:uuid:12345678-1234-5678-1234-567812345678
"""
VALUES: list[Any] = [
    *re.split(r"[|\n]", TEXTS.strip("\n")),
    *(None, True, False, 0, 1, 2, -1, 0.0, 1.0, 0.5, 1.5, 1e300, float("nan"), float("inf"), 2**70),
    *(1577836800, 1577836800000, 1577836800.5, 86399, 86400, [], [1], [1, "2"], [1.5], ["a"], [None], [True]),
    *(
        ["yes", None],
        [[1, "2"]],
        [1, "a"],
        ["1", "a"],
        [1, 2, 3],
        [1, 1],
        {},
        {"a": 1},
        {"a": "1"},
        {"1": 2},
        {"1": "x"},
    ),
    *(
        {"x": 1},
        {"x": "1", "y": [1, "2"]},
        {"x": 1, "z": 3},
        {"y": []},
        [{"x": 1}],
        [{"x": "q"}],
        [{"a": 1}],
        {"a": None},
    ),
]


def outcome(make: Callable[[], Any]) -> str:
    """What comes of it, with its types; how a time zone calls itself does not matter."""
    try:
        made = make()
    except Exception:
        return "refused"
    zone = r"TzInfo\((\d+)\)|datetime.timezone\(datetime.timedelta\(seconds=(\d+)\)\)|datetime.timezone.utc"
    return re.sub(zone, lambda match: f"zone {match[1] or match[2] or 0}", repr(made))


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_values_become_what_pydantic_makes_of_them(hint: Any) -> None:
    adapter = pydantic.TypeAdapter(hint)
    differing = [
        (value, theirs, ours)
        for value in VALUES
        if (theirs := outcome(lambda value=value: adapter.validate_python(value)))  # type: ignore[misc]
        != (ours := outcome(lambda value=value: convert(value, hint)))  # type: ignore[misc]
    ]
    assert differing == []


def test_what_is_refused_is_named_with_its_place() -> None:
    for value, hint, words in [
        ("maybe", bool, "expected true or false, got 'maybe'"),
        ([1, "x"], list[int], "[1]: expected an integer, got 'x'"),
        ({"a": {"b": 1.5}}, dict[str, dict[str, int]], "'a': 'b': expected an integer, got 1.5"),
        ({"y": []}, Pair, "the member 'x' is missing"),
        ("x" * 99, int | None, f"expected an integer, got '{'x' * 59}…"),
        ("x", Union[int, bool], "expected an integer, got 'x'; or expected true or false, got 'x'"),
    ]:
        with pytest.raises(ValueError) as caught:
            convert(value, hint)
        assert str(caught.value) == words


def test_bounds_are_kept_whoever_wrote_them() -> None:
    for bound in (msgspec.Meta(ge=3), pydantic.Field(ge=3)):
        assert convert("3", Annotated[int, bound]) == 3
        with pytest.raises(Exception, match="3"):
            convert("2", Annotated[int, bound])


# -- whole requests ----------------------------------------------------------------------------------------------------


class Item(pydantic.BaseModel):
    name: str
    n: int = 1


def in_query(flag: bool, n: int | None = None, day: dt.date = dt.date(2020, 1, 1), word: str = "w") -> Any:
    return {"got": [flag, n, str(day), word]}


def in_path(n: int, flag: bool) -> Any:
    return {"got": [n, flag]}


def in_body(rows: list[float], n: int = 1) -> Any:
    return {"got": [rows, n]}


def as_model(item: Item, flag: bool = False) -> Any:
    return {"got": [item.name, item.n, flag]}


def maybe(item: Item | None = None) -> Any:
    return {"got": item and item.name}


DEEP = b"[" * 100_000
REQUESTS = [
    *[
        (in_query, "/p", query, b"")
        for query in ("flag=on", "flag=1&n=5.0", "flag=no&n=null", "flag=", "n=1", "flag=y&n=1e3")
    ],
    *[
        (in_query, "/p", f"flag=t&{more}", b"")
        for more in ("day=2020-02-30", "day=2021-01-31", "word=", "word=a+b", "n=1&n=2")
    ],
    *[(in_path, "/p/{n}/{flag}", path, b"") for path in ("/p/5/yes", "/p/x/yes", "/p/5/perhaps", "/p/%35/off")],
    *[
        (in_body, "/p", "", body)
        for body in (b'[1, "2"]', b"[null]", b"{}", b"", b"[1][1]", b"\xff\xfe", DEEP, b"null")
    ],
    (in_body, "/p", "n=7", b"[1]"),
    *[(as_model, "/p", "flag=yes", body) for body in (b'{"name": "a", "n": "7"}', b'{"n": 1}', b"[]", DEEP, b"")],
    *[(maybe, "/p", "", body) for body in (b"", b"null", b'{"name": "a"}', b'{"name": 1}')],
]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("handler", "path", "asked", "body"), REQUESTS, ids=lambda one: repr(one)[:30])
async def test_requests_have_the_status_and_the_answer_that_fastapi_gives(
    anyio_backend: str, handler: Any, path: str, asked: str, body: bytes
) -> None:
    app = fastapi.FastAPI()
    app.add_api_route(path, handler, methods=["POST"])
    url, query = (asked, "") if asked.startswith("/") else (path, asked)
    headers = {"content-type": "application/json"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        theirs = await client.post(f"{url}?{query}", content=body, headers=headers)
    parts = dict(zip(re.findall(r"\{(\w+)\}", path), url.replace("%35", "5").split("/")[2:]))
    frame = Handle(1, 1, 0, "POST", url, query.encode(), list(headers.items()), parts, body)
    try:
        answer = await make_handler(CustomHandler(path, "POST"), handler)(frame)
        status, text = answer.status, answer.body
    except InvalidRequest as error:
        status, text = error.http_status, str(error).encode()
    assert status == theirs.status_code, (theirs.text, text)
    if status == 200:
        assert msgspec.json.decode(text) == theirs.json()
