"""Opens pictures within a bound on their pixels, looked at in their headers: small files can be huge pictures."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from mlserve.codecs.errors import CodecError
from mlserve_huggingface.scaling import MOST_PIXELS, Scaling

__all__ = ["Pixels"]

_TOGETHER = 4  # times as many in all pictures of a request
# Formats whose header does not tell the size: they hold another picture, or a program that draws one.
_UNTOLD = frozenset({"BLP", "CUR", "EPS", "FPX", "ICNS", "ICO", "IPTC", "MIC", "WMF"})
_HUGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the latter where warnings are errors


class Pixels:
    """What one request may still bring."""

    def __init__(self, most: int = MOST_PIXELS, scaling: Scaling | None = None) -> None:
        self._most = most
        self._left = most * _TOGETHER
        self._scaling = scaling  # of the model that will see them
        self._narrowest = (1, 1)

    def open(self, octets: bytes) -> Image.Image:
        """A picture, not decoded yet. CodecError if it has too many pixels; Pillow's errors if it is none."""
        try:
            image = Image.open(io.BytesIO(octets))
        except _HUGE:
            raise CodecError(f"a picture has more than {self._most} pixels (parameters.extra.max_pixels)") from None
        if image.format in _UNTOLD:
            raise CodecError(f"pictures of the format {image.format} are not read; send PNG or JPEG")
        self.count(image.width, image.height)
        return image

    def count(self, width: int, height: int) -> None:
        """CodecError for a picture that is too large, or one too many."""
        if width * height > self._most:
            raise CodecError(
                f"a picture has at most {self._most} pixels (parameters.extra.max_pixels), got {width} x {height}"
            )
        added = self._scaling.added(width, height) if self._scaling is not None else 0
        self._narrowest = max(self._narrowest, (width, height), key=_narrowness)
        self._left -= max(width * height, added)
        if self._left < 0:
            raise CodecError(
                f"the pictures of a request have together at most {_TOGETHER * self._most} pixels, as they are or "
                f"scaled ({_TOGETHER} times parameters.extra.max_pixels)"
            )

    def scale(self, edge: int) -> None:
        """CodecError if a picture is too narrow for the shorter edge that the request wants it to have."""
        if self._scaling is not None:
            self._scaling.added(*self._narrowest, edge)

    def look_at(self, value: Any) -> None:
        """CodecError for a picture among the texts in a value, which the pipeline would open, that is too large."""
        if isinstance(value, dict):
            for inner in value.values():
                self.look_at(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                self.look_at(inner)
        elif isinstance(value, str):
            try:  # as transformers reads it, which passes over what is no base64
                octets = base64.b64decode((value.split(",")[1] if value.startswith("data:") else value).encode())
                self.open(octets).close()
            except (OSError, ValueError, IndexError, SyntaxError):
                pass  # words, or what the pipeline cannot open either


def _narrowness(size: tuple[int, int]) -> float:
    return max(size) / max(1, min(size))
