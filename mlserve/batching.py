"""The waiting line of one model, and the rule that forms the next batch from it.

The line is a pure data structure: `take(now)` reads no clock and starts nothing. It answers with the calls that shall
run together now, or with nothing and the moment at which to look again (`look_again_at`). The pool asks whenever a
worker has room; a model that wants to wait for company has a task that asks when the time has come.

Only calls that the model can see as one run together: same inputs, datatypes, trailing shapes, content types and
requested outputs (`batch_key`). Everything else about a call stays its own.

No step takes longer the more calls wait, or the more kinds of them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable
from weakref import WeakKeyDictionary

from msgspec import Struct

from mlserve.auto_batching import Auto
from mlserve.calls import Batch, Call
from mlserve.merging import may_merge, rows_of
from mlserve.settings import ModelSettings
from mlserve.side_by_side import Flight
from mlserve.tally import Tally
from mlserve.types import InferenceRequest, Parameters
from mlserve.urgency import Urgency

_logger = logging.getLogger("mlserve.batching")
_ANY_NUMBER = 1 << 30
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_SHAPING = ("content_type", "binary_data", "binary_data_output")  # parameters that change what the model sees or gives


class Rule(Struct, frozen=True):
    """How a model wants its calls grouped."""

    calls: int = 1  # at most so many calls in a batch; 1: no batching
    wait_seconds: float = 0.0  # how long the first call of a batch may wait for company
    rows: int = 0  # at most so many rows in a batch; 0: no limit. A single call may have more
    eager: bool = True  # an idle worker takes what waits at once
    target_seconds: float = 0.0  # size and wait are found by measuring, so that calls take no longer; 0: they are given
    model: str = ""  # its name, for the log


def rule_of(settings: ModelSettings) -> Rule:
    """The rule that a model's settings ask for."""
    size, wait, rows, eager = (
        settings.max_batch_size,
        settings.max_batch_time,
        settings.max_batch_rows,
        settings.batch_eager,
    )
    if not may_merge(settings):
        return Rule()
    if wait == "auto":
        assert settings.target_latency_seconds is not None, "settings are checked when they are read"
        return Rule(size or _ANY_NUMBER, 0.0, rows, eager, settings.target_latency_seconds, settings.name)
    return Rule(size, wait, rows, eager, model=settings.name)


def batch_key(request: InferenceRequest) -> Hashable | None:
    """What two requests must have in common to run as one; None for one that has to run alone.

    A request runs alone if its inputs have no rows, rows of nothing, or not all the same number.
    """
    inputs = request.inputs
    if not inputs:
        return None
    rows = inputs[0].shape[0] if inputs[0].shape else 0
    if rows < 1 or any(not one.shape or one.shape[0] != rows or 0 in one.shape for one in inputs):
        return None
    outputs = request.outputs
    return (
        tuple((one.name, str(one.datatype), tuple(one.shape[1:]), _shaping(one.parameters)) for one in inputs),
        None if outputs is None else tuple((one.name, _all_of(one.parameters)) for one in outputs),
        _shaping(request.parameters),
    )


def _shaping(parameters: Parameters | None) -> Hashable:
    if parameters is None:
        return ()
    return tuple((name, str(parameters[name])) for name in _SHAPING if name in parameters)


def _all_of(parameters: Parameters | None) -> Hashable:
    """Those of a requested output say what is wanted of it (Triton's `classification`): a batch has one set of them."""
    return tuple(sorted((name, repr(value)) for name, value in dict.items(parameters))) if parameters else ()


class _Group:
    """Calls that can run together, oldest first."""

    __slots__ = ("calls", "key", "rows")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.calls: OrderedDict[Call, None] = OrderedDict()
        self.rows = 0  # of all of them


