"""The scikit-learn example does what its page says: train, start, ask over REST and gRPC, train again, load again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving import serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "sklearn"


def test_the_commands_of_its_page_work(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    folder = tmp_path / "sklearn"
    shutil.copytree(EXAMPLE, folder)
    _python(folder, "train.py")
    path = os.pathsep.join([str(ROOT / "runtimes" / "sklearn"), *filter(None, sys.path)])
    with serving(folder, env={"PYTHONPATH": path}) as server:
        headers = {"Content-Type": "application/json"}
        body = (folder / "request.json").read_bytes()
        answer = httpx.post(f"{server.rest}/v2/models/iris/infer", content=body, headers=headers).json()
        assert [one["name"] for one in answer["outputs"]] == ["predict", "predict_proba"]
        assert answer["outputs"][0]["data"] == [0, 2]
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        assert "localhost:8081" in code
        assert _python(folder, "-c", code.replace("localhost:8081", server.grpc)).split() == ["[[0]", "[2]]"]
        _python(folder, "train.py")
        assert httpx.post(f"{server.rest}/v2/repository/models/iris/load", timeout=60).status_code == 200
        assert server.stop() == 0


def _python(folder: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
