"""The ONNX example does what its page says, and its answers are those of the graph that it exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.examples import run_example

pytestmark = pytest.mark.slow


def test_the_commands_of_its_page_work(tmp_path: Path) -> None:
    outcome = run_example("onnx", "iris", tmp_path)
    flowers = np.float32([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])
    labels, probabilities = onnxruntime.InferenceSession(str(outcome.folder / "model.onnx")).run(None, {"X": flowers})
    assert outcome.output("label") == labels.tolist() == [0, 2]
    assert np.array_equal(np.float32(outcome.output("probabilities")), probabilities.ravel())
    assert outcome.printed.strip() == "[0 2]"
