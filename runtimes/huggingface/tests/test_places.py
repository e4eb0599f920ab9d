"""No request has the server open a file or an address, unless the model's settings allow it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlserve.errors import InferenceError, MLServeError
from mlserve_huggingface import HuggingFaceRuntime
from mlserve_huggingface.places import Places
from runtimes.huggingface.tests.asking import PICTURE, ask, base64_png, load, request, settings_for, tensor
from runtimes.huggingface.tests.tiny_media_models import MAKERS

WORDS = {"type": "text", "text": "the red fox"}
_SHORT = tensor("max_new_tokens", [3])


class Site:
    """A web server with a picture, and what was asked of it."""

    def __init__(self) -> None:
        asked: list[str] = []

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(base64.b64decode(base64_png()))

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.asked = asked
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server.server_port}/internal.png"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(scope="module")
def chatting(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceRuntime:
    folder = tmp_path_factory.mktemp("chatting") / "model"
    MAKERS["image-text-to-text"](folder)
    return load(settings_for(folder, task="image-text-to-text"))


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "secret.png"
    PICTURE.save(path)
    return path


def message(*blocks: Any) -> str:
    return json.dumps({"role": "user", "content": [*blocks, WORDS]})


def refused(model: HuggingFaceRuntime, *inputs: Any) -> None:
    with pytest.raises(MLServeError, match="which this model does not open for clients") as caught:
        anyio.run(model.predict, request(*inputs, _SHORT))
    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "image": "PLACE"},
        {"type": "image", "url": "PLACE"},
        {"type": "image", "path": "PLACE"},
        {"type": "image", "base64": "PLACE"},
        {"type": "image", "BASE64": "PLACE"},
        {"type": "image", "base64": ["PLACE"]},
        {"type": "image", "base64": [[{"x": "PLACE"}]]},
        {"type": "image_url", "image_url": "PLACE"},
        {"type": "image_url", "image_url": {"url": "PLACE"}},
        {"type": "audio", "audio": "PLACE"},
        {"type": "audio", "base64": "PLACE"},
        {"type": "input_audio", "input_audio": {"data": "PLACE"}},
        {"type": "video", "video": "PLACE"},
        {"type": "text", "text": ["PLACE"]},
        {"new key": "PLACE"},
        "PLACE",
    ],
    ids=str,
)
def test_no_block_of_a_chat_names_a_file_or_an_address(
    chatting: HuggingFaceRuntime, site: Site, secret: Path, block: Any
) -> None:
    for place in (
        site.address,
        site.address.replace("http", "HTTP"),
        " " + site.address,
        str(secret),
        f"file://{secret}",
    ):
        sent = message(json.loads(json.dumps(block).replace("PLACE", place)))
        refused(chatting, tensor("text", [sent], "hg_jsonlist"))
        refused(chatting, tensor("args", [sent], "hg_jsonlist"))
    assert not site.asked


@pytest.mark.parametrize("name", ["text", "args", "images", "inputs"])
@pytest.mark.parametrize("content_type", ["hg_json", "hg_jsonlist", "hg_conversation"])
def test_nor_does_one_by_another_input_or_content_type(
    chatting: HuggingFaceRuntime, site: Site, name: str, content_type: str
) -> None:
    block = message({"type": "image", "base64": site.address})
    sent = f"[{block}]" if content_type == "hg_conversation" else block
    refused(chatting, tensor(name, [sent], content_type))
    refused(chatting, tensor(name, [f"[{sent}]"], content_type))
    assert not site.asked


def test_a_relative_path_and_one_that_is_base64_too_are_refused(
    chatting: HuggingFaceRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ab").mkdir()
    for name in ("x.png", "abcd", "ab/d", "fox"):
        PICTURE.save(tmp_path / name, "PNG")
        refused(chatting, tensor("text", [message({"type": "image", "base64": name})], "hg_jsonlist"))
    refused(chatting, tensor("text", [message({"type": "image", "base64": "./none.png"})], "hg_jsonlist"))


def test_a_picture_itself_is_taken(chatting: HuggingFaceRuntime) -> None:
    for text in (base64_png(), "data:image/png;base64," + base64_png(), base64.encodebytes(b64()).decode()):
        for key in ("image", "url", "base64"):
            sent = message({"type": "image", key: text})
            assert ask(chatting, request(tensor("text", [sent], "hg_jsonlist"), _SHORT))


def b64() -> bytes:
    return base64.b64decode(base64_png())


def test_other_pipelines_open_nothing_that_an_object_names(models: dict[str, Path], secret: Path) -> None:
    seeing = load(settings_for(models["image-classification"]))
    for sent in (str(secret), {"image": str(secret)}, [str(secret)], {"text": {"x": str(secret)}}):
        refused(seeing, tensor("inputs", [json.dumps(sent)], "hg_json"))
        refused(seeing, tensor("text_inputs", [json.dumps(sent)], "hg_json"))
    hearing = load(settings_for(models["audio-classification"]))
    for said in (str(secret), {"raw": str(secret)}, {"path": str(secret)}):
        refused(hearing, tensor("inputs", [json.dumps(said)], "hg_json"))


def test_a_film_is_nothing_but_what_the_settings_allow() -> None:
    watching = Places("video-classification", allowed=False)
    for text in ("concat:/etc/passwd", "data:video/mp4;base64,AAAA", "AAAA", "/etc/passwd", "film"):
        with pytest.raises(InferenceError, match="does not open for clients"):
            watching.check_data([text], "inputs", "")


@pytest.mark.parametrize("task", ["any-to-any", "image-text-to-text", "text-to-audio", "a pipeline of tomorrow"])
def test_a_text_that_is_an_address_is_no_prompt_where_processors_fetch_it(task: str) -> None:
    places = Places(task, allowed=False)
    for text in ("https://example.com/x.png", [["http://example.com"]], {"text": " HTTP://example.com"}):
        with pytest.raises(InferenceError, match="does not open for clients"):
            places.check_data(text, "args", "text")
        with pytest.raises(InferenceError, match="does not open for clients"):
            places.check_option(text, "text")
    places.check_data("what is at https://example.com ?", "args", "text")


def test_options_name_no_files(tmp_path: Path) -> None:
    voice = tmp_path / "voice.npz"
    voice.touch()
    for value in (str(voice), str(voice.with_suffix("")), "https://example.com"):
        with pytest.raises(InferenceError, match="does not open for clients"):
            Places("text-to-audio", allowed=False).check_option({"voice_preset": value}, "preprocess_params")
    Places("text-to-audio", allowed=False).check_option({"voice_preset": "v2/en_speaker_6"}, "preprocess_params")


def test_words_may_be_addresses_and_names_of_files(chatting: HuggingFaceRuntime, models: dict[str, Path]) -> None:
    said = {"role": "user", "content": [{"type": "text", "text": "https://example.com/x.png"}]}
    assert ask(chatting, request(tensor("text", [json.dumps(said)], "hg_jsonlist"), _SHORT))
    telling = load(settings_for(models["text-classification"]))
    assert ask(telling, request(tensor("args", ["https://example.com/x.png", "/etc/hostname"])))
    assert ask(telling, request(tensor("args", [json.dumps({"text": "/etc/hostname"})], "hg_json")))
    boxes = {"image": base64_png(), "question": "/etc/hostname ?", "word_boxes": [["/etc/hostname", [1, 1, 2, 2]]]}
    Places("document-question-answering", allowed=False).check_data(boxes, "args", "")
    calls = [{"function": {"name": "get", "arguments": {"url": "https://example.com"}}}]
    chat = [{"role": "assistant", "content": "see /etc/hostname", "tool_calls": calls}]
    Places("image-text-to-text", allowed=False).check_data(chat, "args", "")
    thought = {"role": "assistant", "content": "a fox", "reasoning_content": "it is red, and has a tail"}
    Places("image-text-to-text", allowed=False).check_data([thought], "args", "")
    Places("text-generation", allowed=False).check_option([{"url": "https://example.com"}], "documents")


def test_a_chat_with_a_model_of_text_opens_nothing_either() -> None:
    """There are tokenizers that load the pictures of a chat."""
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}]}]
    with pytest.raises(InferenceError, match="does not open for clients"):
        Places("text-generation", allowed=False).check_data(chat, "args", "text")
    Places("text-generation", allowed=True).check_data(chat, "args", "text")
