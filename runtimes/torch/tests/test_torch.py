"""The PyTorch runtime: inputs by name and place, outputs, types, errors; its answers are PyTorch's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlserve.codecs import StringCodec
from mlserve.errors import MLServeError, ModelError
from mlserve.tensors import TensorData
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest, MetadataTensor, RequestInput
from mlserve_torch import TorchModel
from runtimes.torch.tests import nets
from tests.runtime_trial import Trial, arrays, named_request, refusal_of, response_of, served

TRIAL = Trial(TorchModel)

X = np.random.default_rng(0).random((6, 4), "f4")
CLASS = {"class": "runtimes.torch.tests.nets.Linear"}
FORMS = {"exported": {}, "script": {}, "traced": {}, "weights": CLASS, "checkpoint": CLASS, "legacy": CLASS}


def load(folder: Path, extra: dict[str, Any] | None = None) -> Any:
    return TRIAL.load(folder, extra=extra or {})


def serve(folder: Path, module: Any) -> Any:
    """A module as it is, read from a pickle."""
    torch.save(module, folder / "model.pt")
    return load(folder, {"allow_pickle": True})


def ask(model: TorchModel, *outputs: str, **tensors: Any) -> dict[str, Any]:
    return arrays(response_of(model, named_request(outputs, **tensors)))


def refusal(model: TorchModel, *outputs: str, **tensors: Any) -> str:
    return refusal_of(model, named_request(outputs, **tensors))


def own(module: Any, *args: Any) -> Any:
    """PyTorch's own answer."""
    with torch.inference_mode():
        return module(*(torch.from_numpy(one) for one in args))


@pytest.mark.parametrize("form", FORMS)
def test_each_form_passes_the_conformance_suite_and_answers_bit_for_bit(tmp_path: Path, form: str) -> None:
    module = nets.save(nets.made(nets.Linear), tmp_path / "model.pt", form)
    wanted = {"output": own(module, X).numpy()}
    (answer,) = check_runtime(
        TRIAL.settings(tmp_path, extra=FORMS[form]), named_request(x=X), expected=wanted, batches=True
    )
    assert (answer.outputs[0].datatype, answer.outputs[0].shape) == ("FP32", [6, 3])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(tmp_path: Path, workers: int) -> None:
    module = nets.made(nets.Linear, 1000, 500)
    torch.save(module.state_dict(), tmp_path / "model.pt")
    (tmp_path / "net.py").write_text(Path(nets.__file__).read_text())
    extra = {"class": "net.Linear", "init": {"inputs": 1000, "outputs": 500}, "threads": 1}
    x = np.random.default_rng(0).random((20, 1000), "f4")  # 80 kB: over shared memory
    settings = {"implementation": "torch", "parameters": {"extra": extra}}
    found = served(tmp_path, settings, {"x": x}, ["output"], workers)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = own(module, x).numpy()
    torch.set_num_threads(threads)
    for transport, answer in found.items():
        assert np.array_equal(answer["output"], wanted), transport


# -- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["script", "exported", "module"])
def test_inputs_go_by_name(tmp_path: Path, form: str) -> None:
    module = nets.made(nets.Embedding)
    ids, mask = np.array([[1, 2, 3], [0, 0, 4]]), np.float32([[1, 1, 0], [1, 0, 0]])
    if form == "exported":
        args = (torch.ones(2, 3, dtype=torch.int64),)
        shapes = {"ids": {0: nets.BATCH}, "mask": {0: nets.BATCH}}
        nets.export(module, tmp_path / "model.pt2", args, shapes, mask=torch.ones(2, 3))
    else:
        nets.save(module, tmp_path / "model.pt", form)
    model = load(tmp_path, {"allow_pickle": form == "module"})
    wanted = own(module, ids, mask)
    for outputs in (ask(model, mask=mask, ids=ids), ask(model, "sums", "vectors", ids=ids, mask=mask)):
        assert np.array_equal(outputs["vectors"], wanted["vectors"]) and np.array_equal(outputs["sums"], wanted["sums"])
    assert list(ask(model, "sums", mask=mask, ids=ids)) == ["sums"]
    if form != "exported":  # there, None is no input
        assert np.array_equal(ask(model, ids=ids)["sums"], own(module, ids)["sums"])
    assert "inputs are missing: 'ids'" in refusal(model, mask=mask, more=mask)
    assert "has no input 'more': it takes 'ids', 'mask'" in refusal(model, ids=ids, mask=mask, more=mask)
    assert "has no output 'nothing': it has 'vectors', 'sums'" in refusal(model, "nothing", ids=ids, mask=mask)


def test_inputs_of_other_names_go_by_place(tmp_path: Path) -> None:
    model = serve(tmp_path, nets.Minus())
    assert ask(model, first=X, second=X[::-1].copy())["output"].tolist() == (X - X[::-1]).tolist()
    assert ask(model, b=X, a=2 * X)["output"].tolist() == X.tolist()
    assert "inputs are missing: 'a', 'b'" in refusal(model, one=X, two=X, three=X)
    assert np.array_equal(ask(serve(tmp_path, nets.Any_()), p=X, q=X, r=X)["output"], X + X + X)


@pytest.mark.parametrize("form", ["exported", "weights"])
def test_floats_take_the_type_of_the_model(tmp_path: Path, form: str) -> None:
    module = nets.save(nets.made(nets.Linear), tmp_path / "model.pt", form)
    for x in (X.astype("f8"), X.astype("f2")):
        wanted = own(module, x.astype("f4")).numpy()
        assert np.array_equal(ask(load(tmp_path, FORMS[form]), x=x)["output"], wanted)


