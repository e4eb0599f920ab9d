"""What a session's graph takes and gives: names, datatypes of the protocol, and shapes with -1 for any size."""

from __future__ import annotations

import logging
import re
from typing import Any, NamedTuple

from mlserve.datatypes import Datatype
from mlserve.errors import ModelLoadError
from mlserve.types import MetadataTensor, Parameters
from mlserve_onnx.ranks import names_with_shape

__all__ = ["Graph", "Slot", "read_graph"]

_logger = logging.getLogger("mlserve.onnx")
_DATATYPES = {
    "float": Datatype.FP32,
    "double": Datatype.FP64,
    "float16": Datatype.FP16,
    "bool": Datatype.BOOL,
    "string": Datatype.BYTES,
    **{f"{sign}int{bits}": Datatype(f"{sign.upper()}INT{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_TENSOR = re.compile(r"^tensor\((\w+)\)$")
_MAPS = re.compile(r"^(?:seq\()?map\(\w+,tensor\((\w+)\)\)\)?$")
_LIST = re.compile(r"^seq\(tensor\((\w+)\)\)$")


class Slot(NamedTuple):
    """One input or output."""

    name: str
    datatype: Datatype
    shape: list[int] | None  # None: the graph does not say how many dimensions
    form: str  # "tensor", "maps" (a row of values by label, as classifiers of scikit-learn have it), "list"

    def described(self) -> MetadataTensor:
        """As model metadata, which has no way but a parameter to leave the number of dimensions open."""
        if self.shape is not None:
            return MetadataTensor(name=self.name, datatype=self.datatype, shape=self.shape)
        parameters = Parameters(any_rank=True) if self.form == "tensor" else None
        return MetadataTensor(name=self.name, datatype=self.datatype, shape=[-1, -1], parameters=parameters)


class Graph(NamedTuple):
    """All inputs and outputs."""

    inputs: dict[str, Slot]
    optional: frozenset[str]  # inputs with a value of their own
    outputs: dict[str, Slot]


def read_graph(session: Any, path: str, name: str) -> Graph:
    """The graph of a session on a file. ModelLoadError for one that takes what the protocol cannot carry."""
    inputs = {}
    defaults = session.get_overridable_initializers()
    slots = (*session.get_inputs(), *defaults, *session.get_outputs())
    shaped = names_with_shape(path) if any(one.shape == [] for one in slots) else frozenset[str]()
    for one in (*session.get_inputs(), *defaults):
        slot = _slot(one, shaped)
        if slot is None or slot.form != "tensor":
            raise ModelLoadError(
                f"model '{name}': its input '{one.name}' is a {one.type}, which no datatype of the protocol can hold; "
                f"export it with another type, or with a Cast node in front"
            )
        inputs[one.name] = slot
    outputs = {one.name: slot for one in session.get_outputs() if (slot := _slot(one, shaped)) is not None}
    told = ", ".join(f"'{one.name}' is a {one.type}" for one in session.get_outputs() if one.name not in outputs)
    if not outputs:
        raise ModelLoadError(f"model '{name}': no datatype of the protocol can hold its outputs: {told}")
    if told:
        _logger.warning(
            "model '%s': outputs are left out, which no datatype of the protocol can hold: %s; to have them, export it "
            "with a Cast node behind",
            name,
            told,
        )
    return Graph(inputs, frozenset(one.name for one in defaults), outputs)


def _slot(one: Any, shaped: frozenset[str]) -> Slot | None:
    """None where the protocol has no datatype for it."""
    for form, pattern in (("tensor", _TENSOR), ("maps", _MAPS), ("list", _LIST)):
        match = pattern.match(one.type)
        if match and match[1] in _DATATYPES:
            known = form == "tensor" and (one.shape or one.name in shaped)
            shape = [size if isinstance(size, int) else -1 for size in one.shape] if known else None
            return Slot(one.name, _DATATYPES[match[1]], shape, form)
    return None
