"""Content type `datetime`: lists of dates and times, written by ISO 8601."""

from __future__ import annotations

import datetime
import re
from typing import Any, ClassVar, Union

import numpy as np

from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.lists import ListCodec, as_list
from mlserve.codecs.registry import register_input_codec
from mlserve.codecs.string import text_of

__all__ = ["DatetimeCodec"]

# What datetime.fromisoformat of Python 3.10 does not read: Z, the compact form, other lengths of a fraction.
_ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?)?"
    r" ?(Z|[+-]\d\d(?::?\d\d)?)?"
)


@register_input_codec
class DatetimeCodec(ListCodec):
    """A list of `datetime` as a BYTES tensor of ISO 8601 text; null is None.

    Zones stay as offsets; a text without one gives a datetime without zone. Digits beyond microseconds are cut.
    """

    ContentType: ClassVar[str] = "datetime"
    TypeHint: ClassVar[Any] = list[datetime.datetime]
    Element: ClassVar[type[Any]] = datetime.datetime

    @classmethod
    def _read_elements(cls, tensor: InputOrOutput) -> list[Any]:
        found: list[Any] = list(text_of(tensor, cls.ContentType))
        for at, one in enumerate(found):
            if one is not None:
                try:
                    found[at] = parse(one)
                except (ValueError, OverflowError) as error:
                    message = f"data[{at}]: {one[:40]!r} is no date and time by ISO 8601 ({error})"
                    raise located(CodecError(message), tensor) from None
        return found

    @classmethod
    def _write_elements(cls, name: str, payload: Any, use_bytes: bool) -> list[Any]:
        if isinstance(payload, np.ndarray) and payload.dtype.kind == "M":
            payload = _from_numpy(payload)
        encoded: list[Any] = []
        for at, one in enumerate(as_list(payload)):
            if isinstance(one, np.datetime64):
                one = _from_numpy(one)[0]
            if isinstance(one, datetime.date):  # a datetime is one too
                one = one.isoformat()
            elif not isinstance(one, str) and one is not None:
                what = f"{type(one).__name__} at {at}"
                raise unencodable(f"'{name}': content type 'datetime' takes a list of datetime, got {what}")
            if one == "NaT":  # what pandas' missing date, a datetime by its class, says of itself
                one = None
            encoded.append(one.encode() if use_bytes and one is not None else one)
        return encoded

    @classmethod
    def _matches_hint(cls, hint: Any) -> bool:
        """`List[datetime]`, and `List[Union[str, datetime]]`, which is what MLServer has this codec's values as."""
        return hint in (("list", datetime.datetime), ("list", Union[str, datetime.datetime]))


def parse(text: str) -> datetime.datetime:
    """A datetime from ISO 8601 text. ValueError if it is none, or no date of the calendar."""
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        found = _ISO.fullmatch(text)
        if found is None:
            raise
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    return datetime.datetime(
        int(year),
        int(month),
        int(day),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        int((fraction or "")[:6].ljust(6, "0")),
        _zone(zone),
    )


def _zone(text: str | None) -> datetime.timezone | None:
    if text is None:
        return None
    if text == "Z":
        text = "+00"
    minutes = int(text[1:3]) * 60 + int(text[3:].lstrip(":") or 0)
    return datetime.timezone(datetime.timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _from_numpy(dates: Any) -> Any:
    """numpy's dates as Python's, with microseconds; NaT as None."""
    return dates.ravel().astype("datetime64[us]").tolist()
