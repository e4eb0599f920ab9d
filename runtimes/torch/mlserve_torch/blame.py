"""Whose fault it is that a call of a model fails, and PyTorch's words for what a client's input lacks."""

from __future__ import annotations

import dis
import os
from types import TracebackType

import torch

__all__ = ["ERRORS", "is_about_input", "words_of"]

# What input may lead to; the last by TorchScript's own `raise`.
ERRORS = (
    RuntimeError, ValueError, IndexError, AssertionError, TypeError, AttributeError, ArithmeticError, torch.jit.Error,
)  # fmt: skip

_ONE_ELEMENT = "only integer tensors of a single element"  # can be an index, a count of steps or a size
_OURS = ("allocate memory", "CUDA error", "out of memory")
_COMPILING = ("torch._dynamo", "torch._inductor")
_PYTORCH = os.path.dirname(torch.__file__) + os.sep


def is_about_input(error: Exception, texts: bool) -> bool:
    """Whether an error came of the input. `texts`: some of it was text, of which nothing says that the model takes it.

    PyTorch's own refusals count, whether its Python or its C++ raises them; so does what indexing and unpacking raise.
    What a statement of the model's own code raises does not: it belongs into the owner's log.
    """
    if any(words in str(error) for words in _OURS):
        return False
    if isinstance(error, TypeError | AttributeError) and not texts and _ONE_ELEMENT not in str(error):
        return False
    kind = type(error)
    if kind.__module__.startswith(_COMPILING):
        return kind.__name__ == "TorchRuntimeError"  # an operator that refuses what it is given, seen while compiling
    return not _is_raised_by_model(error.__traceback__)


def _is_raised_by_model(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is outside PyTorch and stands at a `raise`: C++ raises out of a call or operator."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if code.co_filename.startswith(_PYTORCH):
        return False
    return dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def words_of(error: Exception) -> str:
    """PyTorch's complaint: the last line of TorchScript's trace, else the first."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return "PyTorch does not say why"
    line = lines[-1] if "TorchScript" in lines[0] else lines[0]
    kind, _, message = line.partition(": ")
    return message if kind.endswith("Error") and message else line
