"""What is fixed in a saved graph: nested outputs and those that cannot be sent, and steps in training mode."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlserve.errors import ModelError, ModelLoadError
from runtimes.torch.tests import nets
from runtimes.torch.tests.test_torch import X, ask, load, own, serve


class Nested(torch.nn.Module):
    """Tensors in tuples, lists and dicts."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"logits": x, "caches": [(x + 1, x + 2), (x + 3, None)], "more": {"sum": x.sum(), "rows": x.shape[0]}}


class Bare(torch.nn.Module):
    """A tuple within a tuple."""

    def forward(self, x: torch.Tensor) -> Any:
        return x, (x + 1, (x + 2,))


class Odd(torch.nn.Module):
    """What the protocol cannot carry."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return {"plain": x, "odd": torch.complex(x, x) if self.form == "complex" else x.to_sparse()}


class Training(torch.nn.Module):
    """Layers that go by the mode, each in a branch of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        layers: dict[str, Any] = {
            "dropout": lambda: torch.nn.Dropout(0.5),
            "batch_norm": lambda: torch.nn.BatchNorm1d(4),
            "lstm": lambda: torch.nn.LSTM(4, 4, 2, dropout=0.5),
            "rrelu": torch.nn.RReLU,
            "dropout by 0": lambda: torch.nn.Dropout(0.0),
            "lstm without dropout": lambda: torch.nn.LSTM(4, 4),
            "no statistics": lambda: torch.nn.BatchNorm1d(4, track_running_stats=False),
            "linear": lambda: torch.nn.Linear(4, 4),
        }
        self.layer = layers[kind]()

    def forward(self, x: torch.Tensor) -> Any:
        answer = self.layer(x)
        return answer[0] if isinstance(answer, tuple) else answer


def export(module: Any, folder: Path) -> None:
    nets.export(module, folder / "model.pt2", (torch.ones(2, 4),), {"x": {0: nets.BATCH}})


@pytest.mark.parametrize("kind", [Nested, Bare])
def test_nested_answers_are_served_flat(tmp_path: Path, kind: Any) -> None:
    module = kind().eval()
    x = torch.from_numpy(X)
    wanted = {
        Nested: {"logits": x, "caches_0_0": x + 1, "caches_0_1": x + 2, "caches_1_0": x + 3, "more_sum": x.sum()},
        Bare: {"output_0": x, "output_1_0": x + 1, "output_1_1_0": x + 2},
    }[kind]
    if kind is Nested:
        wanted["more_rows"] = torch.tensor(6)
    export(module, tmp_path)
    exported = load(tmp_path)
    (tmp_path / "model.pt2").unlink()
    for model in (exported, serve(tmp_path, module)):
        answer = ask(model, x=X)
        assert list(answer) == list(wanted)
        assert all(np.array_equal(answer[name], value.numpy()) for name, value in wanted.items())
        last = list(wanted)[-1]
        assert list(ask(model, last, x=X)) == [last]
    if kind is Bare:
        assert [(one.name, one.shape) for one in exported.outputs] == [(name, [-1, 4]) for name in wanted]


def test_two_outputs_of_one_name_are_told(tmp_path: Path) -> None:
    class_ = type("Same", (torch.nn.Module,), {"forward": lambda self, x: {"a_0": x, "a": (x + 1,)}})
    model = serve(tmp_path, nets.made(nets.Linear))
    model._call = class_()
    with pytest.raises(ModelError, match="it gives two outputs 'a_0'"):
        ask(model, x=X)


@pytest.mark.parametrize(("form", "words"), [("complex", "torch.complex64"), ("sparse", "torch.sparse_coo")])
def test_a_program_whose_answer_cannot_be_sent_is_refused(tmp_path: Path, form: str, words: str) -> None:
    try:
        export(Odd(form), tmp_path)
    except (RuntimeError, NotImplementedError) as error:  # sparse ones, for some versions of PyTorch
        assert form == "sparse", error
        return
    with pytest.raises(ModelLoadError, match=rf"output 'odd' of the program is of {words}, which the protocol lacks"):
        load(tmp_path)


@pytest.mark.parametrize("form", ["exported", "decomposed", "traced", "script"])
def test_a_graph_in_training_mode_is_told(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of a script it is not a part: eval() reaches its layers."""
    kinds = ["dropout", "batch_norm", "lstm", "rrelu"]
    harmless = ["dropout by 0", "lstm without dropout", "no statistics", "linear"]
    for kind in (*kinds, *harmless):
        module = Training(kind).train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save(module, tmp_path / "model.pt", form)
        caplog.clear()
        model = load(tmp_path)
        told = [record.getMessage() for record in caplog.records if record.name == "mlserve.torch"]
        if form == "script" or kind in harmless or (form, kind) == ("decomposed", "lstm"):
            assert told == [], kind
        else:
            (line,) = told
            assert "in training mode" in line and kind in line and "after model.eval()" in line
        if form == "script":
            assert np.array_equal(ask(model, x=X)["output"], own(module.eval(), X))
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        for kind in kinds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                save(Training(kind).eval(), tmp_path / "model.pt", form)
            load(tmp_path)
        assert caplog.records == []


def save(module: Any, path: Path, form: str) -> None:
    if form in ("exported", "decomposed"):
        program = torch.export.export(module, (torch.ones(2, 4),))
        with path.open("wb") as file:
            torch.export.save(program.run_decompositions() if form == "decomposed" else program, file)
    elif form == "traced":
        torch.jit.trace(module, torch.ones(2, 4), check_trace=False).save(str(path))
    else:
        torch.jit.script(module).save(str(path))
