"""Environments of models: found, unpacked once, completed with what a worker needs, and clearly refused."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mlserve.environments import Environments
from mlserve.environments.once import make_once
from mlserve.environments.overlay import NEEDS
from mlserve.errors import ModelLoadError, StartupError
from mlserve.settings import ModelParameters, ModelSettings
from tests.packed import archive_of, bare_venv, link, pack, same_mlserve

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parent.parent


def _model(**parameters):
    return ModelSettings(name="m", implementation="x.Y", parameters=ModelParameters(**parameters))


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("venv") / "venv"
    bare_venv(folder)
    return folder


@pytest.fixture(scope="module")
def packed(venv, tmp_path_factory):
    return pack(venv, tmp_path_factory.mktemp("packed") / "env.tar.gz")


@pytest.fixture
def environments(tmp_path):
    return Environments(tmp_path / ".envs")


async def test_a_model_that_asks_for_none_has_none(environments):
    assert await environments.of_model(ModelSettings(name="m", implementation="x.Y")) is None
    assert await environments.of_model(_model(uri="here")) is None


async def test_an_archive_is_unpacked_under_a_name_made_of_its_content(environments, packed, tmp_path):
    environment = await environments.of_model(_model(environment_tarball=str(packed)))
    assert environment.name.startswith("env.tar.gz (")
    root = Path(environment.python).parent.parent
    assert re.fullmatch(r"environment-[0-9a-f]{32}", root.name) and root.parent == tmp_path / ".envs"
    assert environment.variables["VIRTUAL_ENV"] == str(root)
    assert environment.variables["PATH"].startswith(f"{root}/bin:")
    assert "PYTHONPATH" not in environment.variables
    assert same_mlserve(environment.overlay)


@pytest.mark.slow
async def test_a_folder_is_used_where_it_is_and_left_as_it_was(environments, venv):
    before = sorted(str(path) for path in venv.rglob("*"))
    environment = await environments.of_model(_model(environment_path=str(venv)))
    assert Path(environment.python).parent.parent == venv
    assert sorted(str(path) for path in venv.rglob("*")) == before


@pytest.mark.slow
async def test_where_both_are_given_the_folder_counts(environments, venv, packed):
    environment = await environments.of_model(_model(environment_path=str(venv), environment_tarball=str(packed)))
    assert Path(environment.python).parent.parent == venv


@pytest.mark.slow
async def test_an_archive_of_a_folder_will_do(environments, venv, tmp_path):
    path = pack(venv, tmp_path / "env.tar.gz", prefix="my-env/")
    environment = await environments.of_model(_model(environment_tarball=str(path)))
    assert Path(environment.python).parent.parent.name == "my-env"


async def test_many_that_want_it_at_the_same_time_unpack_it_once(packed, tmp_path, caplog):
    found = []

    async def want():  # each as a server of its own
        found.append(await Environments(tmp_path / ".envs").of_model(_model(environment_tarball=str(packed))))

    with caplog.at_level(logging.INFO, "mlserve.environments"):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(want)
    assert sum("unpacking" in record.message for record in caplog.records) == 1
    assert len({one.name for one in found}) == 1 and len(found) == 4


@pytest.mark.slow
async def test_an_archive_that_has_changed_is_another_environment(environments, venv, packed, tmp_path):
    path = tmp_path / "env.tar.gz"
    path.write_bytes(packed.read_bytes())
    first = await environments.of_model(_model(environment_tarball=str(path)))
    copy = tmp_path / "copy"
    bare_venv(copy)
    (copy / "note.txt").write_text("new")
    pack(copy, path)
    second = await environments.of_model(_model(environment_tarball=str(path)))
    assert first.name != second.name and first.python != second.python
    assert Path(second.python).parent.parent.joinpath("note.txt").exists()


@pytest.mark.slow
async def test_a_folder_whose_packages_changed_is_another_environment(environments, tmp_path):
    packages = bare_venv(tmp_path / "venv")
    first = await environments.of_model(_model(environment_path=str(tmp_path / "venv")))
    assert await environments.of_model(_model(environment_path=str(tmp_path / "venv"))) == first
    os.utime(packages, ns=(1, 1))
    second = await environments.of_model(_model(environment_path=str(tmp_path / "venv")))
    assert second.name != first.name


_KILLED = """
import os, signal, sys
import anyio
from pathlib import Path
from mlserve.environments.archive import unpack
from mlserve.environments.once import make_once

