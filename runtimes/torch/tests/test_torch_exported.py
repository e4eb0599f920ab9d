"""Exported programs of many kinds: texts, branches, keywords, sizes that hang on values, names in any language."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtimes.torch.tests import nets
from runtimes.torch.tests.test_torch import X, ask, load, own


class Equation(torch.nn.Module):
    """Steps with texts, sizes and branches."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.nn.Linear(4, 4)
        self.register_buffer("added", torch.ones(4))

    def forward(self, x: torch.Tensor, *, by: torch.Tensor) -> Any:
        seen = self.rows(x[:, None] * by + self.added)
        picked = torch.cond(x.shape[0] > 3, lambda one: one + 1, lambda one: one - 1, (seen[:, 0],))
        with torch.no_grad():
            return {"two words": torch.einsum("bi,bi->b", picked, picked), "pair": (picked.reshape(-1, 2), picked)}


class Found(torch.nn.Module):
    """Sizes that hang on the data, with a condition on them that is told in words."""

    def forward(self, x: torch.Tensor) -> Any:
        places = x.nonzero()
        torch._check(places.shape[0] > 1, lambda: 'it\'s "too few"')
        return places[:2], x[: x.shape[1] // 2]


class Parts(torch.nn.Module):
    """With a part and an argument that are not named in English, and a part with a quote in its name."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleDict({"größe-1 (a)": torch.nn.Linear(4, 4), "it's": torch.nn.Linear(4, 4)})

    def forward(self, größe: torch.Tensor) -> torch.Tensor:
        return self.parts["größe-1 (a)"](größe) + self.parts["it's"](größe)


def export(module: Any, path: Path, *args: Any, shapes: Any, **keywords: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own code
        torch.export.save(torch.export.export(module.eval(), args, keywords, dynamic_shapes=shapes), path)


def test_steps_with_texts_branches_and_keywords_are_served(tmp_path: Path) -> None:
    module, by = nets.made(Equation), np.float32([2.0])
    shapes = {"x": {0: nets.BATCH}, "by": None}
    export(module, tmp_path / "model.pt2", torch.ones(6, 4), shapes=shapes, by=torch.ones(1))
    found = ask(load(tmp_path), x=X, by=by)
    with torch.inference_mode():
        wanted = module(torch.from_numpy(X), by=torch.from_numpy(by))
    assert np.array_equal(found["two words"], wanted["two words"])
    assert np.array_equal(found["pair_0"], wanted["pair"][0]) and np.array_equal(found["pair_1"], wanted["pair"][1])


def test_sizes_and_conditions_on_them_are_served(tmp_path: Path) -> None:
    auto = torch.export.Dim.DYNAMIC
    export(Found(), tmp_path / "model.pt2", torch.ones(6, 4), shapes={"x": {0: auto, 1: auto}})
    assert np.array_equal(ask(load(tmp_path), x=X)["output_1"], own(Found(), X)[1])


def test_names_in_any_language_are_served(tmp_path: Path) -> None:
    module = nets.made(Parts)
    export(module, tmp_path / "model.pt2", torch.ones(6, 4), shapes={"größe": {0: nets.BATCH}})
    assert np.array_equal(ask(load(tmp_path), größe=X)["output"], own(module, X))
