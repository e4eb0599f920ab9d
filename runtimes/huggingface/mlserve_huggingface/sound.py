"""WAV files as the arrays that models hear; other formats are left to the pipeline, which has ffmpeg read them."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np

__all__ = ["heard"]

_TYPES = {1: "u1", 2: "<i2", 4: "<i4"}


def heard(octets: bytes) -> Any:
    """`{"raw", "sampling_rate"}` of a PCM WAV file, its channels mixed; the bytes as they are for anything else."""
    if octets[:4] != b"RIFF":
        return octets
    try:
        with wave.open(io.BytesIO(octets)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError):  # a WAV file, but not of plain samples
        return octets
    if width == 3:  # 24 bits have no type of their own: as the upper three bytes of four
        padded = np.zeros((len(frames) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(frames[: len(frames) // 3 * 3], np.uint8).reshape(-1, 3)
        frames, width = padded.tobytes(), 4
    if width not in _TYPES:
        return octets
    samples: np.ndarray[Any, Any] = np.frombuffer(frames, _TYPES[width]).astype(np.float32)
    samples = (samples - 128) / 128 if width == 1 else samples / np.float32(2 ** (8 * width - 1))
    mixed = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(axis=1)
    return {"raw": mixed.astype(np.float32), "sampling_rate": rate}
