"""What follows from a worker's death: whom it is blamed on, which model is set aside, which request is refused.

Plain rules: they are told the time and what happened, and start nothing. docs/reliability.md has them for users.

    a worker died ──▶ blame: the model whose call it ran, or which it was loading
        a model     3 deaths within a minute, or one while it is loaded again ──▶ set aside for 10 s, then tried in a
                    process of its own; each further death sets it aside for twice as long, up to 10 minutes
        a request   ran alone at 2 deaths in a row ──▶ refused for 10 minutes, and the model is not to blame for the
                    second; ran in a batch at one ──▶ runs alone
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any
from zlib import crc32

from msgspec import Struct

from mlserve.calls import Call
from mlserve.types import InferenceRequest, Parameters

BACKOFF_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # before a worker is started again
STABLE_SECONDS = 10.0  # a worker that lived this long is started again without a pause
HOPELESS_STARTS = 3  # after so many starts in a row without a ready worker, calls are refused at once

STRIKES = 3
STRIKES_WITHIN_SECONDS = 60.0
FIRST_ASIDE_SECONDS = 10.0
LONGEST_ASIDE_SECONDS = 600.0
FORGIVEN_AFTER_SECONDS = 600.0  # a model that killed nobody for so long begins anew

REFUSED_AFTER = 2
REMEMBERED_SECONDS = 600.0
REMEMBERED_REQUESTS = 1024
_SAMPLES = 64  # of large data, so many pieces are looked at closely
_SAMPLE_BYTES = 16 * 1024


def pause_before_start(early_deaths: int) -> float:
    """How long to wait before a worker is started again that died early so many times in a row."""
    return BACKOFF_SECONDS[min(early_deaths, len(BACKOFF_SECONDS) - 1)]


# -- whom a death is blamed on ----------------------------------------------------------------------------------------


class Blame(Struct, frozen=True):
    """Who may have ended a worker. `model` is None where it could be anybody, or nobody."""

    model: int | None = None
    loading: bool = False
    culprit: Call | None = None  # the only call that can have done it
    suspects: Sequence[Call] = ()  # calls of a batch, one of which may have


def running_calls(calls: Mapping[int, Call], runs: int) -> list[Call]:
    """Those of a worker's calls whose code it runs at this moment: one, or the members of a batch.

    `runs` is what the worker says (progress.py). Empty where it says nothing, as while all of them await something.
    """
    call = calls.get(runs)
    if call is None:
        return []
    if call.batch is None or not call.batch.is_whole:
        return [call]
    return [one for one in call.batch.calls if calls.get(one.number) is one]


def blame_for(loading: Sequence[int], running: Sequence[Call], begun: Sequence[Call]) -> Blame:
    """Who ended a worker that was loading these models, ran these calls, and had begun those."""
    if loading and not running:
        return Blame(loading[0] if len(loading) == 1 else None, loading=True)
    suspects = running or begun
    models = {call.model for call in suspects}
    if len(models) != 1:
        return Blame()
    model = models.pop()
    if len(suspects) == 1:
        return Blame(model, culprit=suspects[0])
    batches = {call.batch for call in suspects}
    return Blame(model, suspects=suspects if len(batches) == 1 and None not in batches else ())


class GivenUp:
    """Calls of one worker that nobody waits for any more and that may still run: hints that it may be stuck."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[float, float]] = {}  # by number: since when, and for how long it may go on
        self.on_add: Callable[[float], None] | None = None  # told when the worker will count as stuck

    def add(self, number: int, now: float, patience_seconds: float) -> None:
        """A call was given up; without patience it may go on for ever."""
        if patience_seconds:
            self._calls[number] = (now, patience_seconds)
            if self.on_add is not None:
                self.on_add(now + patience_seconds)

    def discard(self, number: int) -> None:
        """A call has ended."""
        if self._calls:
            self._calls.pop(number, None)

    def stuck_at(self, heard_at: float) -> float:
        """When a worker that was heard last at this time counts as stuck, if it runs for nobody then; or infinity."""
        return min((max(since, heard_at) + patience for since, patience in self._calls.values()), default=inf)


# -- models -----------------------------------------------------------------------------------------------------------


class Aside(Struct):
    """A model that is not loaded in workers for a while."""

    reason: str
    until: float
    blocks: bool = True  # False: other workers hold it and serve on


