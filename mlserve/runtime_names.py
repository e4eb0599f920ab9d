"""Which runtimes there are: their short names, MLServer's names for them, their packages, and the artifacts they serve.

Also what to say when an implementation cannot be imported.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["RUNTIMES", "Runtime", "explain_import_error", "place_of", "resolve_implementation", "runtime_of_artifact"]


class Runtime(NamedTuple):
    """One runtime package of ours."""

    short: str  # "alibi-detect"
    class_name: str
    extra: str = ""  # of the package, without which the framework itself is not installed

    @property
    def module(self) -> str:
        """The import package, such as mlserve_alibi_detect."""
        return f"mlserve_{self.short.replace('-', '_')}"

    @property
    def old_module(self) -> str:
        """What MLServer calls it."""
        return f"mlserver_{self.short.replace('-', '_')}"

    @property
    def package(self) -> str:
        """What pip installs, as a shell takes it."""
        return f"'mlserve-{self.short}[{self.extra}]'" if self.extra else f"mlserve-{self.short}"

    @property
    def implementation(self) -> str:
        """The import path that a model's settings give."""
        return f"{self.module}.{self.class_name}"


RUNTIMES: dict[str, Runtime] = {
    short: Runtime(short, class_name, *extra)
    for short, class_name, *extra in (
        ("sklearn", "SKLearnModel"),
        ("xgboost", "XGBoostModel", "cpu"),
        ("lightgbm", "LightGBMModel"),
        ("catboost", "CatboostModel"),
        ("mlflow", "MLflowRuntime"),
        ("mllib", "MLlibModel"),
        ("alibi-detect", "AlibiDetectRuntime"),
        ("alibi-explain", "AlibiExplainRuntime"),
        ("huggingface", "HuggingFaceRuntime"),
        ("onnx", "OnnxModel", "cpu"),
        ("torch", "TorchModel"),
    )
}
_BY_MODULE = {name: runtime for runtime in RUNTIMES.values() for name in (runtime.module, runtime.old_module)}
_BY_SUFFIX = {
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".skops": "sklearn",
    ".ubj": "xgboost",
    ".cbm": "catboost",
    ".onnx": "onnx",
    ".pt": "torch",
    ".pth": "torch",
    ".pt2": "torch",
}
_DISTRIBUTIONS = {  # where pip's name is not the import's
    "PIL": "pillow",
    "alibi_detect": "alibi-detect",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


def resolve_implementation(name: str) -> str:
    """Our import path for a short name or for one of MLServer's runtimes; any other name as it is."""
    runtime = RUNTIMES.get(name.strip().lower().replace("_", "-"))
    if runtime is not None:
        return runtime.implementation
    module, _, rest = name.partition(".")
    runtime = _BY_MODULE.get(module)
    if runtime is None:
        return name
    return runtime.implementation if rest.rpartition(".")[2] == runtime.class_name else f"{runtime.module}.{rest}"


def runtime_of_artifact(path: Path) -> Runtime | None:
    """The runtime that serves a saved model, by its kind; None where that cannot be told.

    Looks at names first; at the first bytes where several frameworks share an extension.
    """
    short = _kind_of_folder(path) if path.is_dir() else _BY_SUFFIX.get(path.suffix.lower()) or _kind_by_content(path)
    return RUNTIMES[short] if short else None


def _kind_by_content(path: Path) -> str | None:
    if path.suffix.lower() not in (".json", ".bst", ".txt", ".model"):
        return None
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    if head.startswith(b"tree\n") and path.suffix != ".json":
        return "lightgbm"
    if b'"learner"' in head[:512] or b"learner" in head[:64] or path.suffix == ".bst":
        return "xgboost"
    return "catboost" if any(key in head for key in (b'"features_info"', b'"oblivious_trees"')) else None


def _kind_of_folder(folder: Path) -> str | None:
    if (folder / "MLmodel").is_file():
        return "mlflow"
    if (folder / "metadata").is_dir() and ((folder / "stages").is_dir() or (folder / "data").is_dir()):
        return "mllib"
    if (folder / "explainer.dill").is_file():
        return "alibi-explain"
    if (folder / "meta.dill").is_file() or ((folder / "config.toml").is_file() and any(folder.glob("*ref*.npy"))):
        return "alibi-detect"
    weights = ("*.safetensors", "pytorch_model*.bin", "*.onnx")
    if (folder / "config.json").is_file() and any(True for kind in weights for _ in folder.glob(kind)):
        return "huggingface"
    return None


def explain_import_error(implementation: str, folder: Path | None, error: BaseException) -> str:
    """Why an implementation could not be imported, and what helps: which package to install, which name was meant."""
    name = resolve_implementation(implementation)
    start = f"cannot import '{implementation}'"
    if isinstance(error, ModuleNotFoundError):
        return f"{start}: {_missing_module(name, folder, error)}"
    if isinstance(error, AttributeError):
        return f"{start}: {_missing_class(name, error)}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{start}: {error.filename}, line {error.lineno}: {error.msg}"
    text = str(error).strip()
    return f"{start}: {type(error).__name__}{f': {text}' if text else ''}{place_of(error)}"


def _missing_module(name: str, folder: Path | None, error: ModuleNotFoundError) -> str:
    missing = error.name or name
    top = missing.partition(".")[0]
    runtime = _BY_MODULE.get(top)
    if runtime is not None and top not in sys.modules:
        return f"the runtime is not installed: pip install {runtime.package}"
    if name == top and "." not in name:
        return f"no runtime has that short name{_meant(name, RUNTIMES)}; known are {', '.join(RUNTIMES)}"
    module, _, _ = name.rpartition(".")
    if not (module == missing or module.startswith(f"{missing}.")):
        if top in sys.modules and top != missing:
            return f"it needs the module '{missing}', which the package '{top}' does not have{_named_anew(top)}"
        package = _DISTRIBUTIONS.get(top, top)
        return f"it needs the Python package '{top}', which is not installed: pip install {package}"
    files = _python_files(folder)
    beside = f" nor in {folder}" if folder is not None else ""
    known = (*files, *(runtime.module for runtime in RUNTIMES.values()))
    return f"there is no module '{missing}' among the installed packages{beside}{_meant(missing, known)}"


def _named_anew(package: str) -> str:
    """Where to look for what stands behind a package that is ours under MLServer's name."""
    name = sys.modules[package].__name__
    return f"; '{package}' is {name} here, see docs/migrating.md" if name != package else ""


def _missing_class(name: str, error: AttributeError) -> str:
    module_name, _, class_name = name.rpartition(".")
    module = sys.modules.get(module_name)
    if module is None or getattr(error, "name", class_name) != class_name or hasattr(module, class_name):
        return f"{type(error).__name__}: {error}{place_of(error)}"  # from within the module's own code
    classes = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
    own = [key for key in classes if getattr(module, key).__module__ == module_name]
    meant = _meant(class_name, classes) or (f"; it has {', '.join(sorted(own)[:8])}" if own else "")
    return f"module '{module_name}' ({getattr(module, '__file__', None) or 'no file'}) has no '{class_name}'{meant}"


def _meant(name: str, known: Iterable[str]) -> str:
    lower = {key.lower(): key for key in known}
    found = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(lower[key] for key in found)}?" if found else ""


def _python_files(folder: Path | None) -> tuple[str, ...]:
    if folder is None or not folder.is_dir():
        return ()
    return tuple(sorted(path.stem for path in folder.glob("*.py")))


def place_of(error: BaseException) -> str:
    """The last file and line of an error that code outside mlserve raised."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and Path(file).parent != Path(__file__).parent:
            place = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place
