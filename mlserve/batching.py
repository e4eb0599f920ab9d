"""The waiting line of one model, and the rule that forms the next batch from it.

The line is a pure data structure: `take(now)` reads no clock and starts nothing. It answers with the calls that shall
run together now, or with nothing and the moment at which to look again (`look_again_at`). The pool asks whenever a
worker has room; a model that wants to wait for company has a task that asks when the time has come.

Only calls that the model can see as one run together: same inputs, datatypes, trailing shapes, content types and
requested outputs (`batch_key`). Everything else about a call stays its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from msgspec import Struct

from mlserve.calls import Call
from mlserve.merging import rows_of
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, Parameters

_SHAPING = ("content_type", "binary_data", "binary_data_output")  # parameters that change what the model sees or gives


class Rule(Struct, frozen=True):
    """How a model wants its calls grouped."""

    calls: int = 1  # at most so many calls in a batch; 1: no batching
    wait_seconds: float = 0.0  # how long the first call of a batch may wait for company
    rows: int = 0  # at most so many rows in a batch; 0: no limit. A single call may have more
    eager: bool = True  # an idle worker takes what waits at once


def rule_of(settings: ModelSettings) -> Rule:
    """The rule that a model's settings ask for. As in MLServer, batching needs both a size and a time."""
    wait = settings.max_batch_time
    if settings.max_batch_size <= 1 or not wait:
        return Rule()
    seconds = 0.0 if wait == "auto" else float(wait)
    return Rule(settings.max_batch_size, seconds, settings.max_batch_rows, settings.batch_eager)


def batch_key(request: InferenceRequest) -> Hashable | None:
    """What two requests must have in common to run as one; None for one that has to run alone.

    A request runs alone if its inputs have no rows, or not all the same number.
    """
    inputs = request.inputs
    if not inputs:
        return None
    rows = inputs[0].shape[0] if inputs[0].shape else 0
    if rows < 1 or any(not one.shape or one.shape[0] != rows for one in inputs):
        return None
    outputs = request.outputs
    return (
        tuple((one.name, str(one.datatype), tuple(one.shape[1:]), _shaping(one.parameters)) for one in inputs),
        None if outputs is None else tuple((one.name, _shaping(one.parameters)) for one in outputs),
        _shaping(request.parameters),
    )


def _shaping(parameters: Parameters | None) -> Hashable:
    if parameters is None:
        return ()
    return tuple((name, str(parameters[name])) for name in _SHAPING if name in parameters)


class Line:
    """The calls that wait for one model, oldest first, grouped by what can run together."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.look_again_at: float | None = None  # when a group will have waited long enough; None: no group waits
        self._groups: dict[Hashable, deque[Call]] = {}  # Invariant: no empty group; oldest first within each
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def oldest_at(self) -> float:
        """When the oldest waiting call came. Only for a line that is not empty."""
        return min(group[0].arrived_at for group in self._groups.values())

    def add(self, call: Call, *, in_front: bool = False) -> None:
        """Puts a call into the line; `in_front` for one that was on its way already."""
        key: Hashable = None
        if self.rule.calls > 1:
            key = None if call.request is None or call.alone else batch_key(call.request)
            if key is None:
                key = id(call)
        group = self._groups.setdefault(key, deque())
        if in_front:
            group.appendleft(call)
        else:
            group.append(call)
        self._length += 1

    def remove(self, call: Call) -> bool:
        """Takes a call that nobody waits for out of the line; whether it was there."""
        for key, group in self._groups.items():
            if call in group:
                group.remove(call)
                self._length -= 1
                if not group:
                    del self._groups[key]
                if not self._groups:
                    self.look_again_at = None
                return True
        return False

    def take(self, now: float) -> list[Call]:
        """The calls that shall run together now, taken out of the line; none if it is better to wait."""
        self.look_again_at = None
        if not self._groups:
            return []
        if self.rule.calls <= 1:
            return [self._pop(None)]
        for key in sorted(self._groups, key=lambda one: self._groups[one][0].arrived_at):
            batch = self._fitting(self._groups[key])
            if self._is_due(batch, key, now):
                return [self._pop(key) for _ in batch]
            due_at = batch[0].arrived_at + self.rule.wait_seconds
            self.look_again_at = due_at if self.look_again_at is None else min(due_at, self.look_again_at)
        return []

    def take_all(self) -> list[Call]:
        """Empties the line."""
        calls = [call for group in self._groups.values() for call in group]
        self._groups.clear()
        self._length = 0
        return calls

    def _fitting(self, group: deque[Call]) -> list[Call]:
        """The oldest calls of a group that fit into one batch; at least one."""
        batch: list[Call] = []
        rows = 0
        for call in group:
            if len(batch) == self.rule.calls:
                break
            if self.rule.rows and call.request is not None:
                rows += rows_of(call.request) if len(group) > 1 else 0
                if batch and rows > self.rule.rows:
                    break
            batch.append(call)
        return batch

    def _is_due(self, batch: list[Call], key: Hashable, now: float) -> bool:
        """Whether a batch shall run now: full, cut off by the row limit, waited long enough, or alone by its nature."""
        if self.rule.eager or isinstance(key, int) or len(batch) == self.rule.calls:
            return True
        return len(batch) < len(self._groups[key]) or now - batch[0].arrived_at >= self.rule.wait_seconds

    def _pop(self, key: Hashable) -> Call:
        group = self._groups[key]
        call = group.popleft()
        self._length -= 1
        if not group:
            del self._groups[key]
        return call
