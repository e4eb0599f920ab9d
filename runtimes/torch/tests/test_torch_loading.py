"""How the PyTorch runtime reads files: what is wrong with one, code that it will not run, device, types, compiling."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch

from mlserve import ModelSettings
from mlserve.errors import InvalidModelURI, ModelLoadError
from mlserve_torch import TorchModel
from runtimes.torch.tests import nets
from runtimes.torch.tests.test_torch import CLASS, X, ask, load, own

LINEAR = CLASS["class"]


def refusal(folder: Path, extra: dict[str, Any] | None = None) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder, extra)
    assert "model 'm'" in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def saved(form: str) -> bytes:
    path = Path(anyio.run(anyio.mkdtemp)) / "model.pt"
    nets.save(nets.made(nets.Linear), path, form)
    return path.read_bytes()


WEIGHTS, SCRIPT = saved("weights"), saved("script")


@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "model.pth", "model.ts"])
@pytest.mark.parametrize("form", ["exported", "script"])
def test_the_content_tells_the_form_whatever_the_name(tmp_path: Path, name: str, form: str) -> None:
    module = nets.save(nets.made(nets.Linear), tmp_path / name, form)
    assert np.array_equal(ask(load(tmp_path), x=X)["output"], own(module, X))


def test_a_missing_file_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match=r"none of model\.pt2, model\.pt, model\.pth, model\.ts"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"tree\nversion=v4\n", "a LightGBM model: its runtime is 'lightgbm'"),
        (b"just text", "what torch.save() and torch.export.save() write is a zip file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x80\x04just bytes", "it cannot be read"),
        (b"PK\x03\x04just bytes", "the file is damaged or cut short"),
        (WEIGHTS[: len(WEIGHTS) // 2], "the file is damaged or cut short"),
        (SCRIPT[:-40], "the file is damaged or cut short"),
    ],
    ids=lambda one: str(one[:24]),
)
def test_a_file_that_cannot_be_served_is_told_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert words in refusal(tmp_path, {"class": LINEAR})


def test_files_that_hold_something_else_are_told(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "a zip archive, but none of PyTorch" in refusal(tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("m/data/aotinductor/model/x.so", "")
    assert "machine code of AOTInductor" in refusal(tmp_path)
    torch.save([1, 2], tmp_path / "model.pt")
    assert "an object of type list, neither module nor weights" in refusal(tmp_path)


# -- weights and classes ----------------------------------------------------------------------------------------------


class Evil:
    """Runs something when it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("was-run"),)


def test_code_in_a_file_is_not_run_unless_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Evil()}, tmp_path / "model.pt")
    told = refusal(tmp_path)
    assert "reading that would run code" in told and "extra.allow_pickle to true" in told
    assert not (tmp_path / "was-run").exists()
    module = nets.save(nets.made(nets.Linear), tmp_path / "model.pt", "module")
    assert "nets.Linear" in refusal(tmp_path)
    assert np.array_equal(ask(load(tmp_path, {"allow_pickle": True}), x=X)["output"], own(module, X))


def test_weights_need_a_class_that_fits_them(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(WEIGHTS)
    told = refusal(tmp_path)
    assert "it holds weights only (layer.weight, layer.bias)" in told and "parameters.extra.class" in told
    for extra, words in (
        ({"class": "Linear"}, 'a module and a class, such as "net.Net"'),
        ({"class": "no_such.Net"}, "cannot import 'no_such.Net': No module named 'no_such'"),
        ({"class": "json.JSONDecoder"}, "a subclass of torch.nn.Module"),
        ({"class": LINEAR, "init": {"size": 3}}, "parameters.extra.init does not fit"),
        ({"class": LINEAR, "init": {"outputs": 5}}, "its weights do not fit"),
        ({"class": LINEAR, "init": [3]}, "extra.init: expected an object"),
    ):
        assert words in refusal(tmp_path, extra)


# -- where and how it runs --------------------------------------------------------------------------------------------


def test_the_metadata_of_a_program_is_its_own(tmp_path: Path) -> None:
    nets.save(nets.made(nets.Linear), tmp_path / "model.pt2", "exported")
    described = anyio.run(load(tmp_path).metadata).model_dump()
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert described["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 3]}]
    (tmp_path / "model.pt2").unlink()
    (tmp_path / "model.pt").write_bytes(SCRIPT)
    assert anyio.run(load(tmp_path).metadata).model_dump()["inputs"] == []


def test_the_type_of_a_module_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(WEIGHTS)
    model = load(tmp_path, {"class": LINEAR, "dtype": "float64"})
    wanted = own(nets.made(nets.Linear).double(), X.astype("f8")).numpy()
    assert np.array_equal(ask(model, x=X)["output"], wanted)
    assert wanted.dtype == ask(model, x=X)["output"].dtype == np.float64
    half = ask(load(tmp_path, {"class": LINEAR, "dtype": "bfloat16"}), x=X)["output"]
    assert half.dtype == np.float32 and np.allclose(half, wanted, atol=0.05)
    assert "expected one of float16, bfloat16, float32, float64" in refusal(tmp_path, {"class": LINEAR, "dtype": "x"})


def test_a_program_keeps_its_type(tmp_path: Path) -> None:
    nets.save(nets.made(nets.Linear), tmp_path / "model.pt2", "exported")
    assert "an exported program has its own" in refusal(tmp_path, {"dtype": "float64"})


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(SCRIPT)
    assert "'cuda:77' cannot be used" in refusal(tmp_path, {"device": "cuda:77"})
    assert "'gpu' cannot be used" in refusal(tmp_path, {"device": "gpu"})
    settings = ModelSettings(
        name="m", implementation=TorchModel, devices=[0], parameters={"uri": str(tmp_path / "model.pt")}
    )
    model = TorchModel(settings)
    assert anyio.run(model.load)
    assert model._device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("form", ["exported", "weights"])
def test_a_module_can_be_compiled(tmp_path: Path, form: str) -> None:
    module = nets.save(nets.made(nets.Linear), tmp_path / "model.pt", form)
    extra = {**({} if form == "exported" else CLASS), "compile": {"backend": "aot_eager", "dynamic": True}}
    model = load(tmp_path, extra)
    for rows in (1, 6, 3):
        assert np.array_equal(ask(model, x=X[:rows])["output"], own(module, X[:rows]))
    assert "extra.compile: expected true, false, or an object" in refusal(tmp_path, {**extra, "compile": "yes"})
    assert "parameters.extra.compile:" in refusal(tmp_path, {**extra, "compile": {"fast": True}})
    assert "parameters.extra.compile:" in refusal(tmp_path, {**extra, "compile": {"backend": "no such"}})


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # out of PyTorch's own code
def test_torchscript_is_compiled_already(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(SCRIPT)
    assert "parameters.extra.compile: torch.compile does not support" in refusal(tmp_path, {"compile": True})


def test_each_model_computes_with_its_own_number_of_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    (tmp_path / "model.pt").write_bytes(SCRIPT)
    seen: list[int] = []

    def watch(x: Any) -> Any:
        seen.append(torch.get_num_threads())
        return x

    models = [load(tmp_path, {"threads": 1}), load(tmp_path, {"threads": 2}), load(tmp_path)]
    try:
        for model in models:
            model._call = lambda x, **_: watch(x)
            ask(model, x=X)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, before]


def test_the_short_name_leads_to_the_class() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="torch")
    assert entry.load() is TorchModel
