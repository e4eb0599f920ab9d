"""Does what the page of an example says: trains, starts the server, asks it over REST and with the page's Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.serving import START_SECONDS, serving

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


class Outcome(NamedTuple):
    """What an example gave."""

    answer: dict[str, Any]  # to request.json
    printed: str  # by the Python on its page
    folder: Path  # with what it trained

    def output(self, name: str) -> list[Any]:
        """The data of one output."""
        (found,) = [one["data"] for one in self.answer["outputs"] if one["name"] == name]
        return list(found)


def run_example(
    name: str, model: str, place: Path, start_seconds: float = START_SECONDS, http_port: int | None = None
) -> Outcome:
    """Runs docs/examples/NAME, which serves MODEL, in a copy below `place`.

    `http_port` stands for the port 8080 in its settings, where these name the server itself.
    """
    folder = place / name
    shutil.copytree(EXAMPLES / name, folder)
    _python(folder, "train.py")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "localhost:8081" in code
    ports = [] if http_port is None else ["--http-port", str(http_port)]
    for settings in folder.glob("**/model-settings.json") if ports else ():
        settings.write_text(settings.read_text().replace("localhost:8080", f"127.0.0.1:{http_port}"))
    with serving(folder, *ports, start_seconds=start_seconds) as server:
        headers = {"Content-Type": "application/json"}
        body = (folder / "request.json").read_bytes()
        reply = httpx.post(f"{server.rest}/v2/models/{model}/infer", content=body, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        printed = _python(folder, "-c", code.replace("localhost:8081", server.grpc))
        assert server.stop() == 0
    return Outcome(reply.json(), printed, folder)


def _python(folder: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout
