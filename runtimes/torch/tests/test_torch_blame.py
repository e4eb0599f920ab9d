"""Whose fault a failing call is, ways that `forward` may take its inputs, and odd tensors that it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlserve.codecs import StringCodec
from mlserve.errors import MLServeError, ModelError, ModelLoadError
from mlserve.types import InferenceRequest
from runtimes.torch.tests import nets
from runtimes.torch.tests.test_torch import CLASS, X, ask, load, refusal, serve
from runtimes.torch.tests.test_torch_loading import refusal as load_refusal
from tests.runtime_trial import refusal_of, response_of

TEXT = InferenceRequest(inputs=[StringCodec.encode_input("x", ["a", "b"])])


class Raising(torch.nn.Module):
    """Raises what it is told, by a statement of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Any) -> Any:
        if x is not None:
            raise self.error
        return x


class Slicing(torch.nn.Module):
    """Fails in its own code, but not by a statement that raises."""

    def forward(self, x):  # type: ignore[no-untyped-def]  # without annotations on purpose
        return x[:, :2] @ torch.ones(2, 3) + x[5]


class Declared(torch.nn.Module):
    """Says what its inputs are."""

    def forward(self, x: torch.Tensor, words: list[str] | None = None) -> torch.Tensor:
        return x + (len(words[0].upper()) if words else 0)


class Choosy(torch.nn.Module):
    """Refuses by a statement, in TorchScript."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.size(0) < 4, "too many rows"
        if x.size(1) != 4:
            raise RuntimeError("give me four columns")
        return x


class Converting(torch.nn.Module):
    """Takes one number of each tensor, as the code says."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    def forward(self, x):  # type: ignore[no-untyped-def]  # without annotations on purpose
        return eval(self.code, {"x": x, "torch": torch})


class Unpacking(torch.nn.Module):
    """Knows how many axes there are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, _, columns = x.shape
        return x.sum() + rows + columns


class Words(torch.nn.Module):
    """Takes texts, and has a mistake."""

    def forward(self, x: list[str]) -> torch.Tensor:
        return torch.tensor(x + 1)  # type: ignore[operator]  # the mistake


class Formless(torch.nn.Module):
    """Without forward."""


@pytest.mark.parametrize(
    "kind", [RuntimeError, NotImplementedError, IndexError, AssertionError, TypeError, ValueError, OverflowError]
)
def test_what_the_models_own_code_raises_is_not_the_clients_fault(tmp_path: Path, kind: type[Exception]) -> None:
    model = serve(tmp_path, Raising(kind("the password has expired")))
    for request in (None, TEXT):
        with pytest.raises(kind, match="the password"):
            ask(model, x=X) if request is None else response_of(model, request)


def test_what_pytorch_refuses_is(tmp_path: Path) -> None:
    model = serve(tmp_path, Slicing())
    assert "index 5 is out of bounds" in refusal(model, x=X[:2])
    assert "same dtype" in refusal(model, x=X.astype("i8"))
    assert "cannot use this input" in refusal_of(model, TEXT)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x + 1 if x else x", "Boolean value of Tensor with more than one value is ambiguous"),
        ("torch.full((2,), x.item())", "a Tensor with 2 elements cannot be converted to Scalar"),
        ("torch.full((2,), float(x))", "only one element tensors can be converted to Python scalars"),
        ("torch.ones(len(range(x.int())))", "only integer tensors of a single element can be converted to an index"),
    ],
    ids=["if", "item", "float", "range"],
)
def test_two_elements_where_a_model_takes_one_are_the_clients_fault(tmp_path: Path, code: str, words: str) -> None:
    model = serve(tmp_path, Converting(code))
    assert words in refusal(model, x=np.ones(2, "f4"))
    ask(model, x=np.ones(1, "f4"))


@pytest.mark.parametrize(
    ("number", "words"), [("inf", "infinity to integer"), ("nan", "NaN to integer"), (0, "by zero")]
)
def test_numbers_that_a_model_cannot_reckon_with_are_the_clients_fault(tmp_path: Path, number: Any, words: str) -> None:
    model = serve(tmp_path, Converting("x * (1 // int(x[0]))"))
    assert words in refusal(model, x=np.array([number], "f4"))
    ask(model, x=np.ones(1, "f4"))


def test_axes_that_cannot_be_unpacked_are_the_clients_fault(tmp_path: Path) -> None:
    model = serve(tmp_path, Unpacking())
    assert "expected 3, got 2" in refusal(model, x=X)
    assert ask(model, x=np.zeros((2, 1, 3), "f4"))["output"] == 5


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (torch.nn.BatchNorm2d(3), "expected 4D input (got 2D input)"),  # a ValueError
        (torch.nn.TransformerEncoderLayer(8, 2), "was expecting embedding dimension of 8, but got 4"),  # an assertion
    ],
    ids=["BatchNorm2d", "Transformer"],
)
def test_what_a_layer_of_pytorch_refuses_is_the_clients_fault(tmp_path: Path, layer: Any, words: str) -> None:
    assert words in refusal(serve(tmp_path, torch.nn.Sequential(layer)), x=X)


def test_text_for_a_tensor_is_the_clients_fault_and_a_mistake_with_texts_is_not(tmp_path: Path) -> None:
    model = serve(tmp_path, Declared())
    assert "input 'x' takes a tensor, got text" in refusal_of(model, TEXT)
    assert "input 'words' takes texts (BYTES), got FP32" in refusal(model, x=X, words=X)
    both = InferenceRequest(inputs=[*TEXT.inputs, StringCodec.encode_input("words", ["ab"])])
    assert "input 'x' takes a tensor, got text" in refusal_of(model, both)
    assert np.array_equal(ask(model, x=X, words=np.array(["ab"], object))["output"], X + 2)
    with pytest.raises(TypeError):
        response_of(serve(tmp_path, Words()), TEXT)


def test_text_for_a_tensor_of_a_script_is_told(tmp_path: Path) -> None:
    nets.save(nets.made(nets.Linear), tmp_path / "model.pt", "script")
    assert "input 'x' takes a tensor, got text" in refusal_of(load(tmp_path), TEXT)


@pytest.mark.parametrize(
    ("shape", "words"), [((2, 3), "give me four columns"), ((4, 4), "AssertionError: too many rows")]
)
def test_what_a_script_raises_is_told_in_one_line(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    nets.save(nets.made(Choosy), tmp_path / "model.pt", "script")
    assert refusal(load(tmp_path), x=np.ones(shape, "f4")) == f"model 'm' cannot use this input: {words}"


def test_a_failing_compiler_is_not_the_clients_fault(tmp_path: Path) -> None:
    def fails(*_: Any) -> Any:
        raise OSError("no compiler")

    model = serve(tmp_path, nets.made(nets.Linear))
    model._call = torch.compile(nets.made(nets.Linear), backend=fails)
    with pytest.raises(Exception, match="no compiler") as caught:
        ask(model, x=X)
    assert not isinstance(caught.value, MLServeError)
    model._call = torch.compile(nets.made(nets.Linear), backend="aot_eager")
    assert "cannot use this input" in refusal(model, x=np.ones((2, 3), "f4"))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # out of PyTorch's own code
def test_a_machine_without_a_compiler_is_told_when_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as config

    nets.save(nets.made(nets.Linear), tmp_path / "model.pt", "weights")
    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    assert "parameters.extra.compile: " in load_refusal(tmp_path, {**CLASS, "compile": True})


def test_a_module_without_forward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="has no method `forward`"):
        serve(tmp_path, Formless())
    (tmp_path / "model.pt").unlink()
    nets.save(Formless(), tmp_path / "model.pt", "script")
    with pytest.raises(ModelLoadError, match="has no method `forward`"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "class Net(torch.nn.Module):\n    def __init__(self):\n        open('no-vocabulary.txt')",
            "no-vocabulary.txt",
        ),
        (
            "class Net(torch.nn.Module):\n    def __init__(self):\n        raise ValueError('size > 0')",
            "ValueError: size",
        ),
        ("assert False, 'not here'", "importing it failed: AssertionError: not here"),
        ("class Net(:", "SyntaxError"),
    ],
    ids=["file", "value", "import", "syntax"],
)
def test_what_a_class_raises_is_told_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    name = f"net_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(f"import torch\n{code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    nets.save(nets.made(nets.Linear), tmp_path / "model.pt", "weights")
    told = load_refusal(tmp_path, {"class": f"{name}.Net"})
    assert words in told and f"parameters.extra.class '{name}.Net'" in told and "cut short" not in told


# -- ways to take inputs ----------------------------------------------------------------------------------------------


class ByPlace(torch.nn.Module):
    """Takes its inputs by place only."""

    def forward(self, a: torch.Tensor, b: torch.Tensor | None = None, c: torch.Tensor | None = None, /) -> torch.Tensor:
        return a + (0 if b is None else 10 * b) + (0 if c is None else 100 * c)


class More(torch.nn.Module):
    """A named input, any number of others, and one by keyword only."""

    def forward(self, x: torch.Tensor, *rest: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        for at, one in enumerate(rest):
            x = x - (at + 1) * one
        return x if scale is None else x * scale


def numbers(model: Any, **inputs: float) -> float:
    found = ask(model, **{name: np.float32([value]) for name, value in inputs.items()})
    return float(found["output"][0])


def test_inputs_that_go_by_place_only(tmp_path: Path) -> None:
    model = serve(tmp_path, ByPlace())
    assert numbers(model, a=1) == 1 and numbers(model, whatever=1) == 1
    assert numbers(model, b=2, a=1) == 21 and numbers(model, c=3, a=1) == 301 and numbers(model, c=3, b=2, a=1) == 321
    assert "inputs are missing: 'a'" in refusal(model, b=X, c=X)


def test_named_inputs_beside_any_number_of_others(tmp_path: Path) -> None:
    model = serve(tmp_path, More())
    assert numbers(model, rest=1, x=10) == numbers(model, x=10, rest=1) == 9
    assert numbers(model, p=1, x=10, q=2) == 5
    assert numbers(model, one=10, two=1) == 9 and numbers(model, x=10) == 10
    assert numbers(model, scale=2, p=1, x=10) == 18
    assert "inputs are missing: 'x'" in refusal(model, scale=X, p=X)


# -- odd tensors ------------------------------------------------------------------------------------------------------


class Odd(torch.nn.Module):
    """Real numbers that are stored in another way."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return {
            "negative": lambda: torch.complex(x, x).conj().imag,
            "sparse": x.to_sparse,
            "nested": lambda: torch.nested.as_nested_tensor(list(x), layout=torch.jagged),
        }[self.form]()


def test_a_tensor_with_the_negative_bit_is_sent(tmp_path: Path) -> None:
    assert np.array_equal(ask(serve(tmp_path, Odd("negative")), x=X)["output"], -X)
    (tmp_path / "model.pt").unlink()
    nets.export(Odd("negative"), tmp_path / "model.pt2", (torch.ones(2, 4),), {"x": {0: nets.BATCH}})
    assert np.array_equal(ask(load(tmp_path), x=X)["output"], -X)


@pytest.mark.parametrize("form", ["sparse", "nested"])
def test_tensors_without_an_array_are_told(tmp_path: Path, form: str) -> None:
    with pytest.raises(ModelError, match=r"output 'output' is .*which the protocol lacks; see to_dense\(\)"):
        ask(serve(tmp_path, Odd(form)), x=X)
