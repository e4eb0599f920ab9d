"""Draws figures/auto_batching.csv; runs in an environment with matplotlib (auto_batching.py makes one)."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TARGET_MS = 250
FIGURES = Path(__file__).parent / "figures"
STYLES = {
    "auto": ("tab:green", 2.2),
    "auto, awaits": ("black", 1.4),
    "auto, patient": ("tab:olive", 1.6),
    "size 8": ("tab:red", 1.1),
    "size 32": ("tab:orange", 1.1),
    "size 64": ("tab:blue", 1.1),
    "size 64, patient": ("tab:purple", 1.1),
}


def main() -> None:
    """One panel for each cost: the 99th percentile of every half second, over the load in grey."""
    with (FIGURES / "auto_batching.csv").open() as file:
        rows = list(csv.DictReader(file))
    costs = list(dict.fromkeys(row["cost"] for row in rows))
    figure, panels = plt.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for panel, cost in zip(panels.flat, costs):
        ways = dict.fromkeys(row["batching"] for row in rows if row["cost"] == cost)
        load = panel.twinx()
        for way in ways:
            mine = [row for row in rows if (row["cost"], row["batching"]) == (cost, way)]
            at = [float(row["second"]) for row in mine]
            colour, width = STYLES[way]
            panel.plot(at, [min(3000.0, float(row["p99_ms"])) for row in mine], color=colour, lw=width, label=way)
            if way == next(iter(ways)):
                load.fill_between(at, [float(row["rate"]) for row in mine], color="0.88", step="mid", lw=0)
        load.set_ylim(0, 800)
        load.set_ylabel("calls per second", color="0.5")
        panel.set_zorder(load.get_zorder() + 1)
        panel.patch.set_visible(False)
        panel.axhline(TARGET_MS, color="black", ls="--", lw=1)
        panel.set_yscale("log")
        panel.set_ylim(15, 3000)
        panel.set_title(f"cost of a batch: {cost}")
        panel.set_ylabel("p99, ms")
        panel.set_xlabel("seconds")
    panels.flat[0].legend(loc="upper left", fontsize=8)
    figure.savefig(FIGURES / "auto_batching.png", dpi=85)


if __name__ == "__main__":
    main()
