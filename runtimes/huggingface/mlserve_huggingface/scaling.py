"""What becomes of a picture's size: a processor that scales the shorter edge up makes a narrow one very long."""

from __future__ import annotations

from typing import Any

from mlserve.codecs.errors import CodecError

__all__ = ["MOST_PIXELS", "Scaling", "most_pixels"]

MOST_PIXELS = 40_000_000  # of one picture; a decoded one takes up to four bytes for each
_NARROWEST = 200  # times as long as wide; there are processors that do not tell how they scale
_SCALED = 10_000_000  # pixels; a scaled one takes some twelve bytes for each
_SEEN = 1_000_000  # pixels that a model sees, where nothing is cut off the longer edge; some kilobyte for each
_MADE = 512**2  # the same of models that make a larger picture of it, and take ten times as much
_SQUARES = 4  # or so many squares of the edge, if that is more


class Scaling:
    """How the image processor of one pipeline scales."""

    def __init__(self, pipeline: Any) -> None:
        processor = getattr(pipeline, "image_processor", None)
        size = getattr(processor, "size", None)
        does_resize = getattr(processor, "do_resize", True)
        self._edge = _shorter_edge(size) if does_resize else 0
        self._scaled = _SEEN if getattr(processor, "do_center_crop", None) is False else _SCALED
        if does_resize and getattr(processor, "keep_aspect_ratio", False):
            self._edge, self._scaled = _height_or_width(size), _SEEN

    def added(self, width: int, height: int, edge: int = 0) -> int:
        """The pixels that a picture has, scaled, beyond those of a square. CodecError if it is too narrow.

        `edge` is the length that a request wants the shorter edge to have, if it does.
        """
        edge = max(edge, self._edge)
        shorter, longer = sorted((max(1, width), max(1, height)))
        narrowest = min(_NARROWEST, max(_SQUARES, self._scaled // edge**2)) if edge else _NARROWEST
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


def _height_or_width(size: Any) -> int:
    """The length that the shorter edge of a picture gets at most, where its shape is kept."""
    edges = (size.get(name) if isinstance(size, dict) else getattr(size, name, None) for name in ("height", "width"))
    return int(max((one for one in edges if one), default=0))


def most_pixels(task: str, pipeline: Any) -> int:
    """The pixels that a picture may have, unless settings say: fewer for a model that sees them all."""
    if not _sees_all(getattr(pipeline, "image_processor", None)):
        return MOST_PIXELS
    return _MADE if task == "image-to-image" else _SEEN


def _sees_all(processor: Any) -> bool:
    """Whether pictures keep their size, but for a few pixels that make it divide."""
    if getattr(processor, "do_resize", True) is False:
        return True
    divides = getattr(processor, "size_divisor", None) or getattr(processor, "pad_size", None)
    return getattr(processor, "size", None) is None and divides is not None
