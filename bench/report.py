"""Tables of results as Markdown, and the file with every round in it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from measure import Cell
from peers import PEERS

__all__ = ["busy_note", "comparison", "labels", "machine", "markdown", "number", "save"]

_RESULTS = Path(__file__).parent / "results"


def comparison(
    headings: Sequence[str], cells: Sequence[Cell], labels: Mapping[str, str], ours: str, figures: Mapping[str, str]
) -> str:
    """One row per cell and server; a peer's row ends with our figures divided by its own.

    `figures` maps what a column is called to the field of Sample that it shows. The first one is shown with its spread
    over the rounds.
    """
    compared = {name: field for name, field in figures.items() if field in {"rps", "p50_ms", "cpu_ms"}}
    compared = compared if len(labels) > 1 and ours in labels else {}
    first = next(iter(figures))
    head = [*headings, "server", *figures, f"± {first}", "client", *(f"ours ÷ it: {name}" for name in compared)]
    rows = []
    for cell in cells:
        for key, label in labels.items():
            if key not in cell.samples:
                rows.append([*cell.title, label, "none"])
                continue
            row = [*cell.title, label, *(number(cell.median(key, field)) for field in figures.values())]
            row += [f"{cell.spread(key, figures[first]):.0%}", f"{cell.median(key, 'client_share'):.0%}"]
            if key != ours and ours in cell.samples:
                row += [f"{number(cell.ratio(ours, key, field))}×" for field in compared.values()]
            rows.append(row)
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned for reading as text, too."""
    full = [list(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    widths = [max(len(row[at]) for row in full) for at in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in full
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def labels(versions: Mapping[str, str]) -> dict[str, str]:
    """What each server is called in a table."""
    return {key: f"{PEERS[key].label} {version}" for key, version in versions.items()}


def machine() -> dict[str, Any]:
    """What was measured on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": model[0].split(":")[1].strip() if model else platform.processor(),
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def busy_note() -> str:
    """A sentence when other work was running: to be called before the servers start."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load < 0.3 * processors:
        return ""
    return f"The machine was busy (load {load:.1f} on {processors} processors): trust CPU and ratios, not times.\n"


def save(name: str, options: Mapping[str, Any], versions: Mapping[str, str], found: Mapping[str, Any]) -> Path:
    """Write bench/results/NAME-TIME.json."""
    _RESULTS.mkdir(exist_ok=True)
    now = datetime.now(timezone.utc)
    path = _RESULTS / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    content = {"time": now.isoformat(), "options": dict(options), "versions": dict(versions), **found}
    path.write_text(json.dumps(content, indent=1))
    return path
