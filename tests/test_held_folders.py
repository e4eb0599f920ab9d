"""Temporary folders of processes that run, that end, and that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlserve.held_folders import held_folder

_HOLDS = """
import sys
from mlserve.held_folders import held_folder
with held_folder("mlserve-test-") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that holds a folder."""
    variables = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _HOLDS], env=variables, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            folder = Path(process.stdout.readline().strip())
            (folder / "inside").mkdir()
            (folder / "inside" / "file").touch()
            yield process, folder
        finally:
            process.kill()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_removed_at_the_end(place: Path) -> None:
    with held_folder("mlserve-test-") as folder:
        assert [str(one) for one in place.iterdir()] == [folder]
        (Path(folder) / "file").touch()
    assert not list(place.iterdir())


def test_what_a_killed_process_has_left_is_removed_by_the_next(place: Path) -> None:
    with holding(place) as (process, left):
        process.kill()
        process.wait()
        with held_folder("mlserve-other-"):
            assert left.exists()
        with held_folder("mlserve-test-"):
            assert not left.exists()


def test_a_folder_that_is_in_use_stays(place: Path) -> None:
    with held_folder("mlserve-test-") as own, holding(place) as (process, other):
        with held_folder("mlserve-test-"):
            assert Path(own).exists() and other.exists()
        process.communicate("")
        assert Path(own).exists() and not other.exists()


def test_a_link_of_that_name_is_left_alone(place: Path) -> None:
    (place / "precious").mkdir()
    (place / "mlserve-test-link").symlink_to(place / "precious")
    with held_folder("mlserve-test-"):
        assert (place / "precious").exists() and (place / "mlserve-test-link").is_symlink()
