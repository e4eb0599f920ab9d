"""Reads what a runtime takes from `parameters.extra`; what cannot be used is told with its place and what was expected.

For authors of runtimes. Keys that nobody reads are left alone: code that extends a runtime may have its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlserve.errors import ModelLoadError
from mlserve.settings import ModelSettings

__all__ = ["Extra"]


_MOST_THREADS = 1024  # for one call; frameworks that cannot start so many blame the request


class Extra:
    """The runtime's own settings of one model. Each method gives one of them; ModelLoadError if it is of no use."""

    def __init__(self, settings: ModelSettings) -> None:
        self._name = settings.name
        self._values: dict[str, Any] = settings.parameters.extra if settings.parameters is not None else {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands there."""
        value = self._values.get(key)
        return default if value is None else value

    def threads(self) -> int | None:
        """How many threads one call may use; None: as many as the framework likes. The same knob in all runtimes."""
        count = self.count("threads")
        if count is not None and count > _MOST_THREADS:
            raise self.refusal("threads", f"a whole number from 1 to {_MOST_THREADS}")
        return count

    def count(self, key: str) -> int | None:
        """A whole number from 1 on, or None."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
            raise self.refusal(key, "a whole number >= 1")
        return int(value)

    def flag(self, key: str) -> bool:
        """True or false; false if it is not there."""
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def text(self, key: str, choices: Iterable[str] = ()) -> str | None:
        """A text, one of the choices if there are any, or None."""
        value = self.get(key)
        known = list(choices)
        if value is not None and (not isinstance(value, str) or (known and value not in known)):
            raise self.refusal(key, f"one of {', '.join(known)}" if known else "a text")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object, empty if it is not there."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.refusal(key, "an object {...}")
        return value

    def listed(self, key: str) -> list[Any]:
        """A list, empty if it is not there."""
        value = self.get(key, [])
        if not isinstance(value, list | tuple):
            raise self.refusal(key, "a list [...]")
        return list(value)

    def refusal(self, key: str, expected: str) -> ModelLoadError:
        """The error for a value that cannot be used."""
        got = f"{self._values.get(key)!r:.80}"
        return ModelLoadError(f"model '{self._name}': parameters.extra.{key}: expected {expected}, got {got}")
