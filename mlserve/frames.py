"""The control messages between pool and worker: msgpack arrays over a Unix socket pair, nothing pickled.

Pool to worker                              Worker to pool
    Load      a model, by its number           Loaded, LoadFailed
    Unload                                     Unloaded
    Infer     one call                         Reply, Failed
    Batch     several calls, to run as one     Reply or Failed for each
    Handle    a request to a custom handler    Handled, Piece*, then End or Failed if the last one is not the end
    Open      one streamed call                Chunk*, End or Failed
    Push      one more request of a stream     Pulled    the model took a request of its stream
    Close     no more requests in a stream
    Credit    the client took so much          Waiting   the call gave way: it awaits something
    Cancel    nobody waits any more
    Attach    slots that a batch will name     Apart     the calls of a batch run one by one after all
                                               Skipped   the call was taken back before it began
    Grant     a slot to answer in              Need      a slot of so many bytes, please
                                               Full      it can take no further slots
    Return    slots whose answers were sent    Freed     slots that nothing in the worker views any more
    Forget    slots that were given back       Observed, Registered, Counted   custom metrics
    Ping      does the loop turn?              Pong      it does
    Stop      finish and exit                  Hello     the process is up

A tensor travels inside its frame, or, if it is large, in a shared-memory slot that the frame names. A slot that the
receiver has not seen yet comes with its file descriptor beside the frame (`slot.fresh`).
"""

from __future__ import annotations

import json
from typing import Any, Union

from msgspec import Struct

from mlserve.counted import Series

CREDIT_BYTES = 256 * 1024  # a chunk of a stream costs one, and one more for each of these
INLINE_BYTES = 32 * 1024  # payloads up to this size travel inside the frame; above it a slot is cheaper


class SlotRef(Struct, array_like=True, frozen=True):
    """Names a slot; `fresh` means that its file descriptor travels beside this frame."""

    number: int
    size_bytes: int
    fresh: bool = False


class Part(Struct, array_like=True):
    """One tensor: what `TensorData` holds, in one of the three forms that travel."""

    name: str
    datatype: str
    shape: list[int]
    form: str  # "json", "raw" or "contents"
    data: bytes | None = None  # None: it lies in the slot, at offset
    offset: int = 0
    length: int = 0
    parameters: dict[str, Any] | None = None


class Message(Struct, array_like=True):
    """A request or a response with its tensors."""

    parts: list[Part]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[tuple[str, dict[str, Any] | None]] | None = None  # requested outputs
    model_name: str = ""
    model_version: str | None = None
    slot: SlotRef | None = None


def size_of(message: Message) -> int:
    """The bytes of its tensors."""
    return sum(part.length if part.data is None else len(part.data) for part in message.parts)


def credit_of(message: Message) -> int:
    """What a chunk of a stream costs: its sender has a credit, and sends while some is left."""
    return credit_for(size_of(message))


def credit_for(size_bytes: int) -> int:
    """What so many bytes cost that travel as one."""
    return 1 + size_bytes // CREDIT_BYTES


class Load(Struct, array_like=True, tag="load"):
    model: int
    settings: bytes  # the model's settings as JSON
    folder: str
    source: str = ""  # the settings file, if there is one

    @property
    def name(self) -> str:
        """What the settings call the model: for logs."""
        name: str = json.loads(self.settings).get("name") or "without a name"
        return name


class Unload(Struct, array_like=True, tag="unload"):
    model: int


class Infer(Struct, array_like=True, tag="i"):
    call: int
    model: int
    form: str
    request: Message


class Batch(Struct, array_like=True, tag="a"):
    model: int
    calls: list[Infer]


class Handle(Struct, array_like=True, tag="handle"):
    call: int
    model: int
    place: int  # which of the model's handlers
    method: str
    path: str
    query: bytes
    headers: list[tuple[str, str]]
    path_parameters: dict[str, str]
    body: bytes
    credit: int = 0  # for what is answered
    client: tuple[str, int] | None = None  # host and port of the other end, be it a proxy's; of ours
    server: tuple[str, int | None] | None = None
    http_version: str = "1.1"
    root_path: str = ""


