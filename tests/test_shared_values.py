"""In a process of their own, prometheus_client's values lie in memory that others read."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent
from typing import Any

BEFORE = """
import json, os, sys
from mlserve import shared_values
memory, told = bytearray(8 * {cells}), []
shared_values.count_in(memory, lambda cell, series: told.append((cell, series)))
assert "prometheus_client" not in sys.modules
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Summary, generate_latest
"""
AFTER = """
cells = memoryview(memory).cast("d")
print(json.dumps([[series.name, series.labels, series.mode, cells[cell]] for cell, series in told]))
"""


def counted(code: str, cells: int = 64) -> list[list[Any]]:
    """What is in the memory after this code: name, labels, mode and value of each cell that was told of."""
    text = BEFORE.replace("{cells}", str(cells)) + dedent(code) + AFTER
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_kind_of_value_has_its_cell() -> None:
    found = counted("""
        Counter("hits", "Hits.", ["model"]).labels("m").inc(3)
        Summary("size", "Size.").observe(2.5)
        Histogram("spent", "Seconds.", buckets=[1, 2]).observe(1.5)
        Gauge("level", "Level.").set(7)
        Gauge("seen", "Seen.", multiprocess_mode="mostrecent").set(8)
        assert told[-1][0] + 2 <= 64 and memoryview(memory).cast("d")[told[-1][0] + 1] > 1e9
    """)
    assert found == [
        ["hits_total", {"model": "m"}, "", 3],
        ["size_count", {}, "", 1],
        ["size_sum", {}, "", 2.5],
        ["spent_sum", {}, "", 1.5],
        ["spent_bucket", {"le": "1.0"}, "", 0],
        ["spent_bucket", {"le": "2.0"}, "", 1],
        ["spent_bucket", {"le": "+Inf"}, "", 0],
        ["level", {}, "all", 7],
        ["seen", {}, "mostrecent", 8],
    ]


def test_a_metric_that_is_made_again_goes_on_where_it_was() -> None:
    found = counted("""
        old = Counter("hits", "Hits.", ["model"])
        old.labels("m").inc(3)
        new = Counter("hits", "Hits.", ["model"])
        new.labels("m").inc()
        old.labels("m").inc()
        new.labels("m").inc()
        REGISTRY.unregister(old)
        assert b'hits_total{model="m"} 6.0' in generate_latest()
        other = Gauge("hits", "Something else.")
        REGISTRY.unregister(other)
    """)
    assert found == [["hits_total", {"model": "m"}, "", 6], ["hits", {}, "all", 0]]


def test_labels_that_come_and_go_use_their_cell_again() -> None:
    found = counted("""
        level = Gauge("level", "Level.", ["room"])
        for turn in range(100):
            level.clear()
            level.labels("kitchen").set(turn)
    """)
    assert found == [["level", {"room": "kitchen"}, "all", 99]]


def test_a_forked_process_counts_in_what_it_knows_and_takes_no_cells() -> None:
    found = counted("""
        import mmap
        shared = mmap.mmap(-1, mmap.PAGESIZE)
        values = sys.modules["prometheus_client"].values
        values.ValueClass._cells = memoryview(shared).cast("d")
        hits = Counter("hits", "Hits.")
        child = os.fork()
        if not child:
            hits.inc(5)
            Counter("of_child", "Another.").inc(9)
            os._exit(len(told))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        Counter("after", "A third.").inc(2)
        memory[:] = shared[: len(memory)]
    """)
    assert found == [["hits_total", {}, "", 5], ["after_total", {}, "", 2]]


def test_what_finds_no_cell_is_told_of_once_and_counts_on() -> None:
    found = counted(
        """
        import logging
        lines = []
        logging.getLogger("mlserve.metrics").addFilter(lambda record: lines.append(record.getMessage()))
        hits = Counter("hits", "Hits.", ["n"])
        for n in range(5):
            hits.labels(n).inc(n)
        assert b'hits_total{n="4"} 4.0' in generate_latest()
        (line,) = lines
        assert line.startswith("metric hits_total{'n': '2'} is not shown"), line
        """,
        cells=2,
    )
    assert [one[1] for one in found] == [{"n": "0"}, {"n": "1"}]
