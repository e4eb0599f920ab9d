"""Custom handlers get their arguments by annotation, and what they return becomes an HTTP answer."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, NewType, Optional

import fastapi
import msgspec
import pydantic
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from mlserve.codecs import StringCodec
from mlserve.errors import InvalidRequest, ModelError
from mlserve.frames import Handle, Handled
from mlserve.handlers import CustomHandler
from mlserve.handling import Shared, make_handler
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput
from tests.asgi_caller import run_handler

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Workers run asyncio, whatever the server runs on."""
    return "asyncio"


class Item(pydantic.BaseModel):
    name: str
    price: float = 1.5


class Priced(Item):
    secret: str


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Pair:
    left: int
    right: int


Rows = NewType("Rows", list[int])


class Colour(enum.Enum):
    RED = "red"


async def asked(
    handler: Callable[..., Any],
    body: Any = None,
    *,
    path: str = "/p",
    query: str = "",
    headers: dict[str, str] | None = None,
    method: str = "POST",
    shared: Shared | None = None,
    **path_parameters: str,
) -> Handled:
    sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    frame = Handle(
        call=7,
        model=1,
        place=0,
        method=method,
        path="/v2/models/m" + path,
        query=query.encode(),
        headers=[("content-type", "application/json"), *(headers or {}).items()],
        path_parameters=path_parameters,
        body=sent,
    )
    return await run_handler(make_handler(CustomHandler(path, method), handler, shared or Shared()), frame)


async def answer(*args: Any, **options: Any) -> Any:
    handled = await asked(*args, **options)
    assert (handled.call, handled.status) == (7, 200), handled.body
    return json.loads(handled.body)


async def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        await asked(*args, **options)
    assert caught.value.http_status == 422
    return str(caught.value)


async def test_a_body_becomes_what_its_annotation_says() -> None:
    async def one(item: Item) -> Any:
        return item

    async def many(items: list[Item]) -> Any:
        return [type(one).__name__ for one in items]

    async def named(items: dict[str, Item]) -> Any:
        return items["a"].price

    def struct(point: Point) -> Any:  # a plain method is as good
        return point

    async def dataclass(pair: Pair) -> Any:
        return pair.left + pair.right

    async def protocol(payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name="m", id=payload.id, outputs=[])

    async def raw(payload: bytes) -> Any:
        return payload.decode()

    async def anything(payload) -> Any:  # type: ignore[no-untyped-def]
        return payload

    assert await answer(one, {"name": "a"}) == {"name": "a", "price": 1.5}
    assert await answer(many, [{"name": "a"}, {"name": "b"}]) == ["Item", "Item"]
    assert await answer(named, {"a": {"name": "x", "price": 2}}) == 2.0
    assert await answer(struct, {"x": 1}) == {"x": 1, "y": 0}
    assert await answer(dataclass, {"left": 1, "right": 2}) == 3
    assert await answer(protocol, {"id": "q", "inputs": []}) == {"model_name": "m", "id": "q", "outputs": []}
    assert await answer(raw, b"\x61\x62") == "ab"
    assert await answer(anything, [1, {"a": None}]) == [1, {"a": None}]


async def test_a_list_by_another_name_is_a_body_still() -> None:
    def rows_of(rows: Rows, more: Any | None = None) -> Any:
        return {"got": [rows, more]}

    assert json.loads((await asked(rows_of, [1, "2"])).body) == {"got": [[1, 2], None]}
    assert json.loads((await asked(rows_of, [1], query="more=x")).body) == {"got": [[1], "x"]}


async def test_several_body_arguments_are_members_of_one_object() -> None:
    async def two(item: Item, options: Optional[dict[str, int]] = None) -> Any:  # noqa: UP045
        return [item.name, options]

    assert await answer(two, {"item": {"name": "a"}, "options": {"k": 1}}) == ["a", {"k": 1}]
    assert await answer(two, {"item": {"name": "a"}}) == ["a", None]
    assert await refusal(two, {"options": {}}) == "body: member 'item' is missing"
    assert await refusal(two, [1]) == "body: expected an object with a member 'item'"
    assert await refusal(two, {"item": {}}) == "body: 'item': name: Field required"


