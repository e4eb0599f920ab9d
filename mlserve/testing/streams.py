"""Whether `predict_stream` gives chunks that can be sent, and ends when its client leaves."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio

from mlserve import execute
from mlserve.errors import MLServeError
from mlserve.model import MLModel
from mlserve.testing import calling
from mlserve.testing.calling import check_sendable, each_chunk
from mlserve.testing.sharing import Snapshot
from mlserve.testing.variants import copied
from mlserve.testing.watching import what_stays
from mlserve.types import InferenceRequest, InferenceResponse

__all__ = ["check_leaving", "streamed"]


async def streamed(model: MLModel, request: InferenceRequest) -> list[InferenceResponse]:
    """The chunks of the answer to a stream of one request, each of which can be sent and stays as it was given."""
    chunks: list[InferenceResponse] = []
    last: Snapshot | None = None

    def take(chunk: InferenceResponse) -> None:
        nonlocal last
        check_sendable(f"{model!r}, chunk {len(chunks)} of predict_stream", chunk)
        if last is not None:
            last.check(f"{model!r}: chunk {len(chunks) - 1} of predict_stream", f"chunk {len(chunks)} came")
        chunks.append(chunk)
        last = Snapshot(chunk)

    try:
        await each_chunk(model, request, take)
    except AssertionError:
        raise
    except Exception as error:
        words = str(error) if isinstance(error, MLServeError) else f"{type(error).__name__}: {error}"
        raise AssertionError(f"{model!r}, chunk {len(chunks)} of predict_stream: {words}") from error
    assert chunks, f"{model!r}: predict_stream gives nothing"
    return chunks


async def check_leaving(model: MLModel, request: InferenceRequest) -> None:
    """Whether the model's generator ends when its client has left after the first chunk, and leaves nothing running."""
    watched: Any = _Watched(model)
    stays = what_stays()
    chunks = execute.stream(watched, watched.one_client(copied(request)))
    with anyio.move_on_after(calling.STREAM_SECONDS) as scope:
        await anext(chunks)
    late = scope.cancelled_caught
    assert not late, f"{model!r}: predict_stream has no first chunk after {calling.STREAM_SECONDS:.0f} s"
    watched.has_answered = True
    began = time.perf_counter()
    try:
        await chunks.aclose()
    except RuntimeError as error:  # "async generator ignored GeneratorExit"
        raise AssertionError(
            f"{model!r}: its client left, and predict_stream went on to yield. Let GeneratorExit and cancellation "
            f"pass: around `yield` and `await`, catch Exception and not BaseException ({error})"
        ) from error
    took = time.perf_counter() - began
    assert took < execute.CLOSE_SECONDS, (
        f"{model!r}: its client left, and predict_stream took {took:.1f} s to end; the server waits for "
        f"{execute.CLOSE_SECONDS:.0f} s. Keep its `finally` short"
    )
    assert _has_ended(watched.generator), f"{model!r}: its client left, and the generator of predict_stream is open"
    left = await stays()
    assert not left, (
        f"{model!r}: its client left, and predict_stream left {left} running. End what it starts in a `finally`, or "
        "start it in a task group"
    )


class _Watched:
    """A model whose generator can be looked at."""

    def __init__(self, model: MLModel) -> None:
        self._model = model
        self.generator: Any = None
        self.has_answered = False

    async def one_client(self, request: InferenceRequest) -> AsyncIterator[InferenceRequest]:
        """Asks once; once it has an answer it may ask again, so that the model waits."""
        yield request
        if self.has_answered:
            await anyio.sleep_forever()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict_stream(self, payloads: Any) -> Any:
        self.generator = self._model.predict_stream(payloads)
        return self.generator


def _has_ended(generator: Any) -> bool:
    """Of generators that Python made; others have to be believed."""
    return getattr(generator, "ag_frame", None) is None and getattr(generator, "gi_frame", None) is None
