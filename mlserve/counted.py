"""What one value of a model's own prometheus_client metric counts, and the memory in which workers keep such values."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CELLS", "CELLS_BYTES", "Series"]

CELLS = 16384  # numbers that one worker can show: a histogram takes 16 or so for each set of labels, others one or two
CELLS_BYTES = 8 * CELLS


class Series(NamedTuple):
    """One value, by what prometheus_client says of it."""

    kind: str  # counter, gauge, histogram or summary
    family: str
    name: str  # of the sample: with `_total`, `_bucket`, `_sum` or `_count` where it has one
    labels: dict[str, str]
    description: str
    mode: str = ""  # of a gauge: what becomes of the values of several processes

    @property
    def is_timed(self) -> bool:
        """Whether a second cell says when the value was set."""
        return self.mode.endswith("mostrecent")