class Open(Struct, array_like=True, tag="o"):
    call: int
    model: int
    form: str
    credit: int


class Push(Struct, array_like=True, tag="p"):
    call: int
    request: Message


class Close(Struct, array_like=True, tag="x"):
    call: int


class Credit(Struct, array_like=True, tag="k"):
    call: int
    credit: int


class Ping(Struct, array_like=True, tag="ping"):
    """Answered by Pong as soon as the worker's loop turns."""


class Pong(Struct, array_like=True, tag="pong"):
    """The worker's loop turns."""


class Cancel(Struct, array_like=True, tag="c"):
    call: int


class Grant(Struct, array_like=True, tag="g"):
    slot: SlotRef | None  # None: no memory left; the answer travels inside its frame


class Attach(Struct, array_like=True, tag="attach"):
    slots: list[SlotRef]  # all of them fresh


class Return(Struct, array_like=True, tag="b"):
    slots: list[int]


class Forget(Struct, array_like=True, tag="forget"):
    slots: list[int]


class Stop(Struct, array_like=True, tag="stop"):
    pass


class Hello(Struct, array_like=True, tag="hello"):
    pid: int
    python: str


class Loaded(Struct, array_like=True, tag="loaded"):
    model: int
    ready: bool
    metadata: bytes  # MetadataModelResponse as JSON
    details: bytes  # what else the server must know of the model, as JSON


class LoadFailed(Struct, array_like=True, tag="unloadable"):
    model: int
    message: str
    http_status: int
    traceback: str


class Unloaded(Struct, array_like=True, tag="unloaded"):
    model: int


class Reply(Struct, array_like=True, tag="r"):
    call: int
    response: Message
    busy_seconds: float


class Chunk(Struct, array_like=True, tag="h"):
    call: int
    response: Message


class End(Struct, array_like=True, tag="e"):
    call: int


class Failed(Struct, array_like=True, tag="f"):
    call: int
    message: str
    http_status: int
    grpc_status: str
    busy_seconds: float = 0.0
    error_type: str = ""  # the class of what the model raised


class Handled(Struct, array_like=True, tag="handled"):
    """What a handler answers, with all of the body or its beginning."""

    call: int
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    more: bool = False  # of the body comes in Pieces
    over: bool = True  # the call ends with it: neither End nor Failed follows


class Piece(Struct, array_like=True, tag="piece"):
    """More of the body that a handler answers."""

    call: int
    body: bytes
    more: bool
    over: bool


class Waiting(Struct, array_like=True, tag="w"):
    call: int


class Apart(Struct, array_like=True, tag="apart"):
    call: int  # one of the batch


class Skipped(Struct, array_like=True, tag="skipped"):
    call: int


class Pulled(Struct, array_like=True, tag="u"):
    call: int


class Need(Struct, array_like=True, tag="n"):
    size_bytes: int


class Full(Struct, array_like=True, tag="full"):
    reason: str


class Freed(Struct, array_like=True, tag="d"):
    slots: list[int]


class Registered(Struct, array_like=True, tag="register"):
    name: str
    description: str


class Observed(Struct, array_like=True, tag="observe"):
    model_name: str
    model_version: str
    values: dict[str, float]


class Counted(Struct, array_like=True, tag="counted"):
    cell: int  # of the memory of values
    series: Series


ToWorker = Union[
    Load, Unload, Infer, Batch, Handle, Open, Push, Close, Credit, Cancel, Attach, Grant, Return, Forget, Ping, Stop
]
_OfCalls = Union[Reply, Chunk, End, Failed, Handled, Piece, Waiting, Apart, Skipped, Pulled, Need, Full, Freed]
ToPool = Union[_OfCalls, Hello, Loaded, LoadFailed, Unloaded, Registered, Observed, Counted, Pong]
