"""A chat is one row, however many messages it has, and never mixed with another client's."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from mlserve.errors import InferenceError
from mlserve.merging import merge
from mlserve.testing import running_server
from mlserve.types import InferenceRequest
from runtimes.huggingface.tests.asking import ask, load, pipeline, plain, request, rows, settings_for, tensor
from runtimes.huggingface.tests.test_allowed import GREEDY, sizes_of
from runtimes.huggingface.tests.tiny_architectures import make

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers

TOGETHER = {"max_batch_size": 8, "max_batch_time": 0.05}
TWO = {"max_new_tokens": 6, "do_sample": True, "num_return_sequences": 2}


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("talking"), "text-generation", "gpt2")


def messages(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if at % 2 else "user", "content": one} for at, one in enumerate(said)]


def chat(*said: str, content_type: str = "hg_jsonlist", **options: Any) -> InferenceRequest:
    whole = messages(*said)
    told = [json.dumps(whole)] if content_type == "hg_conversation" else [json.dumps(one) for one in whole]
    return request(tensor("args", told, content_type), **options)


@pytest.mark.parametrize("content_type", ["hg_jsonlist", "hg_json", "hg_conversation"])
@pytest.mark.parametrize("more", [TOGETHER, {}], ids=["batching", "alone"])
@pytest.mark.parametrize("said", [["hi"], ["hi", "yes", "the dog"]], ids=["one message", "three"])
def test_a_chat_has_one_answer(talking: Path, said: list[str], more: dict[str, Any], content_type: str) -> None:
    model = load(settings_for(talking, task="text-generation", **more))
    wanted = plain(pipeline("text-generation", talking)(messages(*said), **GREEDY))
    assert ask(model, chat(*said, content_type=content_type, **GREEDY)) == wanted


@pytest.mark.parametrize("content_type", ["hg_jsonlist", "hg_json", "hg_conversation"])
def test_chats_run_together_and_each_has_its_own_answer(talking: Path, content_type: str) -> None:
    model = load(settings_for(talking, task="text-generation", **TOGETHER))
    asked = [chat(one, content_type=content_type, **GREEDY) for one in ("hi", "the small bear", "a cat")]
    alone = [ask(model, one)[0] for one in asked]
    sizes = sizes_of(model)
    assert rows(anyio.run(model.predict, merge(asked))) == alone
    assert sizes == [8]


@pytest.mark.parametrize("content_type", ["hg_jsonlist", "hg_json", "hg_conversation"])
def test_nobody_gets_the_words_of_another(talking: Path, content_type: str) -> None:
    """As many texts as there are chats: the number of results says nothing of whose they are."""
    model = load(settings_for(talking, task="text-generation", **TOGETHER))
    asked = [chat(one, content_type=content_type, **TWO) for one in ("I am Alice", "I am Bob")]
    for name, answers in zip(("Alice", "Bob"), rows(anyio.run(model.predict, merge(asked)))):
        assert len(answers) == 2
        for one in answers:
            assert one["generated_text"][:-1] == [{"role": "user", "content": f"I am {name}"}]


def test_chats_of_several_messages_ask_to_be_run_alone(talking: Path) -> None:
    """Their messages are the tensor's rows, and an answer of one row cannot be cut to as many."""
    model = load(settings_for(talking, task="text-generation", **TOGETHER))
    sizes = sizes_of(model)
    with pytest.raises(InferenceError, match="each alone"):
        anyio.run(model.predict, merge([chat("hi", "yes", "the dog", **GREEDY), chat("a cat", **GREEDY)]))
    assert sizes == [], "nothing was computed in vain"


def test_options_that_cannot_be_compared_keep_requests_apart(talking: Path) -> None:
    """Two arrays, or NaN and null, may be written the same and differ."""
    model = load(settings_for(talking, task="text-generation", **TOGETHER))
    made = [chat("hi", temperature=one, do_sample=True, max_new_tokens=2) for one in (0.5, 0.7)]
    sizes = sizes_of(model)
    anyio.run(model.predict, merge(made))
    assert sizes == [1, 1]


def test_what_a_chat_template_refuses_is_the_clients_error(talking: Path) -> None:
    model = load(settings_for(talking, task="text-generation", **TOGETHER))
    model._caller._pipeline.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InferenceError, match="cannot use this request: roles must alternate"):
        ask(model, chat("hi", **GREEDY))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_never_mixes_chats(talking: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "chat").mkdir()
    settings = {
        "name": "chat",
        "implementation": "huggingface",
        "max_batch_size": 2,
        "max_batch_time": 0.5,
        "parameters": {"uri": str(talking), "extra": {"task": "text-generation", "intra_op_threads": 1}},
    }
    (tmp_path / "chat" / "model-settings.json").write_text(json.dumps(settings))
    secrets = [f"secret of client {at}" for at in range(16)]
    with (
        running_server(tmp_path, parallel_workers=workers) as server,
        httpx.Client(base_url=server.rest, timeout=60) as client,
        ThreadPoolExecutor(len(secrets)) as threads,
    ):

        def said(secret: str) -> Any:
            told = {"name": "args", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "hg_jsonlist"}}
            body = {"inputs": [{**told, "data": [json.dumps(messages(secret)[0])]}], "parameters": TWO}
            answer = client.post("/v2/models/chat/infer", json=body)
            assert answer.status_code == 200, answer.text
            return json.loads(answer.json()["outputs"][0]["data"][0])

        for secret, answers in zip(secrets, threads.map(said, secrets)):
            assert [one["generated_text"][0]["content"] for one in answers] == [secret, secret]
