"""Handlers' arguments are converted as FastAPI, which is pydantic, does it: for every annotation and value below."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import os
import re
import sys
import uuid
from collections import deque
from collections.abc import Callable, MutableSequence, Sequence, Set
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, Literal, NewType, TypeVar, Union

import fastapi
import httpx
import msgspec
import pydantic
import pytest
from typing_extensions import TypeAliasType

from mlserve.arguments import convert
from mlserve.errors import InvalidRequest, ModelLoadError
from mlserve.frames import Handle
from mlserve.handlers import CustomHandler
from mlserve.handling import Shared, make_handler
from tests.asgi_caller import run_handler


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


T = TypeVar("T")
UserId = NewType("UserId", int)
Rows = NewType("Rows", list[int])
Alias = TypeAliasType("Alias", int | None)
Maybe = TypeAliasType("Maybe", T | None, type_params=(T,))
HINTS: list[Any] = [
    *(bool, int, float, str, bytes, type(None), decimal.Decimal, uuid.UUID),
    *(dt.datetime, dt.date, dt.time, dt.timedelta, Colour, Name, Level, Literal["a", 1], Literal[True]),
    *(int | None, str | None, bool | None, Union[int, str], Union[float, int], Union[int, float]),
    *(Union[bool, int], Union[dt.date, str], list[float], list[int], list, Sequence[int], set[int], frozenset[str]),
    *(tuple[int, str], tuple[int, ...], dict, dict[str, int], dict[int, float], list[list[int]], list[bool | None]),
    *(
        Pair,
        list[Pair],
        dict[str, Any],
        list[dict],
        UserId,
        Rows,
        Alias,
        list[Alias],
        UserId | None,
        dict[str, UserId],
    ),
    *(
        Path,
        PurePath,
        PurePosixPath,
        Path | None,
        os.PathLike,
        re.Pattern,
        list[Path],
        deque[int],
        MutableSequence[int],
    ),
    *(Set[int], IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network),
    *(pydantic.HttpUrl, pydantic.SecretStr, pydantic.HttpUrl | None, pydantic.PositiveInt, list[pydantic.HttpUrl]),
    *(Annotated[int, "doc"], Annotated[Path, "doc"], Union[IPv4Address, IPv6Address]),
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
1.2.3.4|1.2.3.4/24|1.2.3.0/24|01.2.3.4|::1|::1/64|fe80::/10|1.2.3.4.5|http://h/|http://h:80/a?b=c|ftp://h|[|a/../b|~
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


def by_name(
    user: UserId = UserId(1),
    path: Path = Path("x"),
    ip: IPv4Address | None = None,
    url: pydantic.HttpUrl | None = None,
    word: pydantic.SecretStr | None = None,
    alias: Alias = 0,
    noted: Annotated[int | None, "a remark"] = None,
    few: pydantic.PositiveInt = 1,
) -> Any:
    told = word and word.get_secret_value()
    return {"got": [user, str(path), str(ip), str(url), told, alias, noted, few]}


def without_defaults(user: UserId, url: pydantic.HttpUrl) -> Any:
    return {"got": [user, str(url)]}


def through_path(path: Path, ip: IPv4Address, url: pydantic.HttpUrl | None = None) -> Any:
    return {"got": [str(path), str(ip), str(url)]}


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
    *[
        (by_name, "/p", query, b"")
        for query in ("", "user=5&path=q/r&ip=1.2.3.4&url=http://h/&word=w&alias=7&noted=3&few=2", "user=x", "ip=1.2.3")
    ],
    *[(by_name, "/p", query, b"") for query in ("url=nope", "alias=null", "alias=x", "noted=1.5", "few=0", "few=x")],
    *[(without_defaults, "/p", query, b"") for query in ("user=5&url=http://h/a", "user=5", "url=http://h/", "")],
    *[(through_path, "/p/{path}/{ip}", path, b"") for path in ("/p/a/1.2.3.4", "/p/a/1.2.3", "/p/a/::1")],
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
        answer = await run_handler(make_handler(CustomHandler(path, "POST"), handler, Shared()), frame)
        status, text = answer.status, answer.body
    except InvalidRequest as error:
        status, text = error.http_status, str(error).encode()
    assert status == theirs.status_code, (theirs.text, text)
    if status == 200:
        assert msgspec.json.decode(text) == theirs.json()


class Strange:
    """A class that nobody can make of text."""


def of_a_strange_class(first: int, second: Strange | None = None) -> Any: ...


def of_strange_rows(second: list[Strange]) -> Any: ...


def at_a_strange_place(second: Strange) -> Any: ...


@pytest.mark.parametrize("handler", [of_a_strange_class, of_strange_rows, at_a_strange_place])
@pytest.mark.parametrize("installed", [True, False])
def test_what_nothing_can_convert_is_told_when_the_model_loads(
    handler: Any, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.delitem(sys.modules, "pydantic")
    path = "/p/{second}" if handler is at_a_strange_place else "/p"
    with pytest.raises(ModelLoadError, match="the argument 'second' of a custom handler: nothing can make a Strange"):
        make_handler(CustomHandler(path, "POST"), handler, Shared())


def test_what_is_no_pydantics_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic")
    for text, hint, made in [
        ("5", UserId, 5),
        ("5", Alias, 5),
        ("5", Maybe[int], 5),
        ("a/b", Path | None, Path("a/b")),
        ("1.2.3.4", IPv4Address, IPv4Address("1.2.3.4")),
        (["5"], Rows, [5]),
    ]:
        assert convert(text, hint) == made
    with pytest.raises(ValueError, match=r"expected an IPv4Address, got 'x'"):
        convert("x", IPv4Address)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = …` came with Python 3.12")
def test_aliases_of_the_type_statement_are_what_they_stand_for() -> None:
    scope: dict[str, Any] = {}
    exec("type Id = int | None; type Many[X] = list[X]; type Tree = dict[str, Tree] | int", scope)  # older Pythons
    assert convert("5", scope["Id"]) == 5
    assert convert(["5"], scope["Many"][int]) == [5]
    assert convert({"a": {"b": "5"}}, scope["Tree"]) == {"a": {"b": 5}}
    with pytest.raises(ValueError, match="expected an integer"):
        convert("x", scope["Id"])
