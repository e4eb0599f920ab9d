"""A skipped test fails the run, unless the list of allowed ones has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

def test_runs(): pass

@pytest.mark.parametrize("one", ["a", "b c"])
def test_leaves(one): pytest.skip("not here")

@pytest.mark.xfail(strict=True)
def test_fails(): assert False
"""


def run(folder: Path, allowed: str, tests: str = TESTS) -> subprocess.CompletedProcess[str]:
    (folder / "tests").mkdir()
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "tests" / "allowed_skips.txt").write_text(allowed)
    (folder / "tests" / "test_some.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("allowed", "code"),
    [
        ("# nothing\n", 1),
        ("tests/test_some.py::test_leaves[a] it is not there\n", 1),
        ("tests/test_some.py::test_leaves[* it is not there\n", 0),
    ],
    ids=["none", "one", "both"],
)
def test_a_skip_fails_the_run_unless_it_is_listed(tmp_path: Path, allowed: str, code: int) -> None:
    done = run(tmp_path, allowed)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("tests/test_some.py::test_leaves[b c]: Skipped: not here" in done.stdout) == bool(code)


def test_a_file_that_is_skipped_whole_is_seen_too(tmp_path: Path) -> None:
    done = run(tmp_path, "", 'import pytest\npytest.importorskip("no_such_module")\n')
    assert done.returncode == 1 and "tests/test_some.py: Skipped: could not import 'no_such_module'" in done.stdout


@pytest.mark.parametrize(
    "test",
    ["@pytest.mark.xfail(run=False, reason='later')\ndef test_one(): pass", "def test_one(): pytest.xfail('later')"],
    ids=["not run", "broken off"],
)
def test_what_xfail_leaves_out_counts_as_skipped(tmp_path: Path, test: str) -> None:
    done = run(tmp_path, "", f"import pytest\n{test}\ndef test_other(): pass\n")
    assert done.returncode == 1 and "tests/test_some.py::test_one: " in done.stdout and "later" in done.stdout


def test_an_entry_needs_a_reason(tmp_path: Path) -> None:
    done = run(tmp_path, "tests/test_some.py::test_leaves\n")
    assert done.returncode != 0 and "no reason for tests/test_some.py::test_leaves" in done.stdout + done.stderr


def test_the_entries_name_tests_that_there_are() -> None:
    for line in (ROOT / "tests" / "allowed_skips.txt").read_text().splitlines():
        if not line.startswith("#"):
            path, _, name = line.partition(" ")[0].partition("::")
            assert f"def {name.partition('*')[0]}" in (ROOT / path).read_text(), line
