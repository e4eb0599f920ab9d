"""The Python that the documents show runs as it stands: test files under pytest, clients against a server."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.codecs import StringCodec, decode_args
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import running_server
from mlserve.types import InferenceRequest, InferenceResponse

pytestmark = pytest.mark.slow
DOCS = Path(__file__).resolve().parent.parent / "docs"


def snippets(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_tests_in_testing_md_pass(tmp_path: Path) -> None:
    files = {}
    for text in snippets("testing.md"):
        name = re.match(r"# (test_\w+\.py)\n", text)
        assert name, f"a snippet without the name of its file:\n{text}"
        files[name[1]] = text
    assert len(files) == 2
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


class Iris(MLModel):
    @decode_args
    async def predict(self, x: np.ndarray) -> np.ndarray:
        return x.sum(axis=1)


class Story(MLModel):
    async def predict_stream(self, payloads: Any) -> Any:
        async for _ in payloads:
            for word in ("Once", "upon"):
                yield InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("text", [word])])


class Runtime(MLModel):
    """Gives what a handler's snippet needs."""

    _scores = (0.12345,)

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[])


def test_the_clients_in_client_md_talk_to_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    plain, streaming = snippets("client.md")
    models = [ModelSettings(name="iris", implementation=Iris), ModelSettings(name="llm", implementation=Story)]
    with running_server(models) as server:
        places = {"http://localhost:8080": server.rest, "grpc://localhost:8081": f"grpc://{server.grpc}"}
        for text in (plain.replace('outputs["predict"]', 'outputs["output-0"]'), streaming):
            for written, real in places.items():
                text = text.replace(written, real)
            run(text)
    assert capsys.readouterr().out.split() == ["[[10.2]]", "['Once']", "['upon']"]


def test_the_handler_in_handlers_md_answers() -> None:
    import httpx

    space: dict[str, Any] = {"__name__": __name__}
    for snippet in snippets("handlers.md"):
        exec(compile(snippet, "handlers.md", "exec", dont_inherit=True), space)
    for name, given in (("Scored", "Runtime"), ("Chatting", "Chat")):
        globals()[name] = type(name, (Runtime, space[given]), {"__module__": __name__})
    with running_server(
        [ModelSettings(name=name, implementation=globals()[name]) for name in ("Scored", "Chatting")]
    ) as server:
        assert httpx.get(f"{server.rest}/score/0?digits=2").json() == {"row": 0, "score": 0.12}
        told = httpx.post(f"{server.rest}/v1/completions", json={"prompt": "a b"})
        assert told.text == "data: a\n\ndata: b\n\n"


def run(text: str) -> None:
    """Runs a snippet that may await at its top."""
    code = compile(text, "client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    done = eval(code, {"__name__": "snippet"})
    if asyncio.iscoroutine(done):
        asyncio.run(done)
