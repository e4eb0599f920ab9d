"""What PyTorch would run of an exported program's texts is found before it reads them; honest programs are served."""

from __future__ import annotations

import collections
import functools
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch

from mlserve.errors import ModelLoadError
from mlserve_torch.expressions import is_expression, is_guard
from runtimes.torch.tests import nets
from runtimes.torch.tests.test_torch import X, ask, load, own
from runtimes.torch.tests.test_torch_foreign_code import Runs

Change = Callable[[dict[str, Any], str], None]


class Equation(torch.nn.Module):
    """Steps with texts, sizes and branches."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.nn.Linear(4, 4)
        self.register_buffer("added", torch.ones(4))

    def forward(self, x: torch.Tensor, *, by: torch.Tensor) -> Any:
        seen = self.rows(x[:, None] * by + self.added)
        picked = torch.cond(x.shape[0] > 3, lambda one: one + 1, lambda one: one - 1, (seen[:, 0],))
        with torch.no_grad():
            return {"two words": torch.einsum("bi,bi->b", picked, picked), "pair": (picked.reshape(-1, 2), picked)}


class Found(torch.nn.Module):
    """Sizes that hang on the data, with a condition on them that is told in words."""

    def forward(self, x: torch.Tensor) -> Any:
        places = x.nonzero()
        torch._check(places.shape[0] > 1, lambda: 'it\'s "too few"')
        return places[:2], x[: x.shape[1] // 2]


@functools.cache
def honest() -> bytes:
    """The file of a program of one step."""
    path = Path(anyio.run(anyio.mkdtemp)) / "model.pt2"
    nets.save(nets.made(nets.Linear), path, "exported")
    return path.read_bytes()


def export(module: Any, path: Path, *args: Any, shapes: Any, **keywords: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own code
        torch.export.save(torch.export.export(module.eval(), args, keywords, dynamic_shapes=shapes), path)


def changed(path: Path, change: Callable[[str, bytes], bytes | None], *, plain: bool = False) -> None:
    """Writes an archive anew, what a record holds changed; `plain`: as a zip file of PyTorch 2.7 has it."""
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name, content in records.items():
            made = change(name, content)
            if plain and name.endswith("models/model.json"):
                target.writestr("serialized_exported_program.json", made or content)
            elif not plain:
                target.writestr(name, content if made is None else made)
        if plain:
            target.writestr("version", "8.8")
            for part in ("state_dict", "constants", "example_inputs"):
                empty = io.BytesIO()
                torch.save(() if part == "example_inputs" else {}, empty)
                target.writestr(f"serialized_{part}.pt", empty.getvalue())


def in_program(path: Path, change: Change, code: str, *, plain: bool = False) -> None:
    def into(name: str, content: bytes) -> bytes | None:
        if not name.endswith("models/model.json"):
            return None
        document = json.loads(content)
        change(document, code)
        return json.dumps(document).encode()

    changed(path, into, plain=plain)


# -- where code may stand ---------------------------------------------------------------------------------------------


def in_a_size(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = code


def in_a_guard(document: dict[str, Any], code: str) -> None:
    document["guards_code"] = [f"{code} is None"]


def behind_a_guard(document: dict[str, Any], code: str) -> None:
    document["guards_code"] = [f"True, 'x')\n  return\n{code}\ndef g(*a):\n  (True"]


def in_the_name_of_an_input(document: dict[str, Any], code: str) -> None:
    text = json.dumps(document).replace('"x"', json.dumps(f"x=({code})"))
    document.update(json.loads(text))


def in_a_target(document: dict[str, Any], code: str) -> None:
    node = document["graph_module"]["graph"]["nodes"][0]
    place = {"as_string": code.split("'")[3]}
    node.update(target="torch.os.mkdir", inputs=[{"name": "", "arg": place, "kind": 1}])


def in_a_keyword(document: dict[str, Any], code: str) -> None:
    (given, *_) = document["graph_module"]["graph"]["nodes"][0]["inputs"]
    given.update(name=f"_=({code}), {given['name']}", kind=2)


def in_the_form(context: Any, kind: str) -> Change:
    def change(document: dict[str, Any], code: str) -> None:
        leaf = {"type": None, "context": None, "children_spec": []}
        form = {"type": kind, "context": context, "children_spec": [leaf]}
        document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, form])

    return change


FACTORY = {"default_factory_module": "no_such_module", "default_factory_name": "x", "dict_context": ["a"]}
MEMBER = json.dumps([{"__enum__": True, "fqn": "no_such_module:X", "name": "Y"}])
CHANGES = {
    "size": in_a_size,
    "guard": in_a_guard,
    "behind a guard": behind_a_guard,
    "name": in_the_name_of_an_input,
    "target": in_a_target,
    "keyword": in_a_keyword,
    "factory": in_the_form(FACTORY, "collections.defaultdict"),
    "member": in_the_form(MEMBER, "builtins.dict"),
}


@pytest.mark.parametrize("plain", [False, True], ids=["archive", "zip"])
@pytest.mark.parametrize("kind", CHANGES)
def test_code_in_a_program_is_found_and_not_run(tmp_path: Path, kind: str, plain: bool) -> None:
    (tmp_path / "model.pt2").write_bytes(honest())
    code = f"__import__('os').mkdir('{tmp_path / 'ran'}')"
    in_program(tmp_path / "model.pt2", CHANGES[kind], code, plain=plain)
    with pytest.raises(ModelLoadError, match=r"PyTorch would run as code .*extra\.allow_pickle to true"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("prefix", ["opaque_obj_", "custom_obj_"])
def test_constants_that_are_no_tensors_are_not_unpickled(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "model.pt2").write_bytes(honest())
    entry = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    def into(name: str, content: bytes) -> bytes | None:
        return json.dumps({"config": {"c": entry}}).encode() if name.endswith("constants_config.json") else None

    changed(tmp_path / "model.pt2", into)
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as archive:
        (root, *_) = archive.namelist()[0].split("/")
        archive.writestr(f"{root}/data/constants/{prefix}0", pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(ModelLoadError, match=r"constants_config\.json: c\.path_name"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "target",
    [
        *("torch.ops.aten.from_file.default", "torch.ops.aten.save", "torch.ops.load_library.__call__"),
        *("torch.ops.higher_order.inline_asm_elementwise", "torch.ops.higher_order.call_torchbind"),
        *("_operator.methodcaller", "math.__loader__", "torch.sym_int.__globals__", "torch.ops.aten.add.__class__"),
    ],
)
def test_only_operators_that_compute_are_let_in(tmp_path: Path, target: str) -> None:
    (tmp_path / "model.pt2").write_bytes(honest())
    in_program(
        tmp_path / "model.pt2", lambda found, _: found["graph_module"]["graph"]["nodes"][0].update(target=target), ""
    )
    with pytest.raises(ModelLoadError, match=rf"nodes\[0\].target: '{target}'"):
        load(tmp_path)


def test_a_program_that_is_trusted_is_read_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(honest())
    code = f"__import__('os').mkdir('{tmp_path / 'ran'}')"
    in_program(tmp_path / "model.pt2", in_a_guard, code)
    ask(load(tmp_path, {"allow_pickle": True}), x=X)
    assert (tmp_path / "ran").exists()


# -- honest programs --------------------------------------------------------------------------------------------------


def test_steps_with_texts_branches_and_keywords_are_served(tmp_path: Path) -> None:
    module, by = nets.made(Equation), np.float32([2.0])
    shapes = {"x": {0: nets.BATCH}, "by": None}
    export(module, tmp_path / "model.pt2", torch.ones(6, 4), shapes=shapes, by=torch.ones(1))
    found = ask(load(tmp_path), x=X, by=by)
    with torch.inference_mode():
        wanted = module(torch.from_numpy(X), by=torch.from_numpy(by))
    assert np.array_equal(found["two words"], wanted["two words"])
    assert np.array_equal(found["pair_0"], wanted["pair"][0]) and np.array_equal(found["pair_1"], wanted["pair"][1])


def test_sizes_and_conditions_on_them_are_served(tmp_path: Path) -> None:
    auto = torch.export.Dim.DYNAMIC
    export(Found(), tmp_path / "model.pt2", torch.ones(6, 4), shapes={"x": {0: auto, 1: auto}})
    assert np.array_equal(ask(load(tmp_path), x=X)["output_1"], own(Found(), X)[1])


@pytest.mark.parametrize(
    "text",
    [
        *("3*s65", "Mul(Integer(3), Symbol('s65', positive=True, integer=True))", "Max(1, s0 - 2)", "s0**2 // 4"),
        *(
            "FloorDiv(s0 + 1, 2)",
            "Float('0.5', precision=53)",
            "Eq(Mod(u0, 4), 0)",
            "Piecewise((1, s0 > 2), (0, True))",
        ),
    ],
)
def test_sizes_are_expressions(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        *("print(1)", "().__class__", "s0.x", "s0[0]", "__import__", "exec('s0')", "S('exit()')", "Symbol('a b')"),
        *(
            "lambda: 1",
            "[x for x in y]",
            "(x := 1)",
            "s0 # more",
            "s0\n",
            "f'{s0}'",
            "*s0",
            "sympify('s0')",
            "x if y else z",
        ),
        *("Symbol(name='x y')", "Max(**s0)", "", "1)", "(" * 500 + "1" + ")" * 500, "Symbol('__class__')"),
    ],
)
def test_nothing_else_is_an_expression(text: str) -> None:
    assert not is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        *("L['x'].size()[0] <= 5", "((L['x'].size()[1]*L['y'].size()[0]) % 2) == 0", "L['d']['a'].stride()[0] != 1"),
        *("L['l'][0].size()[0] == 2 and L['k'] == inf", "math.isnan(L['k'])", "max(1, L['x'].size()[0]) >= 2"),
    ],
)
def test_conditions_on_shapes_are_guards(text: str) -> None:
    assert is_guard(text)


@pytest.mark.parametrize(
    "text",
    [
        *("L['x'].numpy()", "L['x'].size", "x == 1", "L", "torch.load('x')", "math.__loader__", "M['x'].size()[0]"),
        *(
            "exec(L['x'])",
            "L['x'].size()[0] == 1, f()",
            "L['x'].__class__",
            "max.__self__",
            "L[L].size()",
            "True)\nf(1",
        ),
        *("(lambda: 1)()", "L['x'].size(dim=f())", "max(f())", "open('x')", "'a' == 'b'", "L['x'].size()[f()]"),
    ],
)
def test_nothing_else_is_a_guard(text: str) -> None:
    assert not is_guard(text)


def test_the_names_of_python_that_are_checked_here_are_still_what_pytorch_reads() -> None:
    """A form with a factory is made by PyTorch as the test above assumes."""
    form = torch.utils._pytree.tree_flatten(collections.defaultdict(list, a=torch.ones(1)))[1]
    assert "default_factory_module" in torch.utils._pytree.treespec_dumps(form)
