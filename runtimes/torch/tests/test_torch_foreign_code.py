"""An exported program with a pickle in it runs no code, unless the settings trust it."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

from mlserve import ModelSettings
from mlserve.errors import ModelLoadError
from mlserve_torch import TorchModel


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An honest program whose sample inputs were replaced."""
    honest, path = tmp_path / "honest.pt2", tmp_path / "model.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(1, 2),)), honest)
    pickled = io.BytesIO()
    torch.save(Runs(tmp_path / "ran"), pickled)
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        replaced = 0
        for one in source.infolist():
            inputs = "sample_inputs" in one.filename
            replaced += inputs
            target.writestr(one.filename, pickled.getvalue() if inputs else source.read(one))
    assert replaced, "the format has its sample inputs elsewhere now"
    return path


def load(path: Path, **extra: Any) -> None:
    settings = ModelSettings(name="m", implementation=TorchModel, parameters={"uri": str(path), "extra": extra})
    anyio.run(TorchModel(settings).load)


def test_a_pickle_in_an_exported_program_is_refused(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"would run code from the file; .*allow_pickle"):
        load(program)
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_an_honest_program_is_read(program: Path) -> None:
    load(program.with_name("honest.pt2"))
