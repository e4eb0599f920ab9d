"""Reads a saved PyTorch model, whichever way it was saved, and says in plain words what is wrong with a file."""

from __future__ import annotations

import importlib
import inspect
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mlserve.artifacts import explain_unpickling, foreign_kind
from mlserve.errors import ModelLoadError
from mlserve.extra import Extra
from mlserve.runtime_names import place_of
from mlserve.settings import ModelSettings

__all__ = ["ExportedProgram", "load_artifact"]

ExportedProgram = torch.export.ExportedProgram

_EXPORTED = ("models/model.json", "serialized_exported_program.json")
_COMPILED = "data/aotinductor/"
_NOT_WEIGHTS = (
    "it holds more than weights, such as a whole module, and reading that would run code from the file. Save the "
    "weights alone (torch.save(model.state_dict(), path)) and name the class in parameters.extra.class; or export the "
    "model (torch.export.save); or, if you trust the file, set parameters.extra.allow_pickle to true"
)
_STATE_KEYS = ("state_dict", "model_state_dict")  # under which training scripts put the weights of a checkpoint


def load_artifact(path: str, settings: ModelSettings, device: Any) -> Any:
    """An ExportedProgram, or a module; on the device, not yet of another type. ModelLoadError says what is wrong.

    The content decides, not the extension. Exported programs and TorchScript are programs, which may do anything when
    they are read; a pickle runs no code of the file, unless `extra.allow_pickle` is true.
    """
    start = f"model '{settings.name}': {path}: "
    kind = _kind_of(path, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PyTorch calls deprecated, it says when the file is made
        if kind == "exported":
            with _told(start):
                return _load_exported(path, device)
        if kind == "script":
            with _told(start):
                return torch.jit.load(path, map_location=device)
        return _load_pickle(path, Extra(settings), device, start)


@contextmanager
def _told(start: str) -> Iterator[None]:
    """Around what PyTorch does to read a file: a ModelLoadError for whatever is wrong with it."""
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        text = " ".join(str(error).strip().splitlines()[:1]).partition(" This is an internal miniz")[0]
        raise ModelLoadError(
            f"{start}it cannot be read, perhaps it is cut short, or of another version of PyTorch "
            f"({text or type(error).__name__}; {_installed()})"
        ) from error


def _kind_of(path: str, start: str) -> str:
    with open(path, "rb") as file:
        head = file.read(64)
    foreign = foreign_kind(head, own=("zip", "pickle"))
    if foreign:
        raise ModelLoadError(f"{start}no PyTorch model, but {foreign}")
    if not head.startswith(b"PK\x03\x04"):
        if head.startswith(b"\x80"):  # as torch.save wrote before 1.6
            return "pickle"
        raise ModelLoadError(f"{start}no PyTorch model: what torch.save() and torch.export.save() write is a zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [f"/{name}" for name in archive.namelist()]
    except zipfile.BadZipFile:
        raise ModelLoadError(f"{start}the file is damaged or cut short") from None
    if any(_COMPILED in name for name in names):
        raise ModelLoadError(
            f"{start}it holds machine code of AOTInductor, which is made for one processor and version: serve the "
            f"exported program (torch.export.save), with parameters.extra.compile if you like"
        )
    if any(name.endswith(_EXPORTED) for name in names):
        return "exported"
    if any(name.endswith("/constants.pkl") for name in names):
        return "script"
    if any(name.endswith("/data.pkl") for name in names):
        return "pickle"
    raise ModelLoadError(f"{start}a zip archive, but none of PyTorch")


def _load_exported(path: str, device: Any) -> Any:
    with open(path, "rb") as file:
        program = torch.export.load(file)  # given a path, it insists on an extension
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program


# -- what torch.save wrote --------------------------------------------------------------------------------------------


def _load_pickle(path: str, extra: Extra, device: Any, start: str) -> Any:
    allowed = extra.flag("allow_pickle")
    with _told(start):
        try:
            content = torch.load(path, map_location=device, weights_only=not allowed)
        except pickle.UnpicklingError as error:
            raise ModelLoadError(f"{start}{_explain_refusal(error) if not allowed else _damaged(error)}") from error
        except (AttributeError, ImportError) as error:
            raise ModelLoadError(f"{start}{explain_unpickling(error, _installed())}") from error
    if isinstance(content, torch.nn.Module):
        return content
    class_name = extra.text("class")
    state = _state_in(content)
    if state is None:
        raise ModelLoadError(f"{start}it holds an object of type {type(content).__name__}, neither module nor weights")
    if class_name is None:
        told = ", ".join(list(state)[:4])
        raise ModelLoadError(
            f"{start}it holds weights only ({told}{', ...' if len(state) > 4 else ''}): name the class of the module "
            f'in parameters.extra.class, such as "net.Net" for the class Net in net.py beside model-settings.json'
        )
    module = _make(class_name, extra, start)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise ModelLoadError(f"{start}its weights do not fit {class_name} (parameters.extra.init?): {told}") from error
    except Exception as error:  # out of code of its own
        raise _of_class(class_name, "loading its weights", error, start) from error
    return module


def _state_in(content: Any) -> dict[str, Any] | None:
    """The weights by name in what torch.load gave."""
    if not isinstance(content, dict):
        return None
    for key in _STATE_KEYS:
        if isinstance(content.get(key), dict):
            return _state_in(content[key])
    has_weights = bool(content) and any(isinstance(one, torch.Tensor) for one in content.values())
    return content if has_weights else None


def _make(class_name: str, extra: Extra, start: str) -> Any:
    """A module of a class by its import path, which may lead into the model's folder."""
    module_name, _, name = class_name.rpartition(".")
    if not module_name:
        raise extra.refusal("class", 'a module and a class, such as "net.Net"')
    try:
        kind = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise ModelLoadError(f"{start}parameters.extra.class: cannot import '{class_name}': {error}") from error
    except Exception as error:
        raise _of_class(class_name, "importing it", error, start) from error
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise extra.refusal("class", "a subclass of torch.nn.Module")
    init = extra.mapping("init")
    try:
        inspect.signature(kind).bind(**init)
    except TypeError as error:
        raise ModelLoadError(f"{start}parameters.extra.init does not fit {class_name}: {error}") from error
    try:
        return kind(**init)
    except Exception as error:
        raise _of_class(class_name, "making it (parameters.extra.init?)", error, start) from error


def _of_class(class_name: str, step: str, error: Exception, start: str) -> ModelLoadError:
    """An error of the code of a class: the file itself may be as it should be."""
    told = f"{type(error).__name__}: {' '.join(str(error).split())}"
    place = "" if isinstance(error, SyntaxError) else place_of(error)  # which tells its place itself
    return ModelLoadError(f"{start}parameters.extra.class '{class_name}': {step} failed: {told}{place}")


def _explain_refusal(error: Exception) -> str:
    """Why a file is not read with weights_only."""
    text = str(error)
    if "Unsupported" not in text and "not an allowed global" not in text:
        return _damaged(error)
    _, _, named = text.partition("GLOBAL ")
    told = f" ({named.split()[0]})" if named else ""
    return f"{_NOT_WEIGHTS}{told}"


def _damaged(error: Exception) -> str:
    text = " ".join(str(error).strip().splitlines()[-1:])
    return f"it cannot be read, perhaps it is damaged or cut short ({text}; {_installed()})"


def _installed() -> str:
    return f"PyTorch {torch.__version__} is installed"
