"""malloc: freed memory stays for the next large buffer, and can be given back; no effect where there is no glibc."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlserve import malloc

GLIBC = malloc._glibc() is not None

PROBE = """
import resource
from mlserve import malloc

def faults_of(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = bytearray(size)
    del buffer
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

SIZE = 40 << 20
plain = min(faults_of(SIZE) for _ in range(3))
assert malloc.tune()
faults_of(SIZE)
tuned = min(faults_of(SIZE) for _ in range(3))
kept = resident()
assert malloc.trim()
print(plain, tuned, kept, resident())
"""


@pytest.mark.skipif(not GLIBC, reason="glibc only")
def test_tuned_a_large_buffer_uses_the_memory_of_the_last_one_until_it_is_trimmed() -> None:
    output = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout
    plain, tuned, kept, trimmed = map(int, output.split())
    assert plain > 10 * max(tuned, 1)
    assert kept - trimmed > 30 << 20


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    malloc._glibc.cache_clear()
    try:
        assert malloc.tune() is False
        assert malloc.trim() is False
    finally:
        malloc._glibc.cache_clear()


def test_an_old_glibc_gets_the_largest_threshold_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class OldGlibc:
        def mallopt(self, parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return int(parameter != -3 or value <= 32 << 20)

    monkeypatch.setattr(malloc, "_glibc", OldGlibc)
    assert malloc.tune() is True
    assert [value for parameter, value in calls if parameter == -3] == [1 << 30, 32 << 20]
