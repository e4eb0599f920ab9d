"""The inputs and output of a task as model metadata, by the names that MLServer gives them."""

from __future__ import annotations

from mlserve.types import MetadataTensor, Parameters
from mlserve_huggingface.tasks import Interface

__all__ = ["described"]

_ARRAY_INPUTS = ("fill-mask", "summarization", "text-generation", "text2text-generation", "translation")


def described(interface: Interface) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs and outputs. Other names and content types are taken too, and so are options."""
    return [_tensor(*one) for one in _inputs(interface)], [_tensor("output", "BYTES", "hg_jsonlist")]


def _inputs(interface: Interface) -> list[tuple[str, str, str]]:
    task = interface.task
    if task == "question-answering":
        return [("context", "BYTES", "str"), ("question", "BYTES", "str")]
    if task == "table-question-answering":
        return [("table", "BYTES", "hg_json"), ("query", "BYTES", "str")]
    if task in ("visual-question-answering", "vqa", "document-question-answering"):
        return [("image", "BYTES", "pillow_image"), ("question", "BYTES", "str")]
    first = {"image": ("inputs", "BYTES", "pillow_image"), "audio": ("inputs", "FP32", "nplist")}.get(
        interface.media or ""
    )
    if first is None:
        named = "array_inputs" if task in _ARRAY_INPUTS or task.startswith("zero-shot") else "args"
        first = (named, "BYTES", "str")
    labels = [("candidate_labels", "BYTES", "str")] if task.startswith("zero-shot") else []
    return [first, *labels]


def _tensor(name: str, datatype: str, content_type: str) -> MetadataTensor:
    return MetadataTensor(name=name, datatype=datatype, shape=[-1], parameters=Parameters(content_type=content_type))
