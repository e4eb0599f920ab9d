"""Archives whose headers lie: a small one fills neither memory nor time, and what is broken is called broken."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc

import pytest

from mlserve.environments import archive as archives
from mlserve.environments.contents import MOST_HEADER_BYTES
from mlserve.errors import ModelLoadError

MIB = 1 << 20
END = bytes(1024)


def _header(name, size=0, kind=tarfile.REGTYPE):
    """A header of any size: what is too large for octal digits, or negative, is written as GNU tar does."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if not 0 <= size < 8**11:
        block[124:136] = (size % (1 << 96)).to_bytes(12, "big")
        block[124] = 0xFF if size < 0 else 0x80
    else:
        block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _file(name, content):
    return _header(name, len(content)) + content + bytes(-len(content) % 512)


def _unpack(tmp_path, data, check=lambda: None):
    path, folder = tmp_path / "a.tar.gz", tmp_path / "env"
    if isinstance(data, bytes):
        path.write_bytes(data)
    folder.mkdir()
    with open(path, "rb") as file:
        archives.unpack(file, folder, check)
    return folder


def _bomb(path, kind):
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(_header("long", 100 * MIB, kind))
        for _ in range(100):
            file.write(bytes(MIB))


@pytest.mark.parametrize(
    "kind",
    [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE],
)
def test_a_long_header_is_refused_before_it_fills_the_memory(tmp_path, kind):
    _bomb(tmp_path / "a.tar.gz", kind)
    tracemalloc.start()
    try:
        with pytest.raises(ModelLoadError, match="is refused: it has a header of more than 1024 KiB"):
            _unpack(tmp_path, None)
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()


def test_a_name_as_long_as_the_system_takes_is_read(tmp_path):
    name = "/".join(["n" * 200] * 15)
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
            tar.addfile(tarfile.TarInfo(name))
        (tmp_path / str(kind)).mkdir()
        assert (_unpack(tmp_path / str(kind), stream.getvalue()) / name).exists()


def test_headers_for_all_members_cannot_pile_up(tmp_path):
    def one(number):
        record = f"{number:06}=x\n"
        content = f"{len(record) + 3:02} {record}".encode()
        return _header("global", len(content), tarfile.XGLTYPE) + content.ljust(512, b"\0") + _file(f"f{number}", b"")

    with pytest.raises(ModelLoadError, match="more than 100 headers that are for all members"):
        _unpack(tmp_path, b"".join(map(one, range(200))) + END)


@pytest.mark.parametrize("size", [-1, -512, -(1 << 70), 1 << 40, 1 << 63, 1 << 80])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, b"V"])
def test_an_impossible_size_is_an_archive_that_cannot_be_used(tmp_path, kind, size):
    data = _file("bin/python", b"#!") + _header("odd", size, kind) + bytes(4096)
    with pytest.raises(ModelLoadError, match=r"broken or incomplete|is refused"):
        _unpack(tmp_path, data)


@pytest.mark.parametrize(
    "value", [b"size=-600", b"size=99999999999999999999999", b"GNU.sparse.size=x", b"GNU.sparse.map=a,b"]
)
def test_odd_values_in_a_header_are_an_archive_that_cannot_be_used(tmp_path, value):
    content = b"%d %s\n" % (len(value) + 4, value)
    data = _header("extended", len(content), tarfile.XHDTYPE) + content.ljust(512, b"\0")
    with pytest.raises(ModelLoadError, match=r"broken or incomplete|is refused"):
        _unpack(tmp_path, data + _file("bin/python", b"#!" * 600) + END)


def test_headers_within_headers_without_end_are_broken(tmp_path):
    with pytest.raises(ModelLoadError, match=r"broken or incomplete|is refused"):
        _unpack(tmp_path, _header("long", 0, tarfile.GNUTYPE_LONGNAME) * (MOST_HEADER_BYTES // 512 + 10))


def test_a_sparse_file_is_refused_with_what_to_do(tmp_path):
    content = b"GNU.sparse.map=0,2\n"
    content = b"%d %s" % (len(content) + 3, content)
    data = _header("extended", len(content), tarfile.XHDTYPE) + content.ljust(512, b"\0")
    with pytest.raises(ModelLoadError, match="'bin/python' is a sparse file: pack it without --sparse"):
        _unpack(tmp_path, data + _file("bin/python", b"#!") + END)


def test_an_archive_that_stops_between_two_members_is_incomplete(tmp_path):
    whole = _file("bin/python", b"#!") + _file("lib/x", b"x")
    with pytest.raises(ModelLoadError, match=r"broken or incomplete \(its end is missing"):
        _unpack(tmp_path, whole)


def test_an_archive_that_is_damaged_between_two_members_is_broken(tmp_path):
    with pytest.raises(ModelLoadError, match="broken or incomplete"):
        _unpack(tmp_path, _file("bin/python", b"#!") + b"\1" * 512 + _file("lib/x", b"x") + END)


def test_it_can_be_stopped_while_it_reads_what_is_no_members_content(tmp_path):
    class Stopped(Exception):
        pass

    checks = iter(range(20))

    def check():
        if next(checks) == 19:
            raise Stopped

    with pytest.raises(Stopped):
        _unpack(tmp_path, _file("bin/python", b"#!") + END + bytes(50 * MIB), check)
