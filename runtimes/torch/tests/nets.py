"""Small modules for the tests, and ways to save them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

BATCH = torch.export.Dim("batch")


class Linear(torch.nn.Module):
    """A matrix and a bias."""

    def __init__(self, inputs: int = 4, outputs: int = 3) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


class Embedding(torch.nn.Module):
    """Several inputs, one of them optional, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(5, 2)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        found = self.table(ids)
        if mask is not None:
            found = found * mask.unsqueeze(-1)
        return {"vectors": found, "sums": found.sum(-1)}


class Pair(NamedTuple):
    """Two answers."""

    small: torch.Tensor
    large: torch.Tensor


class Minus(torch.nn.Module):
    """Inputs whose order matters."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b


class Shaped(torch.nn.Module):
    """Gives what its `form` says."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return {
            "tuple": (x, None, x + 1),
            "named": Pair(x, x + 1),
            "half": x.bfloat16(),
            "scalar": x.sum(),
            "complex": x.to(torch.complex64),
            "object": object(),
        }[self.form]


class Texts(torch.nn.Module):
    """The lengths of texts."""

    def forward(self, words: list[str]) -> torch.Tensor:
        return torch.tensor([[len(word)] for word in words])


class Any_(torch.nn.Module):
    """Any number of inputs."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.stack(tensors).sum(0)


def made(kind: Any, *args: Any) -> Any:
    """A module with the same random weights each time."""
    torch.manual_seed(0)
    return kind(*args).eval()


def save(module: Any, path: Path, form: str) -> Any:
    """Saves a module in one of the forms that PyTorch has; gives it back."""
    if form == "exported":
        export(module, path, (torch.ones(2, 4),), {"x": {0: BATCH}})
    elif form == "weights":
        torch.save(module.state_dict(), path)
    elif form == "checkpoint":
        torch.save({"model_state_dict": module.state_dict(), "epoch": 3}, path)
    elif form == "legacy":
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    elif form == "module":
        torch.save(module, path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.jit.trace(module, torch.ones(2, 4)) if form == "traced" else torch.jit.script(module)
            made.save(str(path))
    return module


def export(module: Any, path: Path, args: tuple[Any, ...], shapes: Any, **keywords: Any) -> None:
    """torch.export.save, which insists on the extension .pt2."""
    program = torch.export.export(module, args, keywords, dynamic_shapes=shapes)
    with path.open("wb") as file:
        torch.export.save(program, file)
