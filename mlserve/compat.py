"""Lets code that was written for MLServer run here: `import mlserver` finds mlserve's modules.

Inside mlserve's processes the alias is always on, also where the real package is installed; `install()` does the same
for client scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
import importlib
import importlib.util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
import sys
from types import ModuleType

__all__ = ["install", "uninstall"]

_OLD = "mlserver"
_NEW = "mlserve"
_RUNTIMES = "mlserver_"  # mlserver_sklearn and its kin become mlserve_sklearn


class _Alias(MetaPathFinder, Loader):
    """Finds `mlserver` and what is below it in mlserve."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}  # of our modules, while they are imported under the old name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _OLD and not fullname.startswith((f"{_OLD}.", _RUNTIMES)):
            return None
        ours = _NEW + fullname[len(_OLD) :]
        try:
            found = importlib.util.find_spec(ours)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return None
        return ModuleSpec(fullname, self, is_package=found.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_NEW + spec.name[len(_OLD) :])
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the module is loaded already. Puts back the spec that the import system replaced."""
        if module.__spec__ is not None:
            module.__spec__ = self._specs.pop(module.__spec__.name)


_alias = _Alias()


def install() -> None:
    """Makes `import mlserver` find mlserve, in this process. Safe to call again."""
    if _alias not in sys.meta_path:
        for name in [one for one in sys.modules if one == _OLD or one.startswith(f"{_OLD}.")]:
            del sys.modules[name]
        sys.meta_path.insert(0, _alias)


def uninstall() -> None:
    """Takes the alias away again, for tests."""
    if _alias in sys.meta_path:
        sys.meta_path.remove(_alias)
    for name in [one for one in sys.modules if one == _OLD or one.startswith((f"{_OLD}.", _RUNTIMES))]:
        del sys.modules[name]
