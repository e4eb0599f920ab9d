"""From an implementation's name to a model object, with each model's own Python files kept to itself.

A model folder may hold Python files (`models.py`, helpers). Two models can both have a `models.py`, so each gets its
own copy of such modules: while code of a model is imported and loaded, its folder leads `sys.path` and its own modules
stand in `sys.modules`; afterwards they step back wherever another model came first with the same name. A reload starts
with none of them, and so picks up edited code.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from mlserve.errors import ModelLoadError
from mlserve.runtime_names import explain_import_error, resolve_implementation
from mlserve.settings import ModelSettings

# Never a model's own, even if its folder holds a checkout of mlserve, or the Python environment that it runs in.
_NO_MODELS = (str(Path(__file__).parent) + "/", str(Path(importlib.__file__).parent.parent) + "/")
_RUNTIMES = "mlserve.runtimes"  # the entry point group of short names such as "sklearn"


class Loader:
    """Imports the models of one worker."""

    # In order of loading: of two modules of one name, the first stays visible. Of the whole process, as sys.modules is:
    # several workers may run in threads of it.
    _owners: ClassVar[list[_Modules]] = []

    def open(self, folder: Path | None) -> _Modules:
        """A place for the modules of one model that is about to be loaded."""
        modules = _Modules(folder)
        self._owners.append(modules)
        return modules

    def discard(self, modules: _Modules) -> None:
        """Forgets the modules of a model that was unloaded."""
        with self._without_private():
            if modules in self._owners:
                self._owners.remove(modules)

    @contextmanager
    def active(self, modules: _Modules) -> Iterator[None]:
        """Within this context, imports find the model's folder first, and its own modules under their plain names."""
        folder = str(modules.folder) if modules.folder is not None else None
        with self._without_private():
            sys.modules.update(modules.private)
            write_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # an edit in the same second counts
            before = dict(sys.modules)
            if folder is not None:
                sys.path.insert(0, folder)
                importlib.invalidate_caches()
            try:
                yield
            finally:
                if folder is not None and folder in sys.path:
                    sys.path.remove(folder)
                sys.dont_write_bytecode = write_bytecode
                modules.collect(before)
                for name in modules.private:
                    sys.modules.pop(name, None)

    @contextmanager
    def _without_private(self) -> Iterator[None]:
        """Takes the private modules of all models out of sys.modules, and puts them back at the end."""
        for owner in self._owners:
            for name, module in owner.private.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]
        try:
            yield
        finally:
            for owner in self._owners:
                for name, module in owner.private.items():
                    sys.modules.setdefault(name, module)


class _Modules:
    """The modules that came from one model's folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder.resolve() if folder is not None else None
        self.private: dict[str, ModuleType] = {}

    def collect(self, before: dict[str, ModuleType]) -> None:
        """Notes every module that was loaded since then and whose file lies in the folder."""
        if self.folder is None:
            return
        root = str(self.folder) + "/"
        for name, module in list(sys.modules.items()):
            if before.get(name) is module and name not in self.private:
                continue
            path = _file_of(module)
            if path is None or not path.startswith(root) or path.startswith(_NO_MODELS):
                continue
            if "/site-packages/" not in path[len(root) :]:
                self.private[name] = module


def _file_of(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return file
    try:
        return next((str(place) for place in module.__path__), None)
    except Exception:  # whatever a stranger's lazy module does when it is looked at
        return None


def import_implementation(implementation: Any, settings: ModelSettings, folder: Path | None) -> type[Any]:
    """The class that an implementation names: an import path, or the short name of an installed runtime.

    Raises ModelLoadError, which says what to install or which name is near.
    """
    if isinstance(implementation, type):
        return implementation
    name = resolve_implementation(str(implementation))
    try:
        if "." not in name:
            return _from_entry_point(name)
        module_name, _, class_name = name.rpartition(".")
        module = _running_script(module_name, folder) or importlib.import_module(module_name)
        found = getattr(module, class_name)
    except Exception as error:
        told = explain_import_error(str(implementation), folder, error)
        raise ModelLoadError(f"{told}{_environment_told(settings, error)}") from error
    if not isinstance(found, type):
        raise ModelLoadError(f"model '{settings.name}': {implementation} is not a class but {type(found).__name__}")
    return found


def _environment_told(settings: ModelSettings, error: Exception) -> str:
    """Where a package is missing, for a model that has an environment of its own."""
    parameters = settings.parameters
    place = parameters and (parameters.environment_path or parameters.environment_tarball)
    return f"; the model runs in the environment {place}" if place and isinstance(error, ImportError) else ""


def _running_script(name: str, folder: Path | None) -> ModuleType | None:
    """The module of the running program, if it is the file of that name in the folder: importing it would run it again.

    So it is for a model in a thread of a program that has its class; worker processes run another program.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or folder is None or Path(file).stem != name:
        return None
    return main if Path(file).resolve() == (folder / f"{name}.py").resolve() else None


def _from_entry_point(name: str) -> type[Any]:
    for entry in importlib.metadata.entry_points(group=_RUNTIMES):
        if entry.name == name:
            found: type[Any] = entry.load()
            return found
    raise ModuleNotFoundError(f"No runtime is installed under the name '{name}'", name=name)