async def test_paths_and_queries_give_what_text_can_say() -> None:
    async def find(
        row: int,
        key: uuid.UUID,
        colour: Colour,
        kind: Literal["a", "b"] = "a",
        limit: int | None = None,
        deep: bool = False,
    ) -> Any:
        return [row, key.int, colour.value, kind, limit, deep]

    path, key = "/find/{row}/{key}", str(uuid.UUID(int=5))
    given = {"path": path, "row": "3", "key": key}
    assert await answer(find, query="colour=red", **given) == [3, 5, "red", "a", None, False]
    assert await answer(find, query="colour=red&kind=b&limit=2&deep=true", **given) == [3, 5, "red", "b", 2, True]
    assert await refusal(find, **given) == "query parameter 'colour' is missing"
    assert (await refusal(find, query="colour=blue", **given)).startswith(
        "query parameter 'colour': expected 'red', got 'blue'"
    )
    assert (await refusal(find, query="colour=red&limit=x", **given)).startswith("query parameter 'limit': ")
    assert (await refusal(find, path=path, row="x", key=key)).startswith("path parameter 'row': ")


async def test_the_whole_request_is_starlettes() -> None:
    async def whole(request: Request) -> Any:
        body = await request.json()
        return [body, request.query_params.getlist("x"), request.headers["x-me"], request.method, request.path_params]

    given = {"query": "x=1&x=2", "headers": {"x-me": "you"}, "path": "/w/{a}", "a": "b"}
    assert await answer(whole, {"k": 1}, **given) == [{"k": 1}, ["1", "2"], "you", "POST", {"a": "b"}]


async def test_a_body_that_is_wrong_is_refused_with_the_place() -> None:
    async def one(item: Item) -> Any:
        return item

    async def many(items: list[Item]) -> Any:
        return items

    async def struct(point: Point) -> Any:
        return point

    assert (await refusal(one, b"{no")).startswith("the body is no JSON: ")
    assert (await refusal(one)).startswith("the body is no JSON: ")
    assert await refusal(one, {"price": 1}) == "body: name: Field required"
    assert await refusal(many, [{"name": "a"}, {}]) == "body: 1.name: Field required"
    assert await refusal(struct, {"x": "1"}) == "body: Expected `int`, got `str` - at `$.x`"


async def test_responses_go_out_as_they_are() -> None:
    async def text() -> Response:
        return PlainTextResponse("teapot", 418, {"x-a": "b"})

    handled = await asked(text)
    assert (handled.status, handled.body) == (418, b"teapot")
    assert ("x-a", "b") in handled.headers and ("content-type", "text/plain; charset=utf-8") in handled.headers


async def test_a_streamed_response_that_takes_its_time_goes_out_whole() -> None:
    async def pieces() -> Any:
        for number in range(3):
            await asyncio.sleep(0)
            yield str(number)

    async def stream() -> Response:
        return StreamingResponse(pieces(), media_type="text/plain")

    assert (await asked(stream)).body == b"012"


async def test_an_http_exception_is_an_answer_in_fastapis_form() -> None:
    async def refuse() -> Any:
        raise HTTPException(409, "taken", {"x-why": "twice"})

    handled = await asked(refuse)
    assert (handled.status, json.loads(handled.body)) == (409, {"detail": "taken"})
    assert ("x-why", "twice") in handled.headers


async def test_what_json_cannot_say_is_told() -> None:
    async def strange() -> Any:
        return object()

    with pytest.raises(TypeError, match=r"a handler returned a object, which is none of JSON's types"):
        await asked(strange)


