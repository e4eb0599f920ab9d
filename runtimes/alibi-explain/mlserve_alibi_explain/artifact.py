"""Makes explainers: from the folder that one was saved in, or from the arguments of its class; says why it cannot."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mlserve.errors import ModelLoadError
from mlserve_alibi_explain.kinds import Kind

__all__ = ["Maker", "quieten"]

_logger = logging.getLogger("mlserve.model")
_FILES = ("meta.dill", "explainer.dill")


def quieten() -> None:
    """Keeps progress bars and messages of each load out of the log, unless somebody has asked for them."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("alibi", "shap"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


class Maker:
    """Makes one model's explainer, given the model to explain."""

    def __init__(self, name: str, kind: Kind, folder: Path | None, arguments: dict[str, Any]) -> None:
        self._name = name
        self._kind = kind
        self._folder = folder  # None: from the arguments
        self._arguments = arguments

    def check(self) -> None:
        """Makes it with a model that is not there yet: finds what is wrong without asking a server that may not serve
        before this model is loaded. ModelLoadError."""
        absent = _Absent()
        try:
            with redirect_stdout(io.StringIO()):  # shap prints what it thinks of such a model
                self.make(absent)
        except ModelLoadError:
            if not absent.was_asked:
                raise

    def make(self, predictor: Callable[..., Any]) -> Any:
        """The explainer, which may ask the model meanwhile. ModelLoadError."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its libraries about each other
            try:
                return self._build(predictor) if self._folder is None else self._read(self._folder, predictor)
            except ModelLoadError:
                raise
            except Exception as error:
                raise ModelLoadError(f"model '{self._name}': {self._why(error)}") from error

    def _build(self, predictor: Callable[..., Any]) -> Any:
        from alibi import explainers

        kind = self._kind
        if kind.needs_fit:
            raise ModelLoadError(
                f"model '{self._name}': {kind.class_name} must be fitted to data, which parameters.extra."
                f"init_parameters cannot do: fit and save one, and name its folder in parameters.uri"
            )
        explainer = getattr(explainers, kind.class_name)(predictor, **_with_language(self._arguments))
        if kind.class_name == "TreeShap":
            explainer.fit()  # without background data
        return explainer

    def _read(self, folder: Path, predictor: Callable[..., Any]) -> Any:
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise ModelLoadError(
                f"model '{self._name}': {folder} holds no explainer: it has no {missing[0]}. Name the folder that an "
                f"explainer's save() wrote in parameters.uri, or give parameters.extra.init_parameters"
            )
        self._check_saved(folder)
        from alibi.saving import load_explainer

        return load_explainer(folder, predictor)

    def _check_saved(self, folder: Path) -> None:
        import alibi
        import dill

        with (folder / "meta.dill").open("rb") as file:
            meta = dill.load(file)
        saved, version = meta.get("name"), meta.get("version")
        if saved != self._kind.class_name:
            raise ModelLoadError(
                f"model '{self._name}': {folder} holds a {saved}, but parameters.extra.explainer_type is "
                f"'{self._kind.name}', which is {self._kind.class_name}"
            )
        if version != alibi.__version__:
            _logger.warning(
                "model '%s': its explainer was saved by alibi %s, and alibi %s is installed: save it again if it fails",
                *(self._name, version, alibi.__version__),
            )

    def _why(self, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            return f"{text}. It needs that package: pip install 'alibi[shap]' for SHAP, tensorflow for gradients"
        if self._folder is None:
            return f"parameters.extra.init_parameters: {self._kind.class_name} cannot be made: {text}"
        return (
            f"the explainer in {self._folder} cannot be loaded: {text}. It was probably saved by another version of "
            f"alibi or Python, or is not whole: save it again"
        )


class _Absent:
    """Stands for a model that cannot be asked yet."""

    was_asked = False

    def __call__(self, *batch: Any) -> Any:
        self.was_asked = True
        raise RuntimeError("the model to explain is not asked before the first request")


def _with_language(arguments: dict[str, Any]) -> dict[str, Any]:
    """AnchorText takes a spaCy pipeline, which settings name: an installed one, a folder, or a language ("en")."""
    nlp = arguments.get("nlp")
    if not isinstance(nlp, str):
        return arguments
    import spacy

    is_saved = spacy.util.is_package(nlp) or Path(nlp).is_dir()
    return {**arguments, "nlp": spacy.load(nlp) if is_saved else spacy.blank(nlp)}