@pytest.mark.parametrize("form", ["exported", "weights"])
def test_what_the_type_of_the_model_cannot_hold_is_refused(tmp_path: Path, form: str) -> None:
    nets.save(nets.made(nets.Linear), tmp_path / "model.pt", form)
    model = load(tmp_path, FORMS[form])
    x = X.astype("f8")
    x[2, 1] = -1e300
    assert "-1e+300 is " in refusal(model, x=x)
    x[2, 1] = np.inf
    assert np.isfinite(ask(model, x=x)["output"][0]).all()


@pytest.mark.parametrize("form", ["exported", "weights"])
def test_what_bfloat16_cannot_hold_is_refused(tmp_path: Path, form: str) -> None:
    module = nets.made(nets.Linear)
    if form == "exported":
        program = torch.export.export(module.bfloat16(), (torch.ones(1, 4, dtype=torch.bfloat16),))
        with (tmp_path / "model.pt2").open("wb") as file:
            torch.export.save(program, file)
        model = load(tmp_path)
    else:
        nets.save(module, tmp_path / "model.pt", form)
        model = load(tmp_path, {**CLASS, "dtype": "bfloat16"})
    assert "is beyond torch.bfloat16" in refusal(model, x=np.full((1, 4), 3.4e38, "f4"))
    assert ask(model, x=np.ones((1, 4), "f4"))["output"].shape == (1, 3)


def test_texts_reach_a_module_as_a_list(tmp_path: Path) -> None:
    nets.save(nets.Texts(), tmp_path / "model.pt", "script")
    request = InferenceRequest(inputs=[StringCodec.encode_input("words", ["a", "words"])])
    assert arrays(response_of(load(tmp_path), request))["output"].tolist() == [[1], [5]]
    nets.save(nets.made(nets.Linear), tmp_path / "model.pt", "exported")
    with pytest.raises(MLServeError, match="input 'x' takes FP32, got text"):
        response_of(load(tmp_path), request)


def test_an_input_is_the_models_own_and_an_answer_is_not_copied(tmp_path: Path) -> None:
    model = serve(tmp_path, nets.made(nets.Linear))
    memory = bytearray(X.tobytes())
    seen: list[Any] = []
    model._call = lambda x: seen.append(x) or x.mul_(2)
    data = TensorData.from_raw(memory, "FP32", [6, 4])
    request = InferenceRequest(inputs=[RequestInput(name="x", datatype="FP32", shape=[6, 4], data=data)])
    response = response_of(model, request)
    assert memory == X.tobytes()
    assert np.array_equal(response.outputs[0].data.payload, X * 2)
    assert np.shares_memory(response.outputs[0].data.payload, seen[0].numpy())


@pytest.mark.parametrize("form", ["exported", "script", "weights"])
def test_shapes_that_do_not_fit_are_told_in_a_line(tmp_path: Path, form: str) -> None:
    nets.save(nets.made(nets.Linear), tmp_path / "model.pt", form)
    told = refusal(load(tmp_path, FORMS[form]), x=np.ones((2, 3), "f4"))
    words = "shape [2, 3], the model takes [-1, 4]" if form == "exported" else "cannot be multiplied (2x3 and 4x3)"
    assert words in told and "\n" not in told and "Traceback" not in told


def test_what_the_model_cannot_look_up_is_the_clients_fault(tmp_path: Path) -> None:
    model = serve(tmp_path, nets.made(nets.Embedding))
    assert "cannot use this input: index out of range in self" in refusal(model, ids=np.array([[9]]))
    assert "cannot use this input: Expected tensor for argument" in refusal(model, ids=np.array([[1.0]]))


class Broken(torch.nn.Module):
    """A mistake of its author."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("a mistake")


def test_a_mistake_in_the_module_is_not(tmp_path: Path) -> None:
    model = serve(tmp_path, nets.made(nets.Linear))
    model._call = Broken()
    with pytest.raises(KeyError, match="a mistake"):
        ask(model, x=X)


# -- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "names"),
    [("tuple", ["output_0", "output_2"]), ("named", ["small", "large"]), ("half", ["output"]), ("scalar", ["output"])],
)
def test_outputs_have_the_names_that_the_answer_gives_them(tmp_path: Path, form: str, names: list[str]) -> None:
    torch.save(nets.Shaped(form), tmp_path / "model.pt")
    (answer,) = check_runtime(TRIAL.settings(tmp_path, extra={"allow_pickle": True}), named_request(x=X))
    assert [one.name for one in answer.outputs] == names
    assert all(one.datatype == "FP32" for one in answer.outputs)
    assert answer.outputs[0].shape == ([] if form == "scalar" else [6, 4])


def test_names_of_the_settings_win(tmp_path: Path) -> None:
    model = serve(tmp_path, nets.Shaped("tuple"))
    model.outputs = [MetadataTensor(name=name, datatype="FP32", shape=[-1, 4]) for name in ("first", "second")]
    assert list(ask(model, x=X)) == ["first", "second"]
    assert list(ask(model, "second", x=X)) == ["second"]


def test_an_answer_that_cannot_be_sent_is_the_models_fault(tmp_path: Path) -> None:
    for form, words in (("complex", "is of torch.complex64"), ("object", "is a object; tensors can be sent")):
        with pytest.raises(ModelError, match=words):
            ask(serve(tmp_path, nets.Shaped(form)), x=X)
