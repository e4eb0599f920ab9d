"""Where a model's artifact lies, and what to say of a file that is none. For authors of runtimes."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from mlserve.errors import InvalidModelURI
from mlserve.settings import ModelSettings, is_address, resolve_path

__all__ = ["explain_unpickling", "foreign_kind", "get_model_uri", "local_artifact", "warnings_told"]


async def get_model_uri(settings: ModelSettings, wellknown_filenames: Iterable[str] = ()) -> str:
    """Where the artifact is: what `parameters.uri` names, or the model's folder if it names nothing.

    Relative paths start at the folder of the settings file, or, if only that exists, at the working directory. In a
    folder, the first of the well-known file names that is there is the artifact, else the folder itself. Addresses such
    as `s3://bucket/model` or `models:/wine/1` come back as they are, except `file:`, which is a path. InvalidModelURI
    if the path does not exist, or there is none.
    """
    place = _place_of(settings)
    return place if is_address(place) else _existing(settings, place, wellknown_filenames)


def local_artifact(settings: ModelSettings, wellknown_filenames: Iterable[str] = ()) -> str:
    """The same for runtimes that read files: a path on this machine, and that of a file if there are well-known names.

    InvalidModelURI says what was looked for, also of an address elsewhere and of a folder that has none of the names.
    """
    place, names = _place_of(settings), list(wellknown_filenames)
    if is_address(place):
        raise InvalidModelURI(settings.name, f"{place}: only local files can be loaded; download it first")
    path = _existing(settings, place, names)
    if names and os.path.isdir(path):
        raise InvalidModelURI(settings.name, f"{path} has none of {', '.join(names)}; name the file in parameters.uri")
    return path


def _place_of(settings: ModelSettings) -> str:
    """A path, absolute if the settings have a folder, or an address elsewhere. InvalidModelURI if there is neither."""
    uri = settings.parameters.uri if settings.parameters is not None else None
    folder = settings.source_dir
    if not uri:
        if folder is None:
            raise InvalidModelURI(settings.name, "parameters.uri is not set")
        return str(folder)
    if is_address(uri):
        parts = urlsplit(uri)
        if parts.scheme != "file":
            return uri
        uri = unquote(parts.path)
    return os.path.normpath(os.path.expanduser(uri) if folder is None else resolve_path(uri, folder))


def _existing(settings: ModelSettings, path: str, wellknown_filenames: Iterable[str]) -> str:
    """The path, or that of the first well-known file in it. InvalidModelURI if there is nothing."""
    if os.path.isdir(path):
        inside = (os.path.join(path, name) for name in wellknown_filenames)
        return next((one for one in inside if os.path.isfile(one)), path)
    if not os.path.exists(path):
        raise InvalidModelURI(settings.name, f"{path} does not exist")
    return path


# How files begin, by the kind of what they hold. For runtimes to say what they found in place of a model of theirs.
_PICKLE = "save the model in its framework's own format, or serve it with the runtime 'sklearn'"
_KINDS: tuple[tuple[str, tuple[bytes, ...], str], ...] = (
    ("lightgbm", (b"tree\n", b"tree\r\n"), "a LightGBM model: its runtime is 'lightgbm'"),
    ("", (b'{"name":"tree"', b'{"name": "tree"'), "what LightGBM's dump_model() gives, not save_model()"),
    ("catboost", (b"CBM1",), "a CatBoost model: its runtime is 'catboost'"),
    ("xgboost", (b"{L", b"binf", b'{"learner"'), "an XGBoost model: its runtime is 'xgboost'"),
    ("pickle", (b"\x80",), f"a pickle: {_PICKLE}"),
    ("pickle", (b"x\x9c", b"x\x01", b"x\xda"), f"a compressed joblib file: {_PICKLE}"),
    ("zip", (b"PK\x03\x04",), "a zip archive, such as PyTorch and skops write"),
    ("", (b"\x89HDF",), "an HDF5 file, such as Keras writes"),
    ("", (b"\x93NUMPY",), "a numpy array"),
    ("", (b"version https://git-lfs",), "a pointer of git-lfs: fetch the file itself with `git lfs pull`"),
    ("", (b"<",), "HTML or XML, perhaps the error page of a download"),
    ("json", (b"{",), "JSON"),
)


def foreign_kind(head: bytes, own: Iterable[str] = ()) -> str | None:
    """What a file holds, in words, if its first bytes tell that it is of another kind than a runtime reads.

    `own` are the kinds that it does read: "lightgbm", "catboost", "xgboost", "pickle", "zip", "json".
    """
    if not head:
        return "nothing: the file is empty"
    own = frozenset(own)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text:
        return f"nothing but blanks, at least in the first {len(head)} bytes"
    for kind, starts, words in _KINDS:
        if text.startswith(starts):
            return None if kind in own else words
    return None


def explain_unpickling(error: Exception, installed: str) -> str:
    """Why a pickle or joblib file could not be read, and what helps. `installed` tells the framework's version."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and "." not in (error.name or ""):
        return f"it needs the Python module '{error.name}', which is not installed here ({installed})"
    if isinstance(error, AttributeError) and "__main__" in text:
        return (
            f"{error}. It refers to code of the script that saved it: move that code to a module, import it there, "
            f"save the model again, and put the module beside model-settings.json"
        )
    if isinstance(error, (AttributeError, ImportError)) or "incompatible dtype" in text:
        first = text.splitlines()[0].rstrip(":")
        return (
            f"it was probably saved with another version: {installed}. Save it again with that, or serve it from an "
            f"environment with the version that saved it (parameters.environment_path). {first}"
        )
    if isinstance(error, (EOFError, pickle.UnpicklingError, KeyError, ValueError, IndexError, UnicodeDecodeError)):
        return f"neither joblib nor pickle can read it, perhaps it is damaged or cut short ({text})"
    return f"{text} ({installed})"


_FOR_AUTHORS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)


@contextmanager
def warnings_told(name: str, logger: logging.Logger, for_owner: bool = False) -> Iterator[set[str]]:
    """Warnings within it are told in the log with the model's name; after an error, which says more, not.

    `for_owner` leaves out what only the authors of libraries can mend: what they deprecate in each other, open files.

    Gives, when it has ended, the versions of scikit-learn other than the installed one with which the model was saved.
    Every part of a model warns of its version: each version is told once.
    """
    versions: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in _FOR_AUTHORS if for_owner else ():
            warnings.simplefilter("ignore", kind)
        yield versions
    for one in caught:
        saved_with = getattr(one.message, "original_sklearn_version", None)
        if saved_with is None:
            logger.warning("model '%s': %s", name, one.message)
        elif saved_with not in versions:
            versions.add(saved_with)
            logger.warning(
                "model '%s' was saved with scikit-learn %s and is served with %s: its answers may differ. Save it "
                "again, or serve it from an environment with that version (parameters.environment_path)",
                name,
                saved_with,
                getattr(one.message, "current_sklearn_version", "another"),
            )
