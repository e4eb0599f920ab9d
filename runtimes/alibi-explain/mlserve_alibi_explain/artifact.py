"""Makes explainers: from the folder that one was saved in, or from the arguments of its class; says why it cannot."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from mlserve.artifacts import warnings_told
from mlserve.errors import ModelLoadError
from mlserve_alibi_explain.graph import Graph
from mlserve_alibi_explain.kinds import Kind
from mlserve_alibi_explain.rules import by_number

__all__ = ["Maker", "quieten", "untouched"]

_logger = logging.getLogger("mlserve.model")
_FILES = ("meta.dill", "explainer.dill")
_OR_DATA = ", or name the data to fit it to there, an array that numpy.save wrote"
_ANY_CLASS = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # PyTorch's own switch

# They warn at each explanation that finds nothing, which its answer says.
_SEARCHES = tuple(f"alibi.explainers.{name}" for name in ("cem", "counterfactual", "cfproto"))
_BY_NUMBER = ("categorical_names", "cat_vars")  # of a column
_TUPLES = {"shape", "feature_range", "eps", "clip"}
_ARRAYS = {"no_info_val"}


def quieten() -> None:
    """Keeps progress bars and messages of each load out of the log, unless somebody has asked for them."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    levels = dict.fromkeys(("alibi", "shap"), logging.WARNING) | dict.fromkeys(_SEARCHES, logging.ERROR)
    for name, level in levels.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)


@contextmanager
def untouched(explainer: Any) -> Iterator[None]:
    """Explains in here: what alibi keeps of one explanation's arguments is not there for the next, which may be
    somebody else's."""
    before = {name: _kept(value) for name, value in vars(explainer).items()}
    try:
        yield
    finally:
        vars(explainer).clear()
        vars(explainer).update(before)


def _kept(value: Any) -> Any:
    """As it is now: alibi fills dictionaries and lists, some over many explanations; the rest is put in their place."""
    if type(value) is dict:
        return {key: _kept(one) for key, one in value.items()}
    return [_kept(one) for one in value] if type(value) is list else value


class Maker:
    """Makes one model's explainer, given the model to explain."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        folder: Path | None,
        arguments: dict[str, Any],
        data: Path | None = None,
        graph: Graph | None = None,
    ) -> None:
        self._name = name
        self._kind = kind
        self._folder = folder  # None: from the arguments
        self._arguments = arguments
        self._data = data  # what one made from the arguments is fitted to
        self._graph = graph  # that it is made in
        self._is_told = False

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
        with self._warnings():
            try:
                with self._graph.entered() if self._graph is not None else nullcontext():
                    return self._build(predictor) if self._folder is None else self._read(self._folder, predictor)
            except ModelLoadError:
                raise
            except Exception as error:
                raise ModelLoadError(f"model '{self._name}': {self._why(error)}") from error

    @contextmanager
    def _warnings(self) -> Iterator[None]:
        """What is warned of is told for the first explainer that is made, and not again for the same with its model."""
        with ExitStack() as stack:
            if self._is_told:
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            else:
                stack.enter_context(warnings_told(self._name, _logger, for_owner=True))
                warnings.filterwarnings("ignore", "Trying to load explainer from version")  # told by _check_saved
            yield
        self._is_told = True

    def _build(self, predictor: Callable[..., Any]) -> Any:
        from alibi import explainers

        kind, arguments = self._kind, _as_alibi_has_it(self._arguments)
        if kind.needs_fit and self._data is None:
            or_data = _OR_DATA if kind.is_fitted_to_data else ""
            raise ModelLoadError(
                f"model '{self._name}': {kind.class_name} must be fitted, which parameters.extra.init_parameters "
                f"cannot do: fit and save one, and name its folder in parameters.uri{or_data}"
            )
        data = self._training_data(self._data) if self._data is not None else None
        if self._graph is not None:
            arguments["sess"] = self._graph.session
        explainer = getattr(explainers, kind.class_name)(predictor, **arguments)
        if data is not None:
            explainer.fit(data)
        elif kind.class_name == "TreeShap":
            explainer.fit()  # without background data
        return explainer

    def _training_data(self, path: Path) -> Any:
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ModelLoadError(
                f"model '{self._name}': parameters.uri: beside init_parameters it names the data that "
                f"{self._kind.class_name} is fitted to, one array in a file that numpy.save wrote; {path} cannot be "
                f"read as such: {error}"
            ) from None

    def _read(self, folder: Path, predictor: Callable[..., Any]) -> Any:
        if self._kind.is_graph:
            raise ModelLoadError(
                f"model '{self._name}': alibi cannot save a {self._kind.class_name}, so that no folder holds one: give "
                f"the arguments of its class in parameters.extra.init_parameters"
            )
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise ModelLoadError(
                f"model '{self._name}': {folder} holds no explainer: it has no {missing[0]}. Name the folder that an "
                f"explainer's save() wrote in parameters.uri, or give parameters.extra.init_parameters"
            )
        self._check_saved(folder)
        from alibi.saving import load_explainer

        with _modules_allowed() if self._kind.has_modules else nullcontext():
            explainer = load_explainer(folder, predictor)
        if "device" in explainer.meta["params"]:
            explainer.meta["params"]["device"] = str(explainer.meta["params"]["device"])  # alibi writes it as JSON
        return explainer

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


@contextmanager
def _modules_allowed() -> Iterator[None]:
    """PyTorch reads whole modules in here, as it did before 2.6; alibi does not ask for it."""
    before = os.environ.get(_ANY_CLASS)
    os.environ[_ANY_CLASS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ANY_CLASS]
        else:
            os.environ[_ANY_CLASS] = before


def _as_alibi_has_it(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments in JSON as the classes take them: keys that are numbers, tuples, arrays, a spaCy pipeline."""
    made = {name: _by_number(name, value) if name in _BY_NUMBER else value for name, value in arguments.items()}
    for name, value in made.items():
        if name in _TUPLES and isinstance(value, list):
            made[name] = tuple(np.asarray(one, "float32") if isinstance(one, list) else one for one in value)
        elif name in _ARRAYS and isinstance(value, list):
            made[name] = np.asarray(value)
    return _with_language(made)


def _by_number(name: str, value: Any) -> dict[int, Any]:
    try:
        return by_number(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected {error}, got {value!r:.80}") from None


def _with_language(arguments: dict[str, Any]) -> dict[str, Any]:
    """AnchorText takes a spaCy pipeline, which settings name: an installed one, a folder, or a language ("en")."""
    nlp = arguments.get("nlp")
    if not isinstance(nlp, str):
        return arguments
    import spacy

    is_saved = spacy.util.is_package(nlp) or Path(nlp).is_dir()
    return {**arguments, "nlp": spacy.load(nlp) if is_saved else spacy.blank(nlp)}