async def test_an_answer_has_what_its_annotation_says() -> None:
    async def filtered() -> Item:
        return Priced(name="a", secret="s")

    async def converted() -> dict[str, int]:
        return {"a": "5"}  # type: ignore[dict-item]

    async def wrong() -> int:
        return "x"  # type: ignore[return-value]

    async def unknown(item: OnlyForTypeCheckers) -> Item:  # type: ignore[name-defined]  # noqa: F821
        return Priced(name=item["name"], secret="s")

    async def response() -> Item:
        return PlainTextResponse("raw")  # type: ignore[return-value]

    assert await answer(filtered) == {"name": "a", "price": 1.5}
    assert await answer(converted) == {"a": 5}
    assert await answer(unknown, {"name": "a"}) == {"name": "a", "price": 1.5}
    assert (await asked(response)).body == b"raw"
    with pytest.raises(ModelError, match="a handler returned what its annotation does not allow: expected an integer"):
        await asked(wrong)


async def test_a_response_that_is_injected_gives_headers_and_a_status() -> None:
    async def both(payload: dict[str, Any], response: Response) -> Any:
        response.headers["x-z"] = "1"
        response.set_cookie("c", "2")
        response.status_code = 201
        return payload

    async def typed(response: Response, n: int = 1) -> Item:
        response.headers["content-type"] = "application/vnd.item+json"
        return Priced(name=str(n), secret="s")

    async def empty(response: Response) -> None:
        response.status_code = 204

    async def own(response: Response) -> Any:
        response.status_code = 201
        return PlainTextResponse("own", 203)

    async def itself(response: Response) -> Any:
        response.headers["x-z"] = "1"
        return response

    handled = await asked(both, {"a": 1})
    assert (handled.status, json.loads(handled.body)) == (201, {"a": 1})
    assert {"x-z": "1", "content-type": "application/json"}.items() <= dict(handled.headers).items()
    assert dict(handled.headers)["set-cookie"].startswith("c=2;")
    handled = await asked(typed, query="n=2")
    assert (handled.status, json.loads(handled.body)) == (200, {"name": "2", "price": 1.5})
    assert dict(handled.headers) == {"content-type": "application/vnd.item+json", "content-length": "24"}
    handled = await asked(empty)
    assert (handled.status, handled.headers, handled.body) == (204, [], b"")
    handled = await asked(own)
    assert (handled.status, handled.body) == (203, b"own")
    handled = await asked(itself)
    assert (handled.status, handled.body) == (200, b"") and ("x-z", "1") in handled.headers


# -- FastAPI's own -----------------------------------------------------------------------------------------------------


async def test_fastapis_markers_mean_what_fastapi_says() -> None:
    async def two(item: Item, count: int = fastapi.Body(...), note: str | None = fastapi.Body(None)) -> Any:
        return [item.name, count, note]

    async def alone(x: int = fastapi.Body(..., embed=True)) -> int:
        return x

    async def listed(ids: list[int] = fastapi.Query([]), agent: str = fastapi.Header("none", alias="X-Agent")) -> Any:  # noqa: B008
        return [ids, agent]

    async def told(row: int, limit: int = fastapi.Query(3, ge=1)) -> Any:
        return [row, limit]

    async def noted(limit: Annotated[int, fastapi.Query(ge=1)] = 3) -> Any:
        return limit

    async def protocol(payload: InferenceRequest = fastapi.Body(...)) -> Any:  # noqa: B008
        return InferenceResponse(model_name="m", id=payload.id, outputs=[])

    def shared(user: str = "nobody") -> str:
        return user.upper()

    async def depends(user: str = fastapi.Depends(shared)) -> Any:
        return user

    assert await answer(two, {"item": {"name": "a"}, "count": 5}) == ["a", 5, None]
    assert await answer(alone, {"x": 3}) == 3
    assert await answer(listed, query="ids=1&ids=2", headers={"x-agent": "me"}) == [[1, 2], "me"]
    assert await answer(told, path="/rows/{row}", query="limit=2", row="7") == [7, 2]
    assert await answer(noted, query="limit=9") == 9
    assert await answer(depends, query="user=ann") == "ANN"
    answered = await answer(protocol, {"id": "q", "inputs": []})
    assert (answered["model_name"], answered["id"]) == ("m", "q")
    for handler, query in ((noted, "limit=0"), (noted, "limit=x")):
        refused = await asked(handler, query=query)
        assert (refused.status, json.loads(refused.body)["detail"][0]["loc"]) == (422, ["query", "limit"])


