"""Handlers that yield stream lines of JSON, async or plain, whoever runs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.serving import serving, write_model
from tests.test_handler_streams import PATIENCE_SECONDS, Place, waited
from tests.yielding_handlers import STUCK

WAYS = ["async", "plain", "fastapi/async", "fastapi/plain"]


@pytest.fixture(scope="module", params=["0 trio", "1 asyncio"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    workers, backend = request.param.split()
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(
        Path(__file__).with_name("yielding_handlers.py"),
        write_model(folder, "streaming", "yielding_handlers.Yielding"),
    )
    with serving(folder, "--parallel-workers", workers, "--backend", backend) as server:
        yield Place(server, folder)


def get(place: Place, path: str) -> httpx.Response:
    return httpx.get(f"{place.rest}/{path}", timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_yielded_leaves_as_it_is_made_and_the_generator_ends_with_its_client(place: Place, way: str) -> None:
    name = f"left-{way}."
    with httpx.stream("GET", f"{place.rest}/{way}?count=1000000&name={name}") as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl")
        lines = answer.iter_lines()
        assert [json.loads(next(lines)) for _ in range(3)] == [{"at": at} for at in range(3)]
    assert place.noted(f"{name} ")
    assert any(f"{name} closed" in one for one in place.notes()), place.notes()


@pytest.mark.parametrize("way", WAYS)
def test_an_error_before_the_first_value_is_an_answer_and_one_after_it_a_breach(place: Place, way: str) -> None:
    assert get(place, f"{way}?boom=0").status_code == 500
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        get(place, f"{way}?boom=2")


@pytest.mark.parametrize("path", ["values", "values/fastapi"])
def test_values_are_written_as_returned_ones_are(place: Place, path: str) -> None:
    assert [json.loads(line) for line in get(place, path).text.splitlines()] == [
        {"at": 1, "row": [0, 1, 2]},
        "a text\n",
        "bytes",
        None,
        {
            "model_name": "m",
            "id": "1",
            "outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": [0.5, None]}],
        },
        {"Name": "n"},
        {"user": "ann", "password": "secret"},
    ]


@pytest.mark.parametrize("path", ["promised", "promised/fastapi"])
def test_the_annotation_of_the_iterator_says_what_of_each_value_goes_out(place: Place, path: str) -> None:
    assert get(place, path).text == '{"user":"ann"}\n'


def test_a_handler_that_yields_nothing_answers_with_no_line(place: Place) -> None:
    answer = get(place, "none")
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "", "application/jsonl")


@pytest.mark.parametrize("path", ["head", "head/fastapi"])
def test_the_head_has_what_was_put_into_the_response_before_the_first_value(place: Place, path: str) -> None:
    answer = get(place, path)
    assert (answer.status_code, answer.headers["x-kind"], answer.text) == (207, "numbers", "1\n")
    assert answer.headers.get_list("content-type") == ["application/x-ndjson"]


@pytest.mark.parametrize("path", ["refusing", "refusing/fastapi"])
def test_an_http_exception_before_the_first_value_is_the_answer(place: Place, path: str) -> None:
    answer = get(place, path)
    assert (answer.status_code, answer.json()) == (418, {"detail": "no"})


def test_decorators_may_stand_over_a_generator(place: Place) -> None:
    assert get(place, "decorated").text == "0\n0\n1\n1\n"
    assert get(place, "passed").text == "1\n"


def test_a_generator_that_is_returned_is_a_list(place: Place) -> None:
    assert get(place, "listed").json() == [0, 1, 2]


def test_plain_generators_take_none_of_the_threads_of_plain_handlers(place: Place) -> None:
    gate = place.folder / "gate"
    with ExitStack() as open_streams, httpx.Client(limits=httpx.Limits(), timeout=PATIENCE_SECONDS) as client:
        answers = []
        for _ in range(STUCK):
            answer = open_streams.enter_context(client.stream("GET", f"{place.rest}/stuck"))
            answers.append(answer.iter_lines())
            assert next(answers[-1]) == "1"
        assert client.get(f"{place.rest}/ordinary").status_code == 200
        gate.touch()
        assert waited(lambda: all(list(rest) == [] for rest in answers))
    gate.unlink()
