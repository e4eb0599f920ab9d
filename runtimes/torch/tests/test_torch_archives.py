"""An archive made to be read in two ways, or to end the check of its texts early, is not served."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlserve.errors import ModelLoadError
from mlserve_torch.expressions import is_guard
from mlserve_torch.foreign_code import find_code_in_samples
from runtimes.torch.tests import nets
from runtimes.torch.tests.test_torch import X, ask, load, own
from runtimes.torch.tests.test_torch_exported_code import changed, export, honest, in_a_guard, in_program

COMPILED = "data/aotinductor/model/x.so"


def end_of(raw: bytes) -> tuple[int, int, int]:
    """How many records the directory of a zip file has, its length and place."""
    end = raw.rfind(b"PK\5\6")
    count, size, place = struct.unpack("<HII", raw[end + 10 : end + 20])
    return count, size, place


def end_of_big(count: int, size: int, place: int) -> bytes:
    return struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, place)


def with_two_directories(more: str) -> bytes:
    """An honest program, to which one of two directories adds a record: the one that PyTorch reads, not Python."""
    buffer = io.BytesIO(honest())
    with zipfile.ZipFile(buffer, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/{more}", b"machine code")
    raw = buffer.getvalue()
    count, size, place = end_of(raw)
    every = raw[place : place + size]
    last = every.rfind(b"PK\1\2")  # the record that was added
    made = raw[:place] + every
    first = len(made)
    made += end_of_big(count, size, place)
    second = len(made)
    made += every[:last] + end_of_big(count - 1, last, second)
    made += struct.pack("<4sLQL", b"PK\6\7", 0, first, 1)
    return made + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def names_for_both(path: Path) -> tuple[list[str], list[str]]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        return archive.namelist(), torch._C.PyTorchFileReader(file).get_all_records()


def test_machine_code_that_only_pytorch_finds_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(with_two_directories(COMPILED))
    for_python, for_pytorch = names_for_both(path)
    assert COMPILED in for_pytorch and not any(COMPILED in name for name in for_python)
    for extra in ({}, {"allow_pickle": True}):
        with pytest.raises(ModelLoadError, match="machine code of AOTInductor"):
            load(tmp_path, extra)


def test_an_archive_that_python_and_pytorch_read_differently_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(with_two_directories("extra/notes.txt"))
    with pytest.raises(ModelLoadError, match="several directories, which name different records"):
        load(tmp_path)
    ask(load(tmp_path, {"allow_pickle": True}), x=X)


def with_a_broken_record(path: Path, how: str) -> None:
    """Before all others but the first: one that PyTorch's reader fails at, and never comes to when it loads."""
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    (first, *others) = records
    name = f"{first.split('/')[0]}/data/weights/broken.json"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(first, records[first])
        target.writestr(name, json.dumps(list(range(500))), zipfile.ZIP_DEFLATED)
        for other in others:
            target.writestr(other, records[other])
        start = target.getinfo(name).header_offset
    raw = bytearray(path.read_bytes())
    entry = raw.rfind(name.encode()) - 46  # in the directory
    assert raw[entry : entry + 4] == b"PK\1\2"
    if how == "header":
        raw[start : start + 4] = b"XXXX"
    elif how == "method":
        raw[entry + 10 : entry + 12] = struct.pack("<H", 12)
    else:
        raw[entry + 8] |= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["method", "header", "encrypted"])
def test_a_record_that_cannot_be_read_does_not_end_the_check(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(honest())
    in_program(path, in_a_guard, f"__import__('os').mkdir('{tmp_path / 'ran'}')")
    with_a_broken_record(path, how)
    with pytest.raises(ModelLoadError, match=r"data/weights/broken\.json: it cannot be read"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()
    ask(load(tmp_path, {"allow_pickle": True}), x=X)
    assert (tmp_path / "ran").exists()  # PyTorch would not have noticed


def test_a_program_of_an_older_version_cannot_hide_behind_records_of_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(honest())
    changed(path, lambda name, content: b"no number" if name.endswith("archive_version") else None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("serialized_exported_program.json", json.dumps({"guards_code": ["exit()"]}))
    with pytest.raises(ModelLoadError, match=r"program\.json: guards_code\[0\]: 'exit\(\)'"):
        load(tmp_path)


# -- names and keys ---------------------------------------------------------------------------------------------------


class Parts(torch.nn.Module):
    """With a part and an argument that are not named in English."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleDict({"größe-1 (a)": torch.nn.Linear(4, 4)})

    def forward(self, größe: torch.Tensor) -> torch.Tensor:
        return self.parts["größe-1 (a)"](größe)


def test_names_in_any_language_are_served(tmp_path: Path) -> None:
    module = nets.made(Parts)
    export(module, tmp_path / "model.pt2", torch.ones(6, 4), shapes={"größe": {0: nets.BATCH}})
    assert np.array_equal(ask(load(tmp_path), größe=X)["output"], own(module, X))


@pytest.mark.parametrize("name", ['a", f(), "', "a', f(), '", "a\\", "a\nb", "a{f()}"])
def test_the_name_of_a_part_cannot_end_its_quotes(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.pt2").write_bytes(honest())

    def change(document: dict[str, Any], _: str) -> None:
        document["graph_module"]["module_call_graph"][0]["fqn"] = name
        specs = document["graph_module"]["signature"]["input_specs"]
        specs[0]["parameter"]["parameter_name"] = name

    in_program(tmp_path / "model.pt2", change, "")
    with pytest.raises(ModelLoadError, match=r"would run as code.*input_specs\[0\]\.parameter\.parameter_name"):
        load(tmp_path)


def test_keys_of_sample_inputs_cannot_end_their_quotes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(honest())
    key = f'x" + str(__import__("os").mkdir("{tmp_path / "ran"}")) + "'
    samples = io.BytesIO()
    torch.save((({key: torch.ones(6, 4)},), {}), samples)
    changed(path, lambda name, content: samples.getvalue() if "sample_inputs" in name else None)
    with pytest.raises(ModelLoadError, match=r"would run as code.*sample inputs"):
        load(tmp_path)
    ask(load(tmp_path, {"allow_pickle": True}), x=X)
    assert (tmp_path / "ran").exists()


def test_keys_of_sample_inputs_in_any_language_are_let_in() -> None:
    assert find_code_in_samples((({"größe (a)": torch.ones(1), 3: [torch.ones(1)]},), {})) is None
    assert is_guard("L['x']['ä'].size()[0] == L['y'].size()[0]")
    assert not is_guard("ä()") and not is_guard("L['ä'].ä()")
