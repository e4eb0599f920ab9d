"""Scales the masks of a picture to its size one after the other, where transformers asks for all of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mlserve.errors import InferenceError

__all__ = ["OneByOne"]

_BLOCK = 2**24  # numbers that are scaled at once, as torch has it
_BATCH, _PICTURE, _CHANNEL = range(3)  # what is asked for
_MOST = 250_000_000  # numbers that have to be there together, some five bytes each, where one by one would not do


class OneByOne(TorchFunctionMode):  # type: ignore[misc]  # torch's own has no types
    """While it is entered, `interpolate` gives large pictures of several channels as `_Scaled`.

    `between` is called before each channel is scaled.
    """

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._between = between

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.interpolate:
            return _interpolate(self._between, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _interpolate(between: Callable[[], None], values: Any, size: Any = None, *more: Any, **named: Any) -> Any:
    is_large = values.ndim == 4 and isinstance(size, tuple | list) and math.prod((*values.shape[:2], *size)) > _BLOCK
    if is_large and not more:
        return _Scaled(between, values, tuple(size), named)
    return _now(values, size, *more, **named)


def _now(*parts: Any, **named: Any) -> Any:
    with torch._C.DisableTorchFunction():  # else it is asked of `OneByOne` again
        return torch.nn.functional.interpolate(*parts, **named)


class _Scaled:
    """A batch of pictures, one of its pictures, or a channel of that, to be scaled to a size when it is looked at.

    What is asked of pictures here is asked of one channel after the other. Anything else is asked of the whole:
    InferenceError if that is too large.
    """

    def __init__(
        self,
        between: Callable[[], None],
        values: Any,
        size: tuple[int, int],
        how: dict[str, Any],
        level: int = _BATCH,
    ) -> None:
        self._between = between
        self._values = values  # of four dimensions, on each level
        self._size = size
        self._how = how
        self._level = level
        self._weights: Any = None  # of the channels of a picture

    def __getitem__(self, at: Any) -> Any:
        if self._level == _BATCH and isinstance(at, int):
            return _Scaled(self._between, self._values[at].unsqueeze(0), self._size, self._how, _PICTURE)
        if self._level == _PICTURE and isinstance(at, int) and self._is_apart():
            return self._channel(at)
        return self._whole()[at]

    def __imul__(self, weights: Any) -> Any:
        if self._level == _PICTURE and self._weights is None and weights.shape == (self._values.shape[1], 1, 1):
            self._weights = weights
            return self
        whole = self._whole()
        whole *= weights
        return whole

    def reshape(self, *shape: Any) -> Any:
        """The same, if that is its shape already, as torchvision asks for it."""
        own = (*self._values.shape[:2], *self._size)
        is_same = self._level == _BATCH and tuple(shape[0] if len(shape) == 1 else shape) == own
        return self if is_same else self._whole().reshape(*shape)

    def argmax(self, dim: int) -> Any:
        """The channel whose value is the greatest, at each place."""
        if self._level != _PICTURE or dim != 0 or not self._is_apart():
            return self._whole().argmax(dim)
        greatest = self._channel(0)._whole()
        found = torch.zeros(self._size, dtype=torch.int32, device=self._values.device)
        is_finite = bool(self._values.isfinite().all()) and self._weights is None
        for at in range(1, self._values.shape[1]):
            one = self._channel(at)._whole()
            found.masked_fill_(one > greatest, at)
            if not is_finite:
                found.masked_fill_(one.isnan() & ~greatest.isnan(), at)  # NaN is the greatest, and the first of them
            torch.maximum(greatest, one, out=greatest)
        return found

    def _is_apart(self) -> bool:
        """Whether channels alone are what they are together: where they come last, torch rounds another way."""
        return bool(self._values.stride(1) >= self._values.stride(3))

    def _channel(self, at: int) -> _Scaled:
        one = _Scaled(self._between, self._values[:, at : at + 1], self._size, self._how, _CHANNEL)
        one._weights = self._weights[at : at + 1] if self._weights is not None else None
        return one

    def _whole(self) -> Any:
        batch, channels = self._values.shape[:2]
        height, width = self._size
        if batch * channels > 1 and batch * channels * height * width > _MOST:
            most = _MOST // (batch * channels)
            fits = math.isqrt(most * width // height), math.isqrt(most * height // width)
            raise InferenceError(
                f"this model makes {batch * channels} masks of {width} x {height} pixels all at once, and there is "
                f"room for {_MOST} pixels: send the picture smaller, {fits[0]} x {fits[1]} at most"
            )
        self._between()
        whole = _now(self._values, self._size, **self._how)
        if self._level != _BATCH:
            whole = whole[0]
        if self._weights is not None:
            whole *= self._weights
        return whole[0] if self._level == _CHANNEL else whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole(), name)

    def __eq__(self, other: Any) -> Any:
        return self._whole() == other

    def __ge__(self, other: Any) -> Any:
        return self._whole() >= other

    def __gt__(self, other: Any) -> Any:
        return self._whole() > other

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*map(_made, args), **{name: _made(one) for name, one in (kwargs or {}).items()})


def _made(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_made, value))
    return value._whole() if isinstance(value, _Scaled) else value
