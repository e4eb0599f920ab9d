"""Files of sound as the arrays that models hear, within a bound on their seconds: small files can be hours."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import wave
from typing import Any

import numpy as np

from mlserve.codecs.errors import CodecError

__all__ = ["Sounds", "heard", "samples_of"]

_RATE = 16_000  # samples a second, where a model does not tell
_IN_PARTS = 3600  # seconds, where the model hears a sound in parts; also of all sounds of a request
_WHOLE = 120  # where it hears it at once: with wav2vec2, each second takes 16 MB
_TABLE = 500_000  # numbers, to convert one rate to another: 11025 to 16000 takes 282240
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


class Sounds:
    """What one pipeline hears: files read, and none that is too long."""

    def __init__(self, pipeline: Any, most_seconds: int | None) -> None:
        self._rate = int(getattr(getattr(pipeline, "feature_extractor", None), "sampling_rate", _RATE))
        kind = getattr(pipeline, "type", None)  # of speech recognition; other pipelines know no parts
        self._in_parts, self._takes_parts = kind == "seq2seq_whisper", kind is not None
        self._most = most_seconds

    def read(self, sounds: list[Any], options: dict[str, Any]) -> list[Any]:
        """The sounds with samples in place of files. CodecError for one that is too long, or one too many."""
        most = self._longest(options.get("chunk_length_s"))
        found = [self._read(sound, most) for sound in sounds]
        if sum(map(self._seconds, found)) > max(most, _IN_PARTS):
            raise CodecError(f"the sounds of a request are together at most {max(most, _IN_PARTS)} seconds long")
        return found

    def _longest(self, chunk: Any) -> int:
        """The bound in seconds. Chunks lift it only where the model hears each of them within the ordinary one."""
        if self._most is not None:
            return self._most
        chunked = self._takes_parts and isinstance(chunk, int | float) and 0 < chunk <= _WHOLE
        return _IN_PARTS if self._in_parts or chunked else _WHOLE

    def _read(self, sound: Any, most: int) -> Any:
        """One sound, or a list of them as one row."""
        if isinstance(sound, list):
            return [self._read(inner, most) for inner in sound]
        if isinstance(sound, bytes):
            sound = decoded(sound, self._rate, most)
        seconds = self._seconds(sound)
        if not seconds <= most:
            parts = self._takes_parts and self._most is None and most < _IN_PARTS
            advice = f", or have it heard in parts with a chunk_length_s of {_WHOLE} at most" if parts else ""
            raise CodecError(
                f"a sound is at most {most} seconds long (parameters.extra.max_sound_seconds), got "
                f"{seconds:g}; cut it{advice}"
            )
        return sound

    def _seconds(self, sound: Any) -> float:
        """How long a sound is. CodecError for what is none."""
        if isinstance(sound, list):
            return sum(map(self._seconds, sound))
        if isinstance(sound, str | bytes):  # an address, or a file that cannot be read here
            return 0
        rate: Any = self._rate
        if isinstance(sound, dict):
            rate = sound.get("sampling_rate", rate)
            check_rate(rate, self._rate)
            sound = samples_of(sound)
        if not isinstance(sound, np.ndarray):
            raise CodecError(
                f'a sound in JSON is {{"raw": [0.1, …], "sampling_rate": {self._rate}}}, got {sound!r:.60}'
            )
        return max(np.shape(sound), default=0) / float(rate)


def samples_of(sound: dict[str, Any]) -> Any:
    """What pipelines take as the samples of an object."""
    return sound.get("array") if sound.get("raw") is None else sound["raw"]


def check_rate(rate: Any, own: int) -> None:
    """CodecError for a rate from which a sound cannot be converted to the model's own in a small table.

    torchaudio makes one of both rates, divided by what they have in common: 7993 to 16000 takes gigabytes.
    """
    if not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0 or int(rate) != rate:
        raise CodecError(f"'sampling_rate' is a whole number of samples a second, got {rate!r:.60}")
    common = math.gcd(int(rate), own)
    if int(rate) // common * (own // common) > _TABLE:
        raise CodecError(
            f"sound of {rate:g} samples a second cannot be converted to the {own} that the model hears: the two have "
            f"too little in common; send it at {own}, or at a usual rate such as 8000, 22050, 44100 or 48000"
        )


def decoded(octets: bytes, rate: int, most_seconds: float) -> Any:
    """The samples in a file of sound, not many more than so many seconds; the file itself without ffmpeg.

    It is what transformers would have ffmpeg do, but bounded: a kilobyte may be an hour of silence. Nor may the file be
    a playlist of others, or of addresses.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        return octets  # transformers tells what is missing
    form = ["-ac", "1", "-ar", str(rate), "-f", "f32le", "-t", str(most_seconds + 1)]
    quiet = ["-nostdin", "-hide_banner", "-loglevel", "quiet"]
    command = [program, *quiet, "-protocol_whitelist", "pipe", "-i", "pipe:0", *form, "pipe:1"]
    done = subprocess.run(command, input=octets, stdout=subprocess.PIPE, check=False)
    samples = np.frombuffer(done.stdout[: len(done.stdout) // 4 * 4], np.float32)
    if not len(samples):
        raise CodecError(f"no sound that ffmpeg can read: {octets[:16]!r}")
    return samples
