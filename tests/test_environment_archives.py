"""Archives of environments: what is unpacked and how, what is refused, and that nothing is written elsewhere."""

from __future__ import annotations

import os
import stat
import tarfile
from collections import namedtuple

import pytest

from mlserve.environments import archive as archives
from mlserve.errors import ModelLoadError
from tests.packed import archive_of, link


def _unpack(path, folder, check=lambda: None):
    folder.mkdir(exist_ok=True)
    with open(path, "rb") as file:
        archives.unpack(file, folder, check)


def _files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


@pytest.fixture
def place(tmp_path):
    """A folder to unpack into; all that is beside it has to stay as it is."""
    (tmp_path / "secret").write_text("before")
    yield tmp_path / "inside" / "env"
    assert (tmp_path / "secret").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} <= {"secret", "inside", "a.tar.gz"}


@pytest.fixture
def folder(place):
    place.parent.mkdir()
    return place


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files_folders_and_links_come_out_as_they_went_in(tmp_path, folder, mode):
    directory = tarfile.TarInfo("./empty")
    directory.type = tarfile.DIRTYPE
    plain = tarfile.TarInfo("lib/data.txt")
    plain.size, plain.mode = 0, 0o640
    path = archive_of(
        tmp_path / "a.tar.gz",
        ("./bin/tool", b"#!"),
        directory,
        plain,
        link("lib64", "lib"),
        link("bin/python3", "python"),
        link("bin/python", "/usr/bin/python3.11"),
        link("second", "bin/tool", tarfile.LNKTYPE),
        mode=mode,
    )
    _unpack(path, folder)
    assert _files(folder) == {"bin/tool", "bin/python", "bin/python3", "lib/data.txt", "lib64", "second"}
    assert (folder / "empty").is_dir()
    assert stat.S_IMODE((folder / "bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "lib/data.txt").stat().st_mode) == 0o644
    assert os.readlink(folder / "lib64") == "lib" and os.readlink(folder / "bin/python") == "/usr/bin/python3.11"
    assert (folder / "second").read_bytes() == b"#!"


def test_of_two_members_of_one_name_the_last_one_counts(tmp_path, folder):
    path = archive_of(
        tmp_path / "a.tar.gz", ("pyvenv.cfg", b"old"), link("x", "pyvenv.cfg"), ("pyvenv.cfg", b"new"), ("x", b"x")
    )
    _unpack(path, folder)
    assert (folder / "pyvenv.cfg").read_bytes() == b"new" and (folder / "x").read_bytes() == b"x"
    assert not (folder / "x").is_symlink()


def _device(name):
    member = tarfile.TarInfo(name)
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    return member


def _pipe(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.FIFOTYPE
    return member


EVIL = {
    "a name that climbs": ([("../secret", b"evil")], "'../secret' would be written outside"),
    "a name that climbs later": ([("lib/../../../secret", b"evil")], "outside of its folder"),
    "an absolute name": ([("/tmp/mlserve-evil", b"evil")], "outside of its folder"),
    "an absolute link": ([link("lib/out", "/etc")], "'lib/out' leads out of its folder, to '/etc'"),
    "a link that climbs": ([link("lib/out", "../../..")], "leads out of its folder"),
    "a link of links that climbs": ([link("a", "b/../.."), link("b", "c")], "leads out of its folder"),
    "a link through a link": (
        [("sub/deep/f", b"x"), link("sub/deep/l", "../.."), link("x", "sub/deep/l/../secret")],
        "'x' leads out of its folder, to 'sub/deep/l/../secret'",
    ),
    "a link through one that comes later": ([link("x", "a/b/../secret"), link("a/b", "..")], "'x' leads out"),
    "an absolute link to look like python": ([link("lib/bin/pythonic", "/etc")], "leads out"),
    "a file through a link": ([link("lib", "bin"), ("lib/x", b"")], "'lib/x' would be written through a link"),
    "a file through python": ([link("bin/python", "/tmp"), ("bin/python/x", b"")], "through a link"),
    "a folder through a file": ([("lib", b""), ("lib/x", b"")], "through a link or a file"),
    "a file over a folder": ([("lib/x", b""), ("lib", b"")], "there as a folder already"),
    "a second name of what is outside": ([link("x", "../secret", tarfile.LNKTYPE)], "outside of its folder"),
    "a second name of nothing": ([link("x", "y", tarfile.LNKTYPE)], "which is no file of it"),
    "a second name of a link": (
        [link("bin/python", "/etc/passwd"), link("x", "bin/python", tarfile.LNKTYPE)],
        "which is no file of it",
    ),
    "a device": ([_device("null")], "'null' is a device or pipe"),
    "a pipe": ([_pipe("pipe")], "'pipe' is a device or pipe"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_what_leads_out_of_the_folder_is_refused(tmp_path, folder, kind):
    members, expected = EVIL[kind]
    path = archive_of(tmp_path / "a.tar.gz", ("bin/tool", b""), *members)
    with pytest.raises(ModelLoadError, match="is refused") as caught:
        _unpack(path, folder)
    assert expected in caught.value.message and str(path) in caught.value.message
    assert not os.path.exists("/tmp/mlserve-evil")


def test_more_than_the_bound_is_refused_before_the_disk_is_full(tmp_path, folder, monkeypatch):
    path = archive_of(tmp_path / "a.tar.gz", ("huge", bytes(40 << 20)))
    monkeypatch.setattr(archives, "MOST_BYTES", 30 << 20)
    with pytest.raises(ModelLoadError, match="takes more than 0 GiB"):
        _unpack(path, folder)


def test_what_the_disk_has_free_is_a_bound_too(tmp_path, folder, monkeypatch):
    free = archives._SPARE_BYTES + (1 << 20)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    path = archive_of(tmp_path / "a.tar.gz", ("huge", bytes(3 << 20)))
    with pytest.raises(ModelLoadError, match=r"more than the 1 MiB that are free at .*inside"):
        _unpack(path, folder)


def test_too_many_members_are_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    path = archive_of(tmp_path / "a.tar.gz", *((f"lib/{number}", b"") for number in range(4)))
    with pytest.raises(ModelLoadError, match="more than 3 members"):
        _unpack(path, folder)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_a_truncated_archive_is_called_incomplete(tmp_path, folder, mode):
    path = archive_of(tmp_path / "a.tar.gz", ("lib/x", os.urandom(300_000)), ("lib/y", os.urandom(300_000)), mode=mode)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ModelLoadError, match=r"broken or incomplete .*bytes\); copy or pack it anew"):
        _unpack(path, folder)


def test_a_damaged_archive_is_called_broken(tmp_path, folder):
    path = archive_of(tmp_path / "a.tar.gz", ("lib/x", os.urandom(300_000)))
    data = bytearray(path.read_bytes())
    data[100_000:100_100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match="broken or incomplete"):
        _unpack(path, folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "broken or incomplete"),
        (b"no archive at all" * 100, "broken or incomplete"),
        (b"PK\x03\x04" + bytes(100), "is a zip archive; pack it as .tar.gz"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "packed with zstd"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run `git lfs pull`"),
    ],
)
def test_what_is_no_tar_archive_is_named(tmp_path, folder, content, expected):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        _unpack(path, folder)
    assert expected in caught.value.message


def test_it_can_be_stopped_within_a_file(tmp_path, folder):
    path = archive_of(tmp_path / "a.tar.gz", ("huge", bytes(10 << 20)))
    checks = iter(range(5))

    class Stopped(Exception):
        pass

    def check():
        if next(checks) == 4:
            raise Stopped

    with pytest.raises(Stopped):
        _unpack(path, folder, check)
    assert (folder / "huge").stat().st_size < 10 << 20
