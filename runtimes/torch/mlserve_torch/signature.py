"""What a model takes and gives: the names of its inputs, and where the model knows them, datatypes and shapes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_unflatten

from mlserve.datatypes import DATATYPES
from mlserve.errors import ModelLoadError
from mlserve.types import MetadataTensor
from mlserve_torch.nesting import named_values

__all__ = ["Signature", "datatype_of", "of_exported", "of_module", "of_script"]

_TENSOR, _TEXT = re.compile(r"\bTensor\b"), re.compile(r"\bstr\b")  # in annotations
_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "FP32",  # which holds all its values; the protocol has no datatype for it
    torch.float32: "FP32",
    torch.float64: "FP64",
}


@dataclass(frozen=True)
class Signature:
    """Inputs in the order of `forward`. `described` are only those of exported programs, which know all of it."""

    names: Sequence[str]
    optional: frozenset[str] = frozenset()
    by_keyword: frozenset[str] = frozenset()  # the others are passed by their place
    takes_more: bool = False  # *args: any number of inputs, in their order
    defaults: dict[str, Any] = field(default_factory=dict)  # of those passed by place, where others follow
    tensors: frozenset[str] = frozenset()  # declared as such by an annotation, where there is one
    texts: frozenset[str] = frozenset()
    described: dict[str, MetadataTensor] = field(default_factory=dict)
    dtypes: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[MetadataTensor] = ()

    @property
    def places(self) -> list[str]:
        """The names of inputs that are passed by their place, in order."""
        return [name for name in self.names if name not in self.by_keyword]


def datatype_of(dtype: Any) -> str | None:
    """The datatype of the protocol for a type of PyTorch; None where there is none."""
    return _DATATYPES.get(dtype)


def of_exported(program: Any, name: str) -> Signature:
    """Of an exported program. ModelLoadError if it takes other than plain tensors, or gives what cannot be sent."""
    signature = program.module_call_graph[0].signature
    positional, keywords = _children(signature.in_spec)
    names = list(program.graph_signature.user_inputs)
    if len(names) != positional.num_children + keywords.num_children:
        raise ModelLoadError(f"model '{name}': the program takes lists or dicts of tensors; export one with plain ones")
    placeholders = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    described = {}
    for one in names:
        if not isinstance(placeholders.get(one), torch.Tensor):
            raise ModelLoadError(f"model '{name}': input '{one}' of the program is no tensor; export it without")
        described[one] = _described(one, placeholders[one])
    by_keyword = frozenset(names[positional.num_children :])
    dtypes = {one: placeholders[one].dtype for one in names}
    outputs = _outputs_of(program, signature.out_spec, name)
    return Signature(names, by_keyword=by_keyword, described=described, dtypes=dtypes, outputs=outputs)


def _children(spec: Any) -> Any:
    """The parts of a nested answer's form; PyTorch has renamed the attribute."""
    return spec.children() if hasattr(spec, "children") else spec.children_specs


def _outputs_of(program: Any, spec: Any, name: str) -> list[MetadataTensor]:
    """The outputs under the names that they will have. ModelLoadError for one that cannot be sent."""
    count = len(program.graph_signature.user_outputs)
    nodes = list(program.graph.nodes)[-1].args[0]
    values = [node.meta.get("val") if isinstance(node, torch.fx.Node) else node for node in nodes[len(nodes) - count :]]
    named = named_values(tree_unflatten(values, spec))
    for output, value in named:
        if isinstance(value, torch.Tensor) and (datatype_of(value.dtype) is None or value.layout is not torch.strided):
            what = value.dtype if datatype_of(value.dtype) is None else value.layout
            raise ModelLoadError(
                f"model '{name}': output '{output}' of the program is of {what}, which the protocol lacks; export it "
                f"with plain tensors, such as torch.view_as_real() or to_dense() give"
            )
    described = [_described(output, value) for output, value in named if isinstance(value, torch.Tensor)]
    return described if len(described) == len(named) else []


def _described(name: str, value: Any) -> MetadataTensor:
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    return MetadataTensor(name=name, datatype=DATATYPES[datatype_of(value.dtype) or "FP32"], shape=shape)


def of_script(module: Any, name: str) -> Signature:
    """Of a TorchScript module: its tensors and texts. Numbers that have a default keep it."""
    if not hasattr(module, "forward"):
        raise _without_forward(name)
    names, optional, kinds = [], [], {}
    for one in module.forward.schema.arguments[1:]:  # the first is the module itself
        if str(one.type) in ("Tensor", "Optional[Tensor]", "List[str]"):
            names.append(one.name)
            kinds[one.name] = str(one.type)
            if one.has_default_value():
                optional.append(one.name)
        elif not one.has_default_value():
            raise ModelLoadError(f"model '{name}': its input '{one.name}' is a {one.type}; only tensors can be sent")
    return Signature(names, frozenset(optional), frozenset(names), tensors=_tensors(kinds), texts=_texts(kinds))


def of_module(module: Any, name: str) -> Signature:
    """Of a module in Python, from its `forward`."""
    if type(module).forward is torch.nn.Module.forward and "forward" not in vars(module):
        raise _without_forward(name)
    parameters = list(inspect.signature(module.forward).parameters.values())
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    takes_more = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    defaults = {one.name: one.default for one in named if one.default is not one.empty}
    by_keyword = [inspect.Parameter.KEYWORD_ONLY, *([] if takes_more else [inspect.Parameter.POSITIONAL_OR_KEYWORD])]
    annotations = {one.name: _written(one.annotation) for one in named if one.annotation is not one.empty}
    return Signature(
        [one.name for one in named],
        frozenset(defaults),
        frozenset(one.name for one in named if one.kind in by_keyword),
        takes_more,
        defaults=defaults,
        tensors=_tensors(annotations),
        texts=_texts(annotations),
    )


def _written(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _tensors(annotations: dict[str, str]) -> frozenset[str]:
    """The inputs that are declared as tensors, and not as texts too."""
    return frozenset(name for name, text in annotations.items() if _TENSOR.search(text) and not _TEXT.search(text))


def _texts(annotations: dict[str, str]) -> frozenset[str]:
    return frozenset(name for name, text in annotations.items() if _TEXT.search(text) and not _TENSOR.search(text))


def _without_forward(name: str) -> ModelLoadError:
    return ModelLoadError(f"model '{name}': the module has no method `forward`, which answers requests")