class Line:
    """The calls that wait for one model, oldest first, grouped by what can run together."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.auto = Auto(rule.target_seconds, rule.rows, patient=not rule.eager) if rule.target_seconds else None
        self.look_again_at: float | None = None  # when the oldest call will have waited long enough; None: none waits
        self.sizes = Tally(_SIZES)  # calls of each batch so far
        self.expects_more = True  # False: no other calls will come, so that waiting for them is no use
        self._waiting: OrderedDict[Call, _Group | None] = OrderedDict()  # oldest first; None: without batching
        self._groups: dict[Hashable, _Group] = {}  # Invariant: no empty group
        self._full: dict[_Group, None] = {}  # groups that need not wait: full, or of a call that runs alone
        self._wait_seconds = 0.0 if rule.eager else rule.wait_seconds
        self._flights: WeakKeyDictionary[object, Flight] = WeakKeyDictionary()  # by worker, where sizes are found
        self._urgency = Urgency()
        self._told = False  # that the target is not held

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest_at(self) -> float:
        """When the oldest waiting call came. Only for a line that is not empty."""
        return next(iter(self._waiting)).arrived_at

    def add(self, call: Call, *, in_front: bool = False) -> None:
        """Puts a call into the line; `in_front` for one that was on its way already."""
        group = None if self.rule.calls <= 1 else self._join(call, in_front)
        self._waiting[call] = group
        if in_front:
            self._waiting.move_to_end(call, last=False)

    def _join(self, call: Call, in_front: bool) -> _Group:
        key = None if call.request is None or call.alone else batch_key(call.request)
        call.rows = 0 if key is None or call.request is None else rows_of(call.request)
        if key is None:
            key = call
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key)
        group.calls[call] = None
        group.rows += call.rows
        if in_front:
            group.calls.move_to_end(call, last=False)
        elif self.auto is not None and call.rows:
            self.auto.arrived(call.arrived_at, call.rows)
        if self._is_full(group):
            self._full[group] = None
        if call.deadline is not None:
            self._urgency.add(call, None if self.auto is None else self.auto.expected_seconds)
        return group

    def remove(self, call: Call) -> bool:
        """Takes a call that nobody waits for out of the line; whether it was there."""
        if call not in self._waiting:
            return False
        self._take_out(call)
        if not self._waiting:
            self.look_again_at = None
        return True

    def take(self, now: float, beside: object | None = None) -> list[Call]:
        """The calls that shall run together now, taken out of the line; none if it is better to wait.

        They run `beside` others of the model in this worker that await something: those may be all that the model does
        at once (it has a lock, or one thread), so that more calls would only wait in the worker, each for itself.
        """
        self.look_again_at = None
        if not self._waiting:
            return []
        oldest, group = next(iter(self._waiting.items()))
        if group is None:
            del self._waiting[oldest]
            return [oldest]
        rows, due_at = self._plan(now, oldest, group, beside)
        if due_at > now and self.expects_more:
            if self._full and (self.auto is None or beside is None):
                group = next(iter(self._full))
            elif (urgent := self._urgency.first(now)) is None or urgent[0] > now:
                self.look_again_at = due_at if urgent is None else min(due_at, urgent[0])
                return []
            else:
                group = self._waiting[urgent[1]] or group
        batch = _fitting(group, self.rule.calls, rows)
        for call in batch:
            self._take_out(call)
        self.sizes.add(len(batch))
        return batch

    def _plan(self, now: float, oldest: Call, group: _Group, beside: object | None) -> tuple[int, float]:
        """How many rows of a group may run together, and when: before that, more may come."""
        auto = self.auto
        if auto is None:
            wait_seconds = self._wait_seconds if beside is None else self.rule.wait_seconds
            return self.rule.rows, oldest.arrived_at + wait_seconds if wait_seconds else now
        if not group.rows:  # a call without rows to merge, about which nothing is to be decided
            return 0, now
        begins_at, due_at = now, now
        if beside is not None and (ahead := self._flights.get(beside)):
            begins_at, due_at = now + auto.starts_after(now, ahead), auto.beside_at(now, ahead)
        rows, wait_seconds = auto.decide(begins_at, oldest.arrived_at, group.rows)
        return rows, max(due_at, oldest.arrived_at + wait_seconds) if wait_seconds else due_at

    def sent(self, calls: list[Call], worker: object) -> None:
        """A batch went to a worker; for lines that find sizes by measuring."""
        batch = next((call.batch for call in calls if call.batch is not None), None)
        if self.auto is not None and batch is not None and batch.rows:
            flight = batch.flight = self._flights.setdefault(worker, Flight())
            batch.rest_seconds = flight.rest(batch.sent_at) if flight else None
            flight.sent(batch, batch.sent_at, self.auto.mean_seconds(batch.rows))

    def take_all(self) -> list[Call]:
        """Empties the line."""
        calls = list(self._waiting)
        self._urgency = Urgency()
        self._waiting.clear()
        self._groups.clear()
        self._full.clear()
        return calls

    def ended(self, batch: Batch, now: float, workers: int) -> None:
        """Learns from a batch of this line that has its answers, where sizes are found by measuring."""
        if self.auto is None or not batch.rows:
            return
        passed_seconds = 0.0 if batch.flight is None else batch.flight.ended(batch, now)
        if batch.is_whole:
            overhead = now - batch.sent_at - batch.busy_seconds
            rest_seconds = batch.rest_seconds if batch.calls[0].waiting else None  # else the worker did nothing else
            self.auto.served(now, batch.rows, batch.busy_seconds, overhead, rest_seconds, passed_seconds)
        answered = [call for call in batch.calls if not call.abandoned]
        late = sum(1 for call in answered if now - call.arrived_at > self.rule.target_seconds)
        self.auto.answered(now, len(answered), late)
        if not self.auto.is_held and not self._told:
            self._told = True
            _logger.warning(
                "model '%s': %s; more workers (parallel_workers), a cheaper model or a longer target would help. This "
                "is said once; the metric batch_auto_held goes on",
                self.rule.model,
                self.auto.why_not_held(now, workers),
            )

    def _is_full(self, group: _Group) -> bool:
        rows = self.auto.rows if self.auto is not None else self.rule.rows
        return group.key in group.calls or len(group.calls) >= self.rule.calls or 0 < rows <= group.rows

    def _take_out(self, call: Call) -> None:
        group = self._waiting.pop(call)
        if group is None:
            return
        if call.deadline is not None:
            self._urgency.discard(call)
        del group.calls[call]
        group.rows -= call.rows
        if not group.calls:
            del self._groups[group.key]
        if not group.calls or not self._is_full(group):
            self._full.pop(group, None)


def _fitting(group: _Group, most_calls: int, most_rows: int) -> list[Call]:
    """The oldest calls of a group that fit into one batch; at least one."""
    batch: list[Call] = []
    rows = 0
    for call in group.calls:
        rows += call.rows
        if batch and (len(batch) == most_calls or 0 < most_rows < rows):
            break
        batch.append(call)
    return batch