async def test_what_a_handler_of_fastapis_raises_is_the_servers_matter() -> None:
    async def boom(x: int = fastapi.Query(1)) -> Any:
        raise KeyError("boom")

    async def refuse(x: int = fastapi.Query(1)) -> Any:
        raise fastapi.HTTPException(409, "taken")

    with pytest.raises(KeyError, match="boom"):
        await asked(boom)
    handled = await asked(refuse)
    assert (handled.status, json.loads(handled.body)) == (409, {"detail": "taken"})


async def test_what_fastapi_runs_gives_back_what_every_handler_does() -> None:
    outputs = [StringCodec.encode_output("o", ["cat", "é"])]

    async def protocol(x: int = fastapi.Body(..., embed=True)) -> InferenceResponse:
        return InferenceResponse(model_name="m", outputs=outputs)

    def listed(x: int = fastapi.Body(..., embed=True)) -> Any:
        return [{"o": outputs[0], "b": b"cat", "n": float("nan")}]

    async def filtered(x: int = fastapi.Body(..., embed=True)) -> Item:
        return Priced(name="a", secret="s")

    async def wrong(x: int = fastapi.Body(..., embed=True)) -> int:
        return "x"  # type: ignore[return-value]

    async def injected(response: Response, x: int = fastapi.Body(..., embed=True)) -> Item:
        response.status_code = 201
        response.headers["x-z"] = "1"
        return Priced(name="a", secret="s")

    body = {"x": 1}
    assert (await answer(protocol, body))["outputs"][0]["data"] == ["cat", "é"]
    (read,) = await answer(listed, body)
    assert (read["o"]["data"], read["b"], read["n"]) == (["cat", "é"], "cat", None)
    assert await answer(filtered, body) == {"name": "a", "price": 1.5}
    with pytest.raises(ModelError, match="expected an integer, got 'x'"):
        await asked(wrong, body)
    handled = await asked(injected, body)
    assert (handled.status, json.loads(handled.body)) == (201, {"name": "a", "price": 1.5})
    assert ("x-z", "1") in handled.headers


async def test_our_own_types_are_bodies_beside_fastapis_markers() -> None:
    async def one(payload: InferenceRequest, x_a: str = fastapi.Header(None)) -> Any:
        return [payload.inputs[0].name, payload.inputs[0].data[1], x_a]

    async def maybe(payload: InferenceRequest | None = None, x_a: str = fastapi.Header(None)) -> Any:
        return [payload and payload.id, x_a]

    async def two(payload: InferenceRequest, inputs: list[RequestInput], x_a: str = fastapi.Header(None)) -> Any:
        return [payload.id, inputs[0].name]

    tensor = {"name": "q", "shape": [2], "datatype": "INT32", "data": [1, 2]}
    headers = {"x-a": "A"}
    assert await answer(one, {"inputs": [tensor]}, headers=headers) == ["q", 2, "A"]
    assert await answer(maybe, {"id": "i", "inputs": []}, headers=headers) == ["i", "A"]
    assert await answer(maybe, headers=headers) == [None, "A"]
    assert await answer(two, {"payload": {"id": "i", "inputs": []}, "inputs": [tensor]}) == ["i", "q"]
    refused = await asked(one, {"inputs": 3}, headers=headers)
    assert refused.status == 422
