"""Finds in an exported program what PyTorch would run as code when it reads it: only known kinds of text are let in.

PyTorch evaluates texts of the file (sizes through sympy, guards by `exec`), looks names up from `torch` on to call what
it finds, writes names into Python source, imports modules that the form of the answer names, and unpickles constants.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import torch
from torch.utils._pytree import keystr, tree_leaves_with_path

from mlserve_torch.archive import differs_for_python, reader_of
from mlserve_torch.expressions import is_expression, is_guard

__all__ = ["find_code", "find_code_in_samples"]

_OLD = "serialized_exported_program.json"  # of PyTorch before 2.8, in a plain zip file
_PLACES = ("models/", "data/weights/", "data/constants/")
_NAME = re.compile(r"[\w.@+\-/: ]*", re.ASCII)  # nothing that could end a text in quotes, call or assign
_PATH = re.compile(r"(?:\[(?:\d+|'[^'\"\\{}]*')\])*")  # to a part of nested lists and dicts, as PyTorch writes it
_IN_QUOTES = ("parameter_name", "buffer_name", "fqn")  # in source: `getattr(…, "name")` where it is no identifier
_PAYLOAD = re.compile(r"(?:weight|tensor)_\d+", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(?:\.((?!__)\w+))?", re.ASCII)
_FILES = frozenset({("aten", "from_file"), ("debugprims", "load_tensor")})  # operators that open files
_SIZES = {  # what computes sizes, by the module that it is looked up in
    "_operator": "eq ne le ge lt gt neg pos mul add sub floordiv mod pow truediv and_ or_ lshift rshift abs getitem",
    "math": "trunc ceil floor sqrt",
    "torch": "sym_not sym_int sym_float sym_ite sym_max sym_min sym_sqrt sym_sum sym_fresh_size",
}
_OF_GRAPHS = (  # higher-order operators that run graphs of the program, and nothing else
    "cond while_loop map_impl map scan associative_scan strict_mode out_dtype auto_functionalized hints_wrapper "
    "auto_functionalized_v2 with_effects invoke_subgraph flex_attention tag_activation_checkpoint "
    "wrap_activation_checkpoint wrap_with_set_grad_enabled wrap_with_autocast"
)


def find_code(file: BinaryIO) -> str | None:
    """Where in a program that torch.export.save wrote code may stand, with its beginning; None if it has none.

    What is read is what PyTorch will read: it looks into such a file in two ways. Its first way may fail at any record
    that it comes to, and it need not come to all; so what cannot be read here counts as code.
    """
    reader = reader_of(file)
    with zipfile.ZipFile(file) as archive:
        if reader is not None and differs_for_python(reader, archive):
            return "the archive has several directories, which name different records"
        found = next(_places_in(chain(_of_reader(reader), _of_old(archive))), None)
    file.seek(0)
    return found


def find_code_in_samples(inputs: Any) -> str | None:
    """The same for the sample inputs of a program that was read but not yet made callable.

    PyTorch writes the keys of dicts in them into the source of its conditions on inputs, in quotes.
    """
    for path, _ in tree_leaves_with_path(inputs):
        text = keystr(path)
        if not _PATH.fullmatch(text):
            return f"sample inputs: {text!r:.80}"
    return None


def _of_reader(reader: Any) -> Iterator[tuple[str, bytes | None]]:
    """What may hold code; without content where PyTorch's reader fails."""
    for name in reader.get_all_records() if reader is not None else ():
        if name.startswith(_PLACES) and (name.startswith("models/") or name.endswith(".json")):
            try:
                content = reader.get_record(name)
            except RuntimeError:
                content = None
            yield name, content


