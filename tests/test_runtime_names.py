"""Names of runtimes, kinds of saved models, and what is said when an implementation cannot be imported."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mlserve import compat
from mlserve.runtime_names import RUNTIMES, explain_import_error, resolve_implementation, runtime_of_artifact


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("sklearn", "mlserve_sklearn.SKLearnModel"),
        ("Alibi_Detect", "mlserve_alibi_detect.AlibiDetectRuntime"),
        ("mlserver_sklearn.SKLearnModel", "mlserve_sklearn.SKLearnModel"),
        ("mlserver_mlflow.runtime.MLflowRuntime", "mlserve_mlflow.MLflowRuntime"),
        ("mlserver_xgboost.other.Thing", "mlserve_xgboost.other.Thing"),
        ("mlserve_torch.TorchModel", "mlserve_torch.TorchModel"),
        ("models.Mine", "models.Mine"),
        ("mlserver_own.Mine", "mlserver_own.Mine"),
    ],
)
def test_short_names_and_mlservers_paths_become_ours(name: str, resolved: str) -> None:
    assert resolve_implementation(name) == resolved


def test_names_of_packages_follow_one_rule() -> None:
    runtime = RUNTIMES["alibi-detect"]
    assert (runtime.module, runtime.package) == ("mlserve_alibi_detect", "mlserve-alibi-detect")


@pytest.mark.parametrize(
    ("name", "content", "short"),
    [
        ("m.joblib", b"", "sklearn"),
        ("m.PKL", b"", "sklearn"),
        ("m.skops", b"", "sklearn"),
        ("m.ubj", b"", "xgboost"),
        ("m.json", b'{"learner":{"attributes":{}}}', "xgboost"),
        ("m.json", b'{"features_info":{}}', "catboost"),
        ("m.json", b'{"a": 1}', None),
        ("m.bst", b"tree\nversion=v4\n", "lightgbm"),
        ("m.bst", b"{L\x00\x07learner", "xgboost"),
        ("m.txt", b"tree\nversion=v4\n", "lightgbm"),
        ("m.txt", b"hello", None),
        ("m.cbm", b"CBM1", "catboost"),
        ("m.onnx", b"", "onnx"),
        ("m.pt2", b"", "torch"),
        ("m.csv", b"", None),
    ],
)
def test_the_kind_of_a_file_says_its_runtime(tmp_path: Path, name: str, content: bytes, short: str | None) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    runtime = runtime_of_artifact(path)
    assert (runtime.short if runtime else None) == short


@pytest.mark.parametrize(
    ("files", "short"),
    [
        (["MLmodel", "model.pkl"], "mlflow"),
        (["metadata/part-0", "stages/0_x/metadata/part-0"], "mllib"),
        (["config.json", "model.safetensors"], "huggingface"),
        (["config.json", "decoder_model.onnx"], "huggingface"),
        (["config.json"], None),
        (["explainer.dill", "meta.dill"], "alibi-explain"),
        (["KSDrift.dill", "meta.dill"], "alibi-detect"),
        (["config.toml", "x_ref.npy"], "alibi-detect"),
        ([], None),
    ],
)
def test_the_files_of_a_folder_say_its_runtime(tmp_path: Path, files: list[str], short: str | None) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    runtime = runtime_of_artifact(tmp_path)
    assert (runtime.short if runtime else None) == short


def test_what_is_not_there_has_no_kind(tmp_path: Path) -> None:
    assert runtime_of_artifact(tmp_path / "m.json") is None


# -- failed imports -------------------------------------------------------------------------------------------------


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an implementation from files in a folder as the loader does, and explains how that fails."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def attempt(implementation: str, **files: str) -> str:
        for stem, text in files.items():
            (tmp_path / f"{stem}.py").write_text(text)
        importlib.invalidate_caches()
        module, _, name = resolve_implementation(implementation).rpartition(".")
        try:
            getattr(importlib.import_module(module), name)
        except Exception as error:
            return explain_import_error(implementation, tmp_path, error)
        raise AssertionError("the import worked")

    yield attempt
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_a_runtime_that_is_not_installed_names_its_package(explain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlserve_catboost", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "mlserve_catboost")
    error = ModuleNotFoundError("No module named 'mlserve_catboost'", name="mlserve_catboost")
    for name in ("catboost", "mlserver_catboost.CatboostModel"):
        text = explain_import_error(name, None, error)
        assert text == f"cannot import '{name}': the runtime is not installed: pip install mlserve-catboost"


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=lambda one: one.short)
def test_the_package_that_is_named_is_all_that_a_runtime_needs(runtime: Any) -> None:
    """The extra of a runtime that has its framework by one: the message would lead to another failure without it."""
    project = (Path(__file__).parents[1] / "runtimes" / runtime.short / "pyproject.toml").read_text()
    assert (runtime.extra != "") == bool(re.search(r"^cpu = ", project, re.MULTILINE))
    assert runtime.package == (f"'mlserve-{runtime.short}[cpu]'" if runtime.extra else f"mlserve-{runtime.short}")


def test_an_unknown_short_name_lists_the_known_ones() -> None:
    error = ModuleNotFoundError("no such runtime", name="sklern")
    text = explain_import_error("sklern", None, error)
    assert "no runtime has that short name; did you mean sklearn?" in text and "huggingface" in text


def test_a_module_that_is_nowhere_names_near_files(explain: Any, tmp_path: Path) -> None:
    text = explain("modells_x.Mine", models_x="class Mine: ...")
    assert f"no module 'modells_x' among the installed packages nor in {tmp_path}" in text
    assert "did you mean models_x?" in text


def test_a_missing_package_of_a_models_own_code_is_named_as_pip_knows_it(explain: Any) -> None:
    text = explain("needs_x.Mine", needs_x="import not_there_at_all")
    assert "it needs the Python package 'not_there_at_all'" in text and "pip install not_there_at_all" in text
    error = ModuleNotFoundError("No module named 'cv2'", name="cv2")
    assert "pip install opencv-python-headless" in explain_import_error("models.Mine", None, error)


def test_a_missing_module_of_a_package_that_is_there_is_not_called_a_missing_package(explain: Any) -> None:
    text = explain("below_x.Mine", below_x="import email.no_such_part")
    assert text == (
        "cannot import 'below_x.Mine': it needs the module 'email.no_such_part', which the package 'email' does not have"
    )
    compat.install()
    try:
        text = explain("old_x.Mine", old_x="from mlserver_sklearn.no_such_part import SKLearnModel")
    finally:
        compat.uninstall()
    assert text.endswith("does not have; 'mlserver_sklearn' is mlserve_sklearn here, see docs/migrating.md")
    assert "it needs the module 'mlserver_sklearn.no_such_part'" in text and "pip install" not in text


def test_a_missing_class_names_near_ones(explain: Any, tmp_path: Path) -> None:
    text = explain("classes_x.MyModl", classes_x="class MyModel: ...\nclass Other: ...\n")
    assert f"module 'classes_x' ({tmp_path / 'classes_x.py'}) has no 'MyModl'; did you mean MyModel?" in text
    assert "has no 'Zebra'; it has MyModel, Other" in explain("classes_x.Zebra")


def test_a_syntax_error_names_file_and_line(explain: Any, tmp_path: Path) -> None:
    assert f"{tmp_path / 'syntax_x.py'}, line 2: " in explain("syntax_x.Mine", syntax_x="x = 1\ndef (:\n")


def test_an_error_of_the_modules_own_code_names_its_line(explain: Any, tmp_path: Path) -> None:
    text = explain("raises_x.Mine", raises_x="\n\nraise RuntimeError('no weights')\n")
    assert text == f"cannot import 'raises_x.Mine': RuntimeError: no weights ({tmp_path / 'raises_x.py'}, line 3)"
    text = explain("attribute_x.Mine", attribute_x="import os\nos.no_such_thing\n")
    assert "AttributeError" in text and "no_such_thing" in text and "line 2" in text


def test_a_name_without_a_module_is_explained() -> None:
    assert "ValueError" in explain_import_error(".Mine", None, ValueError("Empty module name"))
