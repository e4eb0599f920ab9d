"""Lets code that was written for MLServer run here: `import mlserver` finds mlserve's modules.

Inside mlserve's processes the alias is always on, also where the real package is installed; `install()` does the same
for client scripts, and `uninstall()` takes it back.

`mlserver.x` is the very module `mlserve.x`, so classes are the same under both names and pickles name ours. What
MLServer keeps at another place is in `mlserve.old_names`; there `everywhere` has the names that many of MLServer's
modules have, since they import them from each other. Submodules are found as attributes too. `mlserver_sklearn` and
its kin are ours as far as they are installed; packages of other people that are called `mlserver_…` stay what they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["install", "uninstall"]

_OLD = "mlserver"
_NEW = "mlserve"
_RUNTIMES = "mlserver_"  # mlserver_sklearn and its kin become mlserve_sklearn
_MOVED = {
    "mlserver": "mlserve.old_names",
    "mlserver.cli.main": "mlserve.old_names.cli_main",
    "mlserver.cli.serve": "mlserve.old_names.cli_serve",
    "mlserver.codecs.base": "mlserve.old_names.codecs_base",
    "mlserver.codecs.json": "mlserve.old_names.everywhere",
    "mlserver.context": "mlserve.old_names.context",
    "mlserver.handlers.custom": "mlserve.handlers",
    "mlserver.logging": "mlserve.old_names.logging",
    "mlserver.metrics": "mlserve.old_names.metrics",
    "mlserver.metrics.context": "mlserve.old_names.metrics",
    "mlserver.metrics.prometheus": "mlserve.old_names.metrics",
    "mlserver.metrics.server": "mlserve.old_names.metrics",
    "mlserver.repository": "mlserve.old_names.repository",
    "mlserver.repository.load": "mlserve.old_names.repository",
    "mlserver.repository.repository": "mlserve.old_names.repository",
    "mlserver.rest.responses": "mlserve.old_names.rest_responses",
    "mlserver.server": "mlserve.old_names.server",
    "mlserver.types.base": "mlserve.types",
    "mlserver.types.dataplane": "mlserve.types",
    "mlserver.types.model_repository": "mlserve.types",
    "mlserver.utils": "mlserve.old_names.utils",
    "mlserver_alibi_detect.runtime": "mlserve_alibi_detect.model",
    "mlserver_alibi_explain.runtime": "mlserve_alibi_explain.model",
    "mlserver_huggingface.codecs.base": "mlserve_huggingface.codecs.request",
    "mlserver_huggingface.codecs.conversation": "mlserve_huggingface.codecs.json",
    "mlserver_huggingface.codecs.image": "mlserve_huggingface.codecs.media",
    "mlserver_huggingface.codecs.jsonlist": "mlserve_huggingface.codecs.json",
    "mlserver_huggingface.codecs.numpylist": "mlserve_huggingface.codecs.media",
    "mlserver_huggingface.codecs.raw": "mlserve_huggingface.codecs.media",
    "mlserver_mllib.mllib": "mlserve_mllib.model",
}
_PACKAGES = {name.rpartition(".")[0] for name in _MOVED}  # ours may be plain modules
_EVERYWHERE = "mlserve.old_names.everywhere"


class _Alias(MetaPathFinder, Loader):
    """Finds `mlserver` and what is below it in mlserve."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}  # of our modules, while they are imported under the old name
        self.made: dict[str, ModuleType] = {}  # by old name, what has been imported through this alias
        self.displaced: dict[str, ModuleType] = {}  # of the real package, if it was imported before
        self.given: list[tuple[ModuleType, str]] = []  # what has been added to our modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_old(fullname):
            return None
        try:
            found = importlib.util.find_spec(_home(fullname))
        except ModuleNotFoundError:
            found = None
        if found is None:
            return None
        is_package = found.submodule_search_locations is not None or fullname in _PACKAGES
        return ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_home(spec.name))
        if not hasattr(module, "__path__"):
            self.given.append((module, "__path__"))  # which the import system sets, of a package
        self._specs[spec.name] = module.__spec__
        self.made[spec.name] = module
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the module is loaded already. Puts back the spec that the import system replaced."""
        if module.__spec__ is None:
            return
        name = module.__spec__.name
        module.__spec__ = self._specs.pop(name)
        if name == _OLD:
            return
        if "__getattr__" not in vars(module):
            self.given.append((module, "__getattr__"))
            vars(module)["__getattr__"] = partial(_old_attribute, name)
        if name.startswith(_RUNTIMES) or module.__name__ != _NEW + name[len(_OLD) :]:
            return
        for last, value in list(vars(module).items()):  # submodules of ours that would be found instead
            if isinstance(value, ModuleType) and value.__name__ == f"{module.__name__}.{last}":
                importlib.import_module(f"{name}.{last}")


_alias = _Alias()


def install() -> None:
    """Makes `import mlserver` find mlserve, in this process. Safe to call again.

    Modules of the real package that were imported before step aside; who holds them already keeps them.
    """
    if _alias in sys.meta_path:
        return
    for name in [one for one in sys.modules if _is_old(one)]:
        if name.startswith((_OLD + ".", _RUNTIMES)) and _alias.find_spec(name.partition(".")[0]) is None:
            continue  # somebody else's package
        _alias.displaced[name] = sys.modules.pop(name)
    sys.meta_path.insert(0, _alias)


def uninstall() -> None:
    """Takes the alias away again: what was imported by the old names is forgotten, and the real package is back."""
    if _alias not in sys.meta_path:
        return
    sys.meta_path.remove(_alias)
    for name, module in _alias.made.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
            _forget_attribute(name, module)
    for module, attribute in _alias.given:
        vars(module).pop(attribute, None)
    sys.modules.update(_alias.displaced)
    _alias.made.clear()
    _alias.given.clear()
    _alias.displaced.clear()


def _is_old(name: str) -> bool:
    return name == _OLD or name.startswith((_OLD + ".", _RUNTIMES))


def _home(name: str) -> str:
    """The module of ours that an old name stands for."""
    return _MOVED.get(name) or _NEW + name[len(_OLD) :]


def _old_attribute(module: str, name: str) -> Any:
    """What a module of MLServer's has beside what ours has: a submodule, or a name that many of its modules have."""
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{module}.{name}":
                raise
        found = vars(importlib.import_module(_EVERYWHERE)).get(name)
        if found is not None and not isinstance(found, ModuleType):
            return found
    raise AttributeError(f"'{module}' is {_home(module)} here, which has no '{name}': see docs/migrating.md")


def _forget_attribute(name: str, module: ModuleType) -> None:
    """The import system has put the module into its parent, which may have another submodule of that name, or none."""
    above, _, last = name.rpartition(".")
    parent = sys.modules.get(_home(above)) if above else None
    if parent is None or vars(parent).get(last) is not module:
        return
    own = sys.modules.get(f"{parent.__name__}.{last}")
    if own is None:
        delattr(parent, last)
    else:
        setattr(parent, last, own)
