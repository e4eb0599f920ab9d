"""What models find in the process that they run in: a `__main__` like that of any program, and children of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlserve
from tests.engine import load, request, running_pool, write_models
from tests.serving import serving, write_model

TELLS = """
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mlserve import MLModel
from mlserve.types import InferenceResponse

OURS = "sorted({'mlserve', 'mlserve.worker_main'} & __import__('sys').modules.keys())"


class Tells(MLModel):
    def predict(self, request):
        main = sys.modules["__main__"]
        told = {"file": main.__file__, "spec": main.__spec__.name}
        for way in ("spawn", "forkserver"):
            with ProcessPoolExecutor(1, multiprocessing.get_context(way)) as pool:
                told[way] = pool.submit(eval, OURS).result()
        Path(__file__).with_name("told.json").write_text(json.dumps(told))
        return InferenceResponse(model_name=self.name, outputs=[])
"""


@pytest.mark.anyio
async def test_main_is_that_of_a_program_which_its_children_do_not_run_again(tmp_path):
    folder = write_models(tmp_path, TELLS)
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Tells", folder)
        await pool.infer(1, request([0.0]), "raw")
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["file"], told["spec"]) == (str(Path(mlserve.__file__).with_name("__main__.py")), "mlserve.__main__")
    assert told["spawn"] == told["forkserver"] == []


FORKS = """
import multiprocessing

from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Forks(MLModel):
    def predict(self, request):
        with multiprocessing.get_context("fork").Pool(2) as pool:  # its end is a SIGTERM to each child
            data = pool.map(abs, [-1, -2])
        return InferenceResponse(
            model_name=self.name, outputs=[ResponseOutput(name="y", shape=[2], datatype="INT64", data=data)]
        )
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_children_that_a_model_forks_and_ends_are_not_the_server(tmp_path: Path, workers: int) -> None:
    (write_model(tmp_path, "forks", "models.Forks") / "models.py").write_text(FORKS)
    with serving(tmp_path, "--parallel-workers", str(workers)) as server:
        for _ in range(3):
            answer = server.infer("forks", [1.0])
            assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [1, 2]), server.output
        assert server.stop() == 0
    assert "stopping: 1 calls" not in server.output