def _of_old(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    if _OLD in archive.namelist():
        yield _OLD, archive.read(_OLD)


def _places_in(documents: Iterable[tuple[str, bytes | None]]) -> Iterator[str]:
    for name, content in documents:
        if content is None:
            yield f"{name}: it cannot be read"
            continue
        try:
            document = json.loads(content.decode())
        except ValueError:
            continue  # PyTorch will say so
        places = _in_payloads(document) if name.startswith("data/") else _in_program(document)
        for place, text in places:
            yield f"{name}: {place}: {text!r:.80}"


def _in_payloads(document: Any) -> Iterator[tuple[str, Any]]:
    """Constants and weights that are no tensors."""
    config = document.get("config") if isinstance(document, dict) else None
    for name, one in config.items() if isinstance(config, dict) else ():
        path = one.get("path_name") if isinstance(one, dict) else None
        if not (isinstance(path, str) and _PAYLOAD.fullmatch(path)):
            yield f"{name}.path_name", path


def _in_program(value: Any, place: str = "", key: str = "") -> Iterator[tuple[str, Any]]:
    """All texts below a value of JSON that are not of the kind that belongs there, the keys of objects included."""
    if isinstance(value, dict):
        if key == "metadata" and all(isinstance(one, str) for one in value.values()):
            return  # texts for people: where in the source a step comes from
        for name, one in value.items():
            is_right = is_expression(name) if key == "range_constraints" else _NAME.fullmatch(name)
            if not is_right:
                yield f"{place} has a key", name
            yield from _in_program(one, f"{place}.{name}".lstrip("."), name)
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from _in_program(one, f"{place}[{at}]", key)
    elif isinstance(value, str) and not _belongs(value, key, place):
        yield place, value


def _belongs(text: str, key: str, place: str) -> bool:
    if key == "expr_str":
        return is_expression(text)
    if key == "guards_code":
        return is_guard(text)
    if key in ("target", "as_operator"):
        return _is_operator(text)
    if key in ("in_spec", "out_spec"):
        return _is_form(text, key == "in_spec")
    if key in ("as_string", "as_strings"):  # an argument of an operator, quoted in the source that is made of it
        return place.rpartition(f".{key}")[0].endswith(".arg") or _fits_quotes(text)
    if key in _IN_QUOTES:
        return _fits_quotes(text)
    if key in ("name", "as_name", "forward_arg_names"):  # in Python source
        return not text or text.isidentifier()
    return bool(_NAME.fullmatch(text))


def _fits_quotes(text: str) -> bool:
    """Whether it stays a text where it is written into source between quotes of either kind, without escapes."""
    return text.isprintable() and not set(text) & set("'\"\\{}")


def _is_operator(target: str) -> bool:
    """Whether it names an operator that computes, or nothing. Names below `torch` lead to all modules of Python."""
    module, _, name = target.partition(".")
    if name in _SIZES.get(module, "").split():
        return True
    match = _OPERATOR.fullmatch(target)
    if match is None:
        return False
    space, name, variant = match.groups()
    if space == "higher_order":
        return variant is None and name in _OF_GRAPHS.split()
    if (space, name) in _FILES:
        return False
    if torch._C._dispatch_has_kernel(f"{space}::{name}{'' if variant in (None, 'default') else f'.{variant}'}"):
        return True  # not so those of TorchScript alone, one of which writes files
    found = getattr(getattr(torch.ops, space), name, None)
    return found is None or (variant is not None and not hasattr(found, variant))


def _is_form(text: str, is_input: bool) -> bool:
    """The form of what goes in or out: nested tuples, lists and dicts, as PyTorch writes them."""
    try:
        _, form = json.loads(text)
    except (ValueError, TypeError):
        return False
    return _is_node(form, in_source=is_input)


def _is_node(form: Any, in_source: bool, depth: int = 0) -> bool:
    """Whether it imports nothing. Names of arguments, which are keys of the outermost dict, stand in Python source."""
    if not (isinstance(form, dict) and isinstance(form.get("children_spec"), list)):
        return False
    if not all(_is_node(one, in_source and depth < 1, depth + 1) for one in form["children_spec"]):
        return False
    context = form.get("context")
    if context is None:
        return True
    if not isinstance(context, str):
        return False  # such as the factory of a defaultdict, which is imported
    try:
        return _are_keys(json.loads(context), in_source)
    except ValueError:
        return bool(_NAME.fullmatch(context))


def _are_keys(found: Any, in_source: bool) -> bool:
    """Objects stand for members of classes, which are imported."""
    if isinstance(found, list):
        return all(_are_keys(one, in_source) for one in found)
    if isinstance(found, str):
        return not in_source or found.isidentifier()
    return not isinstance(found, dict)
