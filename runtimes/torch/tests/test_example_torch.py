"""The PyTorch example does what its page says, and its answers are those of the program that it exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.examples import run_example

pytestmark = pytest.mark.slow


def test_the_commands_of_its_page_work(tmp_path: Path) -> None:
    outcome = run_example("torch", "iris", tmp_path)
    module = torch.export.load(outcome.folder / "model.pt2").module()
    with torch.inference_mode():
        wanted = module(torch.tensor([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]))
    assert outcome.output("species") == wanted["species"].tolist() == [0, 2]
    assert np.array_equal(np.float32(outcome.output("probabilities")), wanted["probabilities"].numpy().ravel())
    assert outcome.printed.strip() == "[0 2]"
