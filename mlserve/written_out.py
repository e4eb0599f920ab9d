"""How large a sparse answer may become when it is written out: a text of three bytes can have a million columns."""

from __future__ import annotations

from mlserve.errors import InferenceError
from mlserve.extra import Extra
from mlserve.settings import ModelSettings

__all__ = ["WrittenOut"]

_MOST = 25_000_000  # numbers, 200 MB of FP64


class WrittenOut:
    """The bound for one model: `parameters.extra.max_answer_numbers`, the same in all runtimes with sparse answers."""

    def __init__(self, settings: ModelSettings) -> None:
        self._name = settings.name
        self._most = Extra(settings).count("max_answer_numbers") or _MOST

    def check(self, output: str, rows: int, columns: int) -> None:
        """InferenceError for an answer of more numbers."""
        if rows * columns > self._most:
            fit = self._most // columns
            instead = f"send at most {fit} rows at a time" if fit else "ask for another output"
            raise InferenceError(
                f"model '{self._name}': '{output}' is sparse, and would be {rows} rows of {columns} numbers each when "
                f"it is written out; this model answers at most {self._most} numbers "
                f"(parameters.extra.max_answer_numbers): {instead}"
            )
