"""What becomes of a picture's size: a processor that scales the shorter edge up makes a narrow one very long."""

from __future__ import annotations

from typing import Any

from mlserve.codecs.errors import CodecError

__all__ = ["Scaling"]

_NARROWEST = 200  # times as long as wide; there are processors that do not tell how they scale
_SCALED = 10_000_000  # pixels; a scaled one takes some twelve bytes for each
_SQUARES = 4  # or so many squares of the edge, if that is more


class Scaling:
    """How the image processor of one pipeline scales."""

    def __init__(self, pipeline: Any) -> None:
        processor = getattr(pipeline, "image_processor", None)
        size = getattr(processor, "size", None)
        self._edge = _shorter_edge(size) if getattr(processor, "do_resize", True) else 0

    def added(self, width: int, height: int, edge: int = 0) -> int:
        """The pixels that a picture has, scaled, beyond those of a square. CodecError if it is too narrow.

        `edge` is the length that a request wants the shorter edge to have, if it does.
        """
        edge = max(edge, self._edge)
        shorter, longer = sorted((max(1, width), max(1, height)))
        narrowest = min(_NARROWEST, max(_SQUARES, _SCALED // edge**2)) if edge else _NARROWEST
        if longer > narrowest * shorter:
            raise CodecError(
                f"a picture for this model is at most {narrowest} times as long as wide, got {width} x {height}: "
                f"its shorter edge may be scaled up; cut it into parts"
            )
        return edge**2 * (longer - shorter) // shorter


def _shorter_edge(size: Any) -> int:
    """The length that the shorter edge gets, where nothing bounds the longer one; else 0."""
    if isinstance(size, int):
        return size

    def told(name: str) -> Any:
        return size.get(name) if isinstance(size, dict) else getattr(size, name, None)

    return 0 if told("longest_edge") else int(told("shortest_edge") or 0)
