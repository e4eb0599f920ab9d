"""How JSON and UBJSON are built, before XGBoost reads them: what is nested very deep or cut short ends the process."""

from __future__ import annotations

import re
import struct

__all__ = ["why_not_json", "why_not_ubjson"]

_MOST_LEVELS = 100  # models have about ten
_TOO_DEEP = f"it is nested deeper than {_MOST_LEVELS} levels, which no model is"

# The closing quote may be missing, so that no text is looked at twice.
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

# UBJSON's markers, as XGBoost reads them: numbers by their size, and what has none.
_INTEGERS = {"U": ">B", "i": ">b", "I": ">h", "l": ">i", "L": ">q"}
_SIZES = {**{marker: struct.calcsize(form) for marker, form in _INTEGERS.items()}, "d": 4, "D": 8, "C": 1}
_PLAIN = {**_SIZES, "Z": 0, "T": 0, "F": 0}


def why_not_json(content: bytes) -> str | None:
    """Why XGBoost should not read it, if it should not. Whether it is JSON at all XGBoost says itself."""
    level = 0
    for one in _TEXT.sub(b"", content).translate(None, _ALL_BUT_BRACKETS):
        level += 1 if one in b"[{" else -1
        if level > _MOST_LEVELS:
            return _TOO_DEEP
    return None


def why_not_ubjson(content: bytes) -> str | None:
    """Why XGBoost should not read it, if it should not: all lengths and markers are looked at, but no values."""
    try:
        return _Walk(content).run()
    except (struct.error, IndexError):
        return "the file is cut short"
    except ValueError as error:
        return f"the file is damaged, or is UBJSON of something else ({error})"


class _Walk:
    """Goes from marker to marker."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._open: list[int | None] = []  # how many values are still to come; None up to a bracket; -1 in objects

    def run(self) -> str | None:
        """Why it should not be read. IndexError where it ends too early, ValueError for a marker that is none."""
        self._value(self._marker())
        while self._open:
            if len(self._open) > _MOST_LEVELS:
                return _TOO_DEEP
            left = self._open[-1]
            if left == 0:
                self._open.pop()
                continue
            marker = self._marker()
            if marker == ("}" if left == -1 else "]" if left is None else ""):
                self._open.pop()
                continue
            if left == -1:
                self._skip(self._integer(marker))
                marker = self._marker()
            elif left is not None:
                self._open[-1] = left - 1
            self._value(marker)
        return None

    def _value(self, marker: str) -> None:
        if marker in _PLAIN:
            self._skip(_PLAIN[marker])
        elif marker == "S":
            self._skip(self._integer(self._marker()))
        elif marker == "{":
            self._open.append(-1)
        elif marker == "[":
            self._array()
        else:
            raise ValueError(f"{marker!r} at {self._at - 1}")

    def _array(self) -> None:
        """Numbers of one size are skipped at once; other values come one by one."""
        marker = self._content[self._at : self._at + 1]
        if marker == b"$":
            self._at += 1
            size = _SIZES.get(self._marker(), 0)
            if not size or self._marker() != "#":
                raise ValueError(f"an array of nothing known at {self._at}")
            self._skip(size * self._integer(self._marker()))
        elif marker == b"#":
            self._at += 1
            self._open.append(self._integer(self._marker()))
        else:
            self._open.append(None)

    def _integer(self, marker: str) -> int:
        """A length."""
        form = _INTEGERS.get(marker)
        if form is None:
            raise ValueError(f"{marker!r} in place of a length at {self._at - 1}")
        value: int = struct.unpack_from(form, self._content, self._at)[0]
        self._at += _SIZES[marker]
        if value < 0:
            raise ValueError(f"a length of {value} at {self._at}")
        return value

    def _marker(self) -> str:
        self._at += 1
        return chr(self._content[self._at - 1])

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._content):
            raise IndexError