class Strikes:
    """How often each model ended its worker lately."""

    def __init__(self) -> None:
        self._times: dict[int, list[float]] = {}
        self._asides: dict[int, int] = {}  # how often in a row it was set aside

    def strike(self, model: int, now: float, *, at_once: bool = False) -> float:
        """Notes a death; for how long the model is to be set aside, 0.0 for not at all."""
        times = self._times.setdefault(model, [])
        if times and now - times[-1] > FORGIVEN_AFTER_SECONDS:
            times.clear()
            self._asides.pop(model, None)
        times.append(now)
        del times[:-STRIKES]
        often = len(times) == STRIKES and now - times[0] <= STRIKES_WITHIN_SECONDS
        if not (often or at_once or model in self._asides):
            return 0.0
        count = self._asides[model] = self._asides.get(model, 0) + 1
        return float(min(LONGEST_ASIDE_SECONDS, FIRST_ASIDE_SECONDS * 2 ** min(count - 1, 16)))

    def forget(self, model: int) -> None:
        """The model is unloaded."""
        self._times.pop(model, None)
        self._asides.pop(model, None)


# -- requests ---------------------------------------------------------------------------------------------------------


class Offences:
    """Contents of requests that workers died of; bounded in number and time. Empty as long as nothing dies."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[tuple[int, bytes], tuple[int, float]] = OrderedDict()
        self._of_model: dict[int, int] = {}  # how many entries each model has

    def __len__(self) -> int:
        return len(self._deaths)

    def knows(self, model: int) -> bool:
        """Whether requests to this model have to be looked at."""
        return model in self._of_model

    def deaths_of(self, model: int, digest: bytes, now: float) -> int | None:
        """How many workers died of this content alone; None if it is not known."""
        found = self._deaths.get((model, digest))
        if found is None:
            return None
        if now - found[1] > REMEMBERED_SECONDS:
            self.clear(model, digest)
            return None
        return found[0]

    def note(self, blame: Blame, now: float) -> bool:
        """Notes a death with the calls that may be at the bottom of it; True if one of them is refused from now on."""
        for call in blame.suspects:
            self._add(call, 0, now)
        if blame.culprit is None or blame.culprit.request is None:
            return False
        return self._add(blame.culprit, 1, now) >= REFUSED_AFTER

    def _add(self, call: Call, deaths: int, now: float) -> int:
        assert call.request is not None, "only unary calls are looked at"
        key = (call.model, digest_of(call.request))
        before = self.deaths_of(*key, now)
        if before is None:
            self._of_model[call.model] = self._of_model.get(call.model, 0) + 1
        self._deaths[key] = ((before or 0) + deaths, now)
        self._deaths.move_to_end(key)
        if len(self._deaths) > REMEMBERED_REQUESTS:
            self.clear(*next(iter(self._deaths)))
        return (before or 0) + deaths

    def clear(self, model: int, digest: bytes) -> None:
        """The content was answered, or is forgotten."""
        if self._deaths.pop((model, digest), None) is not None:
            self._of_model[model] -= 1
            if not self._of_model[model]:
                del self._of_model[model]

    def forget(self, model: int) -> None:
        """The model is unloaded."""
        for key in [key for key in self._deaths if key[0] == model]:
            self.clear(*key)


def digest_of(request: InferenceRequest) -> bytes:
    """A fingerprint of what the model sees of a request: all of it but for the id and the headers."""
    found = hashlib.blake2b(digest_size=16)
    _add_parameters(found, request.parameters)
    for one in request.inputs:
        found.update(f"{one.name}\0{one.datatype}\0{one.shape}\0{one.data.form}\0".encode("utf-8", "replace"))
        _add_parameters(found, one.parameters)
        data = one.data
        payload = memoryview(data.to_json(one.datatype) if data.form == "object" else data.payload).cast("B")
        found.update(len(payload).to_bytes(8, "big"))
        for piece in _pieces(payload):
            found.update(piece)
    for output in request.outputs or ():
        found.update(f"\1{output.name}".encode("utf-8", "replace"))
        _add_parameters(found, output.parameters)
    return found.digest()


def _add_parameters(found: Any, parameters: Parameters | None) -> None:
    items = sorted((name, repr(value)) for name, value in dict.items(parameters or {}) if name != "headers")
    found.update(f"\2{items}".encode("utf-8", "replace"))


def _pieces(payload: memoryview) -> Iterable[bytes | memoryview]:
    """All of it; or of large data a sum of all of it, which is quick, and pieces at equal distances."""
    size = len(payload)
    if size <= _SAMPLES * _SAMPLE_BYTES:
        yield payload
        return
    yield crc32(payload).to_bytes(4, "big")
    step = (size - _SAMPLE_BYTES) // (_SAMPLES - 1)
    for at in range(0, size - _SAMPLE_BYTES + 1, step):
        yield payload[at : at + _SAMPLE_BYTES]
