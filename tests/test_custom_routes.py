"""Paths of custom handlers: the declared one, those below each model's own path, and who answers a shared one."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from mlserve.codecs import StringCodec
from mlserve.errors import InferenceError
from mlserve.handlers import custom_handler
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import RunningServer, running_server
from mlserve.types import InferenceRequest, InferenceResponse

INFER_AND_THROUGH = ("/v2/models/m/infer", "/through")


class Told(MLModel):
    @custom_handler("/who", "GET")
    async def who(self) -> str:
        return f"{self.name} {self.version or ''}"

    @custom_handler("/score/{row}", claimed_by="score")
    async def score(self, row: int) -> list[Any]:
        return [self.name, row]


def settings_of(name: str, version: str | None = None, **extra: Any) -> ModelSettings:
    return ModelSettings(name=name, implementation=Told, parameters={"version": version, "extra": extra})


def post(server: RunningServer, path: str) -> Any:
    answer = httpx.post(f"{server.rest}{path}")
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error"])


def test_every_handler_has_a_path_below_its_models_own() -> None:
    with running_server([settings_of("a b", "1"), settings_of("a b", "2"), settings_of("{c}")]) as server:
        paths = ("/who", "/v2/models/a b/who", "/v2/models/a b/versions/1/who", "/v2/models/a b/versions/2/who")
        assert [httpx.get(f"{server.rest}{path}").json() for path in paths] == ["a b 2", "a b 2", "a b 1", "a b 2"]
        assert httpx.get(f"{server.rest}/v2/models/a b/versions/3/who").status_code == 404
        assert httpx.get(f"{server.rest}/v2/models/a b/score/1").status_code == 405
        assert post(server, "/v2/models/a b/score/1") == ["a b", 1]


def test_the_only_model_answers_a_path_that_is_claimed() -> None:
    with running_server([settings_of("a", "1"), settings_of("a", "2")]) as server:
        assert post(server, "/score/3") == ["a", 3]


def test_of_several_none_answers_a_path_that_none_claims() -> None:
    with running_server([settings_of("a"), settings_of("b")]) as server:
        status, error = post(server, "/score/3")
        assert status == 400
        assert "2 models answer POST /score/{row}" in error
        assert "/v2/models/a/score/{row}, /v2/models/b/score/{row}" in error
        assert '"parameters": {"extra": {"score": true}}' in error
        assert [post(server, f"/v2/models/{name}/score/3") for name in "ab"] == [["a", 3], ["b", 3]]
        assert httpx.get(f"{server.rest}/who").json() == "a "
        assert httpx.post(f"{server.rest}/v2/repository/models/a/unload").status_code == 200
        assert post(server, "/score/3") == ["b", 3]


@pytest.mark.parametrize(
    ("claims", "answers"), [((None, True), "b"), ((True, None), "a"), ((False, None), "b"), ((None, False), "a")]
)
def test_a_claim_or_a_refusal_chooses_the_model(claims: tuple[Any, Any], answers: str) -> None:
    models = [settings_of(name, **({} if claim is None else {"score": claim})) for name, claim in zip("ab", claims)]
    with running_server(models) as server:
        assert post(server, "/score/3") == [answers, 3]


def test_a_path_that_all_refuse_is_not_there() -> None:
    with running_server([settings_of("a", score=False)]) as server:
        assert httpx.post(f"{server.rest}/score/3").status_code == 404
        assert post(server, "/v2/models/a/score/3") == ["a", 3]


class Coded(MLModel):
    codes = {400: "BAD", 404: "GONE", 500: "BROKEN"}

    @custom_handler("/coded", claimed_by="coded", error_codes=codes)
    def coded(self, request: Request) -> str:
        raise {"refuse": InferenceError("no"), "fail": ValueError("oh")}[request.query_params["how"]]

    @custom_handler("/hello", "GET", fixed=True, error_codes=codes)
    def hello(self) -> str:
        return "hello"


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_path_have_codes_where_its_clients_look_for_them(workers: int) -> None:
    models = [ModelSettings(name=name, implementation=Coded) for name in "ab"]
    with running_server(models, parallel_workers=workers, max_body_bytes=100) as server:

        def told(path: str, **options: Any) -> tuple[int, str]:
            answer = httpx.post(f"{server.rest}{path}", **options)
            body = answer.json()
            assert list(body) == ["error_code", "message", "error"] and body["message"] == body["error"] != ""
            return answer.status_code, body["error_code"]

        own = "/v2/models/a/coded"
        assert told("/coded") == (400, "BAD")  # which of them?
        assert told(f"{own}?how=refuse") == (400, "BAD")
        assert told(f"{own}?how=fail") == (500, "BROKEN")
        assert told(f"{own}?how=fail", content=b"x" * 101) == (413, "BAD")
        assert told(f"{own}?how=fail", headers={"x-request-timeout": "soon"}) == (400, "BAD")
        assert httpx.get(f"{server.rest}/hello").json() == "hello"
        other = httpx.post(f"{server.rest}/v2/models/a/infer", json={})
        assert list(other.json()) == ["error"]


class Through(MLModel):
    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("o", ["cat", "é"])])

    @custom_handler("through")
    def through(self, payload: InferenceRequest, response: Response) -> InferenceResponse:
        response.status_code = 203
        return self.predict(payload)


class Asked(MLModel):
    @custom_handler("/asked")
    def asked(self, request: Request) -> Any:
        assert request.client is not None
        scope = request.scope
        return [*request.client, *scope["server"], scope["http_version"], str(request.base_url)]


@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.own_process)])
@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_handler_knows_who_asks_and_where(workers: int, http2: bool, backend: str) -> None:
    options = {"parallel_workers": workers, "backend": backend, "root_path": "/behind"}
    with (
        running_server(ModelSettings(name="m", implementation=Asked), **options) as server,
        httpx.Client(http1=not http2, http2=http2) as client,
        client.stream("POST", f"{server.rest}/asked", headers={"x-forwarded-for": "10.1.2.3"}) as answer,
    ):
        stream = answer.extensions["network_stream"]
        ends = [*stream.get_extra_info("client_addr"), *stream.get_extra_info("server_addr")]
        base = f"{server.rest}/behind/"
        assert answer.status_code == 200, answer.read()
        assert json.loads(answer.read()) == [*ends, "2" if http2 else "1.1", base]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_handler_gives_an_answer_of_predict_as_it_is_on_the_wire(workers: int) -> None:
    with running_server(ModelSettings(name="m", implementation=Through), parallel_workers=workers) as server:
        asked, through = (httpx.post(f"{server.rest}{path}", json={"inputs": []}) for path in INFER_AND_THROUGH)
        assert (asked.status_code, through.status_code) == (200, 203)
        assert through.json()["outputs"] == asked.json()["outputs"]
        assert through.json()["outputs"][0]["data"] == ["cat", "é"]
