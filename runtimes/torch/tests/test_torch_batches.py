"""What of a PyTorch model's answers may be cut by rows, and what is run one by one though requests came together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlserve.errors import ModelError
from mlserve.merging import merge
from mlserve.settings import ModelSettings
from mlserve.testing import running_server
from mlserve_torch import TorchModel
from runtimes.torch.tests import nets
from runtimes.torch.tests.test_torch import load
from tests.runtime_trial import arrays, named_request, response_of

ROWS = [np.float32([[1, 2]]), np.float32([[7, 8]])]


class Split(torch.nn.Module):
    """A list with an entry for each row."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(x.unbind(0))


class SplitTuple(torch.nn.Module):
    """A tuple with an entry for each row."""

    def forward(self, x: torch.Tensor) -> Any:
        return x.unbind(0)


class Turned(torch.nn.Module):
    """Rows become columns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.T


class Named(torch.nn.Module):
    """Rows, and one number for all of them."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"rows": x + 1, "sum": x.sum()}


@pytest.mark.parametrize(
    ("kind", "form"),
    [(Split, "script"), (Split, "module"), (SplitTuple, "module"), (Turned, "module"), (Turned, "exported"),
     (Turned, "script"), (Named, "module"), (Named, "script")],
)  # fmt: skip
def test_callers_of_a_model_without_rows_get_their_own_answers(tmp_path: Path, kind: Any, form: str) -> None:
    if form == "exported":
        nets.export(kind(), tmp_path / "model.pt2", (torch.ones(2, 2),), {"x": {0: nets.BATCH}})
    else:
        nets.save(kind(), tmp_path / "model.pt", form)
    extra = {"allow_pickle": form == "module"}
    model = load(tmp_path, extra)
    wanted = [arrays(response_of(model, named_request(x=x))) for x in ROWS]
    with pytest.raises(ModelError, match="cannot be cut by rows"):
        response_of(model, merge([named_request(x=x) for x in ROWS]))
    settings = ModelSettings(
        name="m", implementation=TorchModel, max_batch_size=2, max_batch_time=60, batch_eager=False,
        parameters={"uri": str(tmp_path), "extra": extra},
    )  # fmt: skip
    with running_server([settings]) as server, ThreadPoolExecutor(2) as threads:
        for _ in range(3):  # a batch goes when it is full
            found = [arrays(one) for one in threads.map(lambda x: server.infer("m", named_request(x=x)), ROWS)]
            for mine, own in zip(found, wanted, strict=True):
                assert list(mine) == list(own)
                assert all(np.array_equal(mine[name], own[name]) for name in own)
