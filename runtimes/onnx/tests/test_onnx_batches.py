"""What of an ONNX graph's answers may be cut by rows, and what is run one by one though requests came together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.errors import ModelError
from mlserve.merging import merge
from mlserve.settings import ModelSettings
from mlserve.testing import running_server
from mlserve_onnx import OnnxModel
from runtimes.onnx.tests import onnx_graphs as graphs
from tests.runtime_trial import Trial, arrays, named_request, response_of

TRIAL = Trial(OnnxModel)
ROWS = [np.float32([[1, 2]]), np.float32([[7, 8]])]


def turned(path: Path) -> None:
    """y [2, N] is x [N, 2], turned."""
    x, y = (graphs.FLOAT, ["N", 2]), (graphs.FLOAT, [2, "N"])
    graphs.save(path, [graphs.node("Transpose", ["x"], ["y"])], {"x": x}, {"y": y})


def mean(path: Path) -> None:
    """One row for all of x."""
    x, y = (graphs.FLOAT, ["N", 2]), (graphs.FLOAT, [1, 2])
    graphs.save(path, [graphs.node("ReduceMean", ["x"], ["y"], axes=[0])], {"x": x}, {"y": y})


@pytest.mark.parametrize("write", [graphs.parts, turned, mean])
def test_callers_of_a_graph_without_rows_get_their_own_answers(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "model.onnx")
    model = TRIAL.load(tmp_path)
    wanted = [arrays(response_of(model, named_request(x=x))) for x in ROWS]
    with pytest.raises(ModelError, match="cannot be cut by rows"):
        response_of(model, merge([named_request(x=x) for x in ROWS]))
    settings = ModelSettings(
        name="m", implementation=OnnxModel, max_batch_size=2, max_batch_time=60, batch_eager=False,
        parameters={"uri": str(tmp_path / "model.onnx")},
    )  # fmt: skip
    with running_server([settings]) as server, ThreadPoolExecutor(2) as threads:
        for _ in range(3):  # a batch goes when it is full
            found = [arrays(one) for one in threads.map(lambda x: server.infer("m", named_request(x=x)), ROWS)]
            for mine, own in zip(found, wanted, strict=True):
                assert list(mine) == list(own)
                assert all(np.array_equal(mine[name], own[name]) for name in own)


def test_outputs_with_rows_run_together_beside_one_without(tmp_path: Path) -> None:
    graphs.parts(tmp_path / "model.onnx")
    merged = merge([named_request(("y",), x=x) for x in ROWS])
    assert np.array_equal(arrays(response_of(TRIAL.load(tmp_path), merged))["y"], np.concatenate(ROWS))
