"""The start-up table: what is served, in what state, and where, as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["ModelRow", "startup_table"]

_HEAD = ("MODEL", "VERSION", "STATE", "RUNTIME")
_LABELS = {"http": "REST", "grpc": "gRPC", "metrics": "metrics"}


class ModelRow(NamedTuple):
    """One version of one model; `reason` says why it is not ready."""

    name: str
    version: str
    state: str
    runtime: str
    reason: str = ""


def startup_table(models: Sequence[ModelRow], addresses: Mapping[str, str], workers: str) -> str:
    """Models in aligned columns, the reason under each that failed, then addresses and workers."""
    lines = _models(models) if models else ["no models"]
    where = [(_LABELS.get(name, name), _link(name, place)) for name, place in addresses.items()]
    if workers:
        where.append(("workers", workers))
    width = max((len(label) for label, _ in where), default=0)
    return "\n".join([*lines, "", *(f"{label:<{width}}  {text}" for label, text in where)]).rstrip() + "\n"


def _models(models: Sequence[ModelRow]) -> list[str]:
    cells = [_HEAD, *((row.name, row.version or "-", row.state, row.runtime) for row in models)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(_HEAD))]
    rows = ["  ".join(_pad(text, width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines = [rows[0]]
    for model, row in zip(models, rows[1:], strict=True):
        lines.append(row)
        lines.extend(f"    {line}" for line in model.reason.strip().splitlines())
    return lines


def _link(name: str, place: str) -> str:
    return f"http://{place}" if name in ("http", "metrics") and "://" not in place else place


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two."""
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