archive, folder = open(sys.argv[1], "rb"), Path(sys.argv[2])

def check():
    if (folder / "mlserve-complete").exists():
        os.kill(os.getpid(), signal.SIGKILL)

async def make(lock):
    unpack(archive, folder, check)

anyio.run(make_once, folder, make)
"""


@pytest.mark.slow
async def test_what_a_killed_server_left_is_not_taken_for_whole(environments, venv, tmp_path):
    """Whatever the names are of what is in the archive."""
    shutil.copytree(venv, tmp_path / "venv", symlinks=True)
    (tmp_path / "venv" / "mlserve-complete").touch()
    packed = pack(tmp_path / "venv", tmp_path / "env.tar.gz")
    first = await Environments(tmp_path / "elsewhere").of_model(_model(environment_tarball=str(packed)))
    folder = tmp_path / ".envs" / Path(first.python).parent.parent.name
    command = [sys.executable, "-c", _KILLED, str(packed), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == -9, done.stderr
    assert folder.is_dir() and any(folder.iterdir()), "it was killed in the middle"
    (folder / "left-over").touch()
    environment = await environments.of_model(_model(environment_tarball=str(packed)))
    assert Path(environment.python).parent.parent == folder
    assert not (folder / "left-over").exists()
    assert (folder / "pyvenv.cfg").exists()


async def test_a_folder_that_somebody_deleted_is_made_again(tmp_path):
    folder = tmp_path / "made"

    async def make(lock):
        (folder / "whole").touch()

    async def fail(lock):
        raise ValueError

    await make_once(folder, make)
    shutil.rmtree(folder)
    await make_once(folder, make)
    assert (folder / "whole").exists()
    shutil.rmtree(folder)
    with pytest.raises(ValueError):
        await make_once(folder, fail)
    folder.mkdir()  # as one that was killed before it could clean up leaves it
    await make_once(folder, make)
    assert (folder / "whole").exists()


async def test_a_making_that_fails_or_is_cancelled_leaves_nothing(tmp_path):
    folder = tmp_path / "made"
    begun = anyio.Event()

    async def fail(lock):
        (folder / "half").touch()
        raise ValueError

    async def hang(lock):
        (folder / "half").touch()
        begun.set()
        await anyio.sleep_forever()

    with pytest.raises(ValueError):
        await make_once(folder, fail)
    assert not folder.exists()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make_once, folder, hang)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert not folder.exists()


async def test_a_child_that_still_writes_holds_the_lock_of_its_killed_parent(tmp_path):
    """An orphaned pip must not write into what its successor makes."""
    folder, done = tmp_path / "made", anyio.Event()
    child: list[subprocess.Popen[bytes]] = []

    async def start_child(lock):
        child.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,)))
        raise ValueError  # the parent is gone

    async def make(lock):
        done.set()

    with pytest.raises(ValueError):
        await make_once(folder, start_child)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make_once, folder, make)
        with anyio.move_on_after(0.5):
            await done.wait()
        assert not done.is_set()
        child[0].communicate(b"\n")
        with anyio.fail_after(60):
            await done.wait()


@pytest.mark.slow
async def test_conda_unpack_is_run_where_the_environment_will_stay(environments, venv, tmp_path):
    copy = tmp_path / "copy"
    bare_venv(copy)
    script = "import pathlib, sys; pathlib.Path(sys.prefix, 'place.txt').write_text(__file__)"
    (copy / "bin" / "conda-unpack").write_text(f"#!/no/such/python\n{script}\n")
    path = pack(copy, tmp_path / "env.tar.gz")
    environment = await environments.of_model(_model(environment_tarball=str(path)))
    root = Path(environment.python).parent.parent
    assert (root / "place.txt").read_text() == str(root / "bin" / "conda-unpack")


async def test_a_conda_unpack_that_fails_fails_the_load(environments, tmp_path):
    copy = tmp_path / "copy"
    bare_venv(copy)
    (copy / "bin" / "conda-unpack").write_text("raise SystemExit('no prefix here')")
    path = pack(copy, tmp_path / "env.tar.gz")
    with pytest.raises(ModelLoadError, match="its bin/conda-unpack failed: no prefix here"):
        await environments.of_model(_model(environment_tarball=str(path)))
    assert not [one for one in (tmp_path / ".envs").glob("environment-*") if one.is_dir()]


async def test_without_pip_the_error_names_what_is_missing_and_the_command(environments, tmp_path):
    bare_venv(tmp_path / "venv", with_packages=False)
    with pytest.raises(ModelLoadError) as caught:
        await environments.of_model(_model(environment_path=str(tmp_path / "venv")))
    message = caught.value.message
    assert "has no pip, and mlserve's worker needs anyio, msgspec, numpy, orjson, pysimdjson, sniffio" in message
    assert "python -m pip install 'anyio>=4.10' 'msgspec>=0.20'" in message


async def test_a_pip_that_fails_is_quoted_with_the_command(environments, tmp_path):
    packages = bare_venv(tmp_path / "venv", with_packages=False)
    for name, text in {"__init__": "", "__main__": "raise SystemExit('no index can be reached')"}.items():
        (packages / "pip").mkdir(exist_ok=True)
        (packages / "pip" / f"{name}.py").write_text(text)
    (packages / "pip-1.0.dist-info").mkdir()
    (packages / "pip-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pip\nVersion: 1.0\n")
    with pytest.raises(
        ModelLoadError, match=r"before it is packed: python -m pip .*\(its pip could not install them now: no index"
    ):
        await environments.of_model(_model(environment_path=str(tmp_path / "venv")))
    assert not [one for one in (tmp_path / ".envs").glob("overlay-*") if one.is_dir()]


async def test_an_environment_in_which_a_worker_cannot_start_is_refused_with_its_last_word(environments, tmp_path):
    packages = bare_venv(tmp_path / "venv")
    (packages / "msgspec.py").write_text("raise ImportError('the wrong C library')")
    with pytest.raises(ModelLoadError, match=r"cannot run mlserve's worker: .*ImportError: the wrong C library"):
        await environments.of_model(_model(environment_path=str(tmp_path / "venv")))


_ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44)  # for aarch64
_OTHER_ELF = _ELF[:18] + b"\x16\x00" + _ELF[20:]  # for s390x, whatever this machine is
_OLD = b"#!/bin/sh\necho '{\"version\": [3, 8, 18]}'\n"

BAD = {
    "no python": ([("lib/x.txt", b"")], "has no bin/python: it must hold a whole Python environment"),
    "python of Windows": ([("Scripts/python.exe", b"MZ"), ("python.exe", b"MZ")], "was made on Windows"),
    "another processor": ([("bin/python", _OTHER_ELF)], "is a program for Linux s390x, and this machine is"),
    "macOS": ([("bin/python", b"\xcf\xfa\xed\xfe" + bytes(60))], "is a program for macOS, and this machine is"),
    "a beginning of a program": ([("bin/python", b"\x7fELF")], "bin/python is cut off after 4 bytes"),
    "a link to itself": ([link("bin/python", "python")], "bin/python is a link that leads back to itself"),
    "no program": ([("bin/python", b"\x00\x01 nothing")], "is no program that"),
    "a python that is not there": (
        [link("bin/python", "/opt/no-such-python/bin/python3.11")],
        "leads to /opt/no-such-python/bin/python3.11, which is not there. A venv only works on a machine that has",
    ),
    "too old": ([("bin/python", _OLD)], "has Python 3.8.18; mlserve's workers need 3.10 or newer"),
    "a python that fails": (
        [("bin/python", b"#!/bin/sh\necho 'no libpython' >&2; exit 3\n")],
        "not run here: no libpython",
    ),
    "a python that says nothing": ([("bin/python", b"#!/bin/sh\nexit 3\n")], "ended with exit code 3"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_an_environment_that_cannot_run_here_says_why(environments, tmp_path, kind):
    members, expected = BAD[kind]
    path = archive_of(tmp_path / "env.tar.gz", *members)
    with pytest.raises(ModelLoadError) as caught:
        await environments.of_model(_model(environment_tarball=str(path)))
    assert expected in caught.value.message and str(path) in caught.value.message


async def test_a_real_python_that_is_too_old_is_refused(environments, tmp_path):
    old = [path for path in Path.home().glob(".pyenv/versions/*/bin/python3.[6-9]") if path.exists()]
    if not old:
        pytest.skip("no Python older than 3.10 on this machine")
    path = archive_of(tmp_path / "env.tar.gz", link("bin/python", str(old[0])))
    with pytest.raises(ModelLoadError, match=r"has Python 3\.\d\.\d+; mlserve's workers need 3\.10 or newer"):
        await environments.of_model(_model(environment_tarball=str(path)))


async def test_what_is_not_there_or_of_the_other_kind_is_named(environments, packed, venv, tmp_path):
    for parameters, expected in [
        ({"environment_path": "a" * 5000}, "aaa"),
        ({"environment_path": "a\0b"}, "is not there"),
        ({"environment_tarball": "/no/such/env.tar.gz"}, "the environment /no/such/env.tar.gz is not there"),
        ({"environment_path": "/no/such/env"}, "the environment /no/such/env is not there"),
        ({"environment_tarball": str(venv)}, "is a folder; is it meant as environment_path?"),
        ({"environment_path": str(packed)}, "is a file; is it meant as environment_tarball?"),
    ]:
        with pytest.raises(ModelLoadError) as caught:
            await environments.of_model(_model(**parameters))
        assert expected in caught.value.message


async def test_a_place_that_cannot_be_written_is_named(packed, tmp_path):
    (tmp_path / "file").touch()
    environments = Environments(tmp_path / "file" / ".envs")
    with pytest.raises(ModelLoadError, match=r"cannot be prepared: Not a directory.*environments_dir is .*file/\.envs"):
        await environments.of_model(_model(environment_tarball=str(packed)))


@pytest.mark.slow
async def test_an_image_names_the_environment_of_all_models_by_a_variable(environments, packed, monkeypatch):
    assert await environments.of_image() is None
    monkeypatch.setenv("MLSERVER_ENV_TARBALL", "/no/such.tar.gz")
    with pytest.raises(StartupError, match=r"variable MLSERVER_ENV_TARBALL: the environment /no/such\.tar\.gz is not"):
        await environments.of_image()
    monkeypatch.setenv("MLSERVER_ENV_TARBALL", str(packed))
    environment = await environments.of_image()
    assert environment.name.startswith("env.tar.gz (")


def test_what_a_worker_needs_is_asked_for_as_in_the_project_file():
    text = (ROOT / "pyproject.toml").read_text()
    for name, oldest in NEEDS.items():
        if name != "numpy":
            assert f'"{name}>={oldest}"' in text, name


def test_a_worker_imports_what_it_needs_and_no_transport():
    code = (
        "import sys, mlserve.worker_main\n"
        "print(*sorted({name.partition('.')[0] for name, one in sys.modules.items()"
        " if 'site-packages' in (getattr(one, '__file__', None) or '')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    distributions = {"csimdjson": "pysimdjson", "simdjson": "pysimdjson"}
    imported = {distributions.get(name, name) for name in done.stdout.split()}
    of_others = {"_distutils_hack", "exceptiongroup", "idna", "mlserve", "typing_extensions"}  # anyio's, and the venv's
    assert imported - of_others <= set(NEEDS)
