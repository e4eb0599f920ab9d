"""Steps of a saved graph that were fixed in training mode, which `eval()` cannot change any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["steps_in_training"]


def steps_in_training(loaded: Any) -> list[str]:
    """The kinds of step, such as `dropout`, of an exported program or a TorchScript module; none for other modules."""
    if isinstance(loaded, torch.export.ExportedProgram):
        steps = _of_exported(loaded)
    elif isinstance(loaded, torch.jit.ScriptModule):
        steps = _of_script(loaded.inlined_graph)
    else:
        return []
    return sorted({name for name, given in steps if _is_training(name, given)})


def _is_training(name: str, given: dict[str, Any]) -> bool:
    """By the arguments of a step. Harmless are dropout by 0, and a batch norm that never had statistics of its own."""
    if given.get("train") is True or given.get("training") is True:
        return given.get("running_mean") is not None if "batch_norm" in name else _share(given) != 0
    attention = given.get("dropout_p", 0.0)
    return "batch_norm_with_update" in name or (isinstance(attention, float) and attention > 0)


def _share(given: dict[str, Any]) -> Any:
    """Of values that a dropout drops; of other steps 1."""
    return given.get("p", given.get("dropout", 1))


def _of_exported(program: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Steps with their arguments, those of branches too."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            schema = getattr(node.target, "_schema", None)
            if node.op == "call_function" and schema is not None:
                names = [one.name for one in schema.arguments]
                yield schema.name.rpartition("::")[2], {**dict(zip(names, node.args)), **node.kwargs}


def _of_script(block: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in block.nodes():
        for inner in node.blocks():
            yield from _of_script(inner)
        if node.kind().startswith("aten::") and node.schema() != "(no schema)":
            names = [one.name for one in torch._C.parse_schema(node.schema()).arguments]
            yield node.kind().rpartition("::")[2], dict(zip(names, map(_constant, node.inputs())))


def _constant(value: Any) -> Any:
    """The value of a constant; of anything else, what stands for it."""
    return value.toIValue() if value.node().kind() == "prim::Constant" else value
