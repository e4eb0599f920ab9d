"""What models find in a worker process: a `__main__` like that of any program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlserve
from tests.engine import load, request, running_pool, write_models

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
