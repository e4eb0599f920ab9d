"""From a request to what its pipeline is called with: the first argument, named ones, and options.

args, array_inputs, inputs, …   the first argument, one row an element
any other input                 a named argument
parameters of the request       options, as far as the pipeline knows them by name
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlserve.codecs import find_input_codec
from mlserve.codecs.string import text_of
from mlserve.errors import CodecError, InferenceError
from mlserve.types import InferenceRequest, MetadataTensor, Parameters, RequestInput
from mlserve_huggingface.codecs.json import HuggingfaceListJSONCodec, check_depth
from mlserve_huggingface.codecs.media import RawCodec, file_bytes, picture_of_array, pictures_of
from mlserve_huggingface.codecs.pixels import Pixels
from mlserve_huggingface.limits import Limits, shorter_edge
from mlserve_huggingface.options import check_objects, refuse
from mlserve_huggingface.places import Places, is_place
from mlserve_huggingface.scaling import Scaling
from mlserve_huggingface.sound import Sounds, heard, samples_of
from mlserve_huggingface.tasks import GENERATING, Interface

__all__ = ["Arguments", "Column", "Reader", "fresh", "is_chat"]

# What runs foreign code, loads other models or starts processes, also by their command line: never a client's choice.
# Nor is a template of chats, which is a program that may loop for ever.
_RESERVED = frozenset({
    "assistant_model", "assistant_tokenizer", "cache_dir", "chat_template", "code_revision", "custom_generate",
    "model_kwargs", "num_workers", "processor_kwargs", "revision", "tesseract_config", "token", "trust_remote_code",
})  # fmt: skip
# Pipelines that hand an object on to the tokenizer whole: what is not its text are options.
_TAKE_OPTIONS_IN_ROWS = frozenset({"sentiment-analysis", "text-classification", "zero-shot-object-detection"})
_CONTENT = frozenset({"documents", "table", "tools"})  # whose own names are no options
_CLOSE = 0.85  # how alike a parameter must be to an option to count as misspelt


@dataclass
class Column:
    """The values of one input, one a row."""

    rows: list[Any]
    listed: bool = False  # also a single row is given to the pipeline as a list

    @property
    def value(self) -> Any:
        """What the pipeline gets."""
        return self.rows if self.listed or len(self.rows) != 1 else self.rows[0]

    @property
    def seen(self) -> list[Any]:
        """The rows as the pipeline takes them apart: it goes through a list, also one that came as a single row."""
        value = self.value
        return value if isinstance(value, list) and not is_chat(value) else [value]


@dataclass
class Arguments:
    """What a pipeline is called with. Fresh for each call: pipelines empty the dicts that they are given."""

    positional: list[Column] = field(default_factory=list)
    columns: dict[str, Column] = field(default_factory=dict)  # named arguments with a value a row
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows all columns have; 0 if they differ, or if this is no call by rows."""
        counts = {len(one.rows) for one in (*self.positional, *self.columns.values())}
        return counts.pop() if len(counts) == 1 and len(self.positional) <= 1 else 0

    def all_rows(self) -> list[Any]:
        """The rows of all columns."""
        return [row for one in (*self.positional, *self.columns.values()) for row in one.rows]

    def each_row(self) -> Iterator[Arguments]:
        """A call for each row."""
        for at in range(self.rows):
            yield Arguments(
                [Column([one.rows[at]]) for one in self.positional],
                {name: Column([one.rows[at]]) for name, one in self.columns.items()},
                self.options,
            )

    def parts(self, rows: int) -> Iterator[Arguments]:
        """Calls for so many rows each, the last perhaps for fewer; lists all, so that each row has one result."""
        for at in range(0, self.rows, rows):
            yield Arguments(
                [Column(one.rows[at : at + rows], True) for one in self.positional],
                {name: Column(one.rows[at : at + rows], True) for name, one in self.columns.items()},
                self.options,
            )

    @classmethod
    def joined(cls, calls: Sequence[Arguments]) -> Arguments:
        """One call with the rows of several, which have the same options and columns."""
        first = calls[0]
        return cls(
            [_below([one.positional[at] for one in calls]) for at in range(len(first.positional))],
            {name: _below([one.columns[name] for one in calls]) for name in first.columns},
            first.options,
        )


def _below(columns: Sequence[Column]) -> Column:
    """One column with the rows of several, always a list."""
    return Column([row for one in columns for row in one.rows], True)


class Reader:
    """Reads requests for one pipeline. InferenceError or CodecError say what is wrong with one."""

    def __init__(
        self,
        interface: Interface,
        limits: Limits,
        declared: dict[str, MetadataTensor],
        allow_urls: bool,
        max_pixels: int,
        scaling: Scaling,
        sounds: Sounds,
    ) -> None:
        self._interface = interface
        self._sees = interface.media == "image" or interface.task == "any-to-any"
        self._max_pixels = max_pixels
        self._scaling = scaling
        self._sounds = sounds
        self._limits = limits
        self._declared = declared  # the inputs that the model's settings describe, by name
        self._allow_urls = allow_urls
        self._places = Places(interface.task, allow_urls)

    def __call__(self, request: InferenceRequest) -> Arguments:
        """The arguments in a request."""
        pixels = Pixels(self._max_pixels, self._scaling)
        arguments = Arguments(options=self._options(request.parameters))
        for one in request.inputs:
            if self._interface.is_first(one.name):
                self._add_first(arguments, one, pixels)
            elif self._interface.is_data(one.name):
                arguments.columns[one.name] = self._column(one, pixels)
            else:
                self._check_option(one.name)
                arguments.options[one.name] = self._allowed(one.name, self._option(one))
        arguments.options.pop("batch_size", None)  # the operator's: rows would be padded to the longest of any number
        if not arguments.positional and not arguments.columns and not request.inputs:
            raise InferenceError("the request has no inputs; send what the pipeline shall look at as 'args'")
        if self._sees:
            pixels.look_at(
                [arguments.options, [one.rows for one in (*arguments.positional, *arguments.columns.values())]]
            )
        self._limits.check(arguments.options)
        whole = self._interface.task == "table-question-answering"  # whose tables may be lists of rows
        seen = [row for one in arguments.positional for row in ([one.value] if whole else one.seen)]
        self._limits.check_rows(arguments.options, seen)
        pixels.scale(shorter_edge(arguments.options))
        if self._interface.task in _TAKE_OPTIONS_IN_ROWS:
            for row in _objects(arguments.all_rows()):
                check_objects(row)
                self._limits.check({**arguments.options, **row})
        self._add_sampling_rate(arguments)
        if self._interface.only_rate is not None:
            for column in arguments.positional:
                column.rows = [_bare(row, self._interface.only_rate) for row in column.rows]
        if self._interface.media == "audio":
            for column in arguments.positional:
                column.rows = self._sounds.read(column.rows, arguments.options)
        return arguments

    def _add_first(self, arguments: Arguments, one: RequestInput, pixels: Pixels) -> None:
        if arguments.positional:
            raise InferenceError(f"input '{one.name}': another input is the pipeline's first argument already")
        column = self._column(one, pixels)
        if self._interface.in_pairs:
            column.rows = _pairs(column.rows, one)
        if one.name == "args" and self._interface.takes_several and len(column.rows) > 1:
            arguments.positional = [Column([row]) for row in column.rows]
        else:
            column.listed = column.listed or one.name == "array_inputs"
            arguments.positional = [column]

    def _content_type(self, one: RequestInput) -> str | None:
        for owner in (one, self._declared.get(one.name)):
            if owner is not None and owner.parameters is not None and owner.parameters.content_type is not None:
                return str(owner.parameters.content_type)
        return None

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _column(self, one: RequestInput, pixels: Pixels) -> Column:
        media = self._interface.media_of(one.name)
        content_type = self._content_type(one)
        if content_type in ("hg_json", "hg_jsonlist"):
            rows = [self._looked_at(row, media, one) for row in HuggingfaceListJSONCodec.decode_input(one)]
            if self._interface.talks and is_chat(rows):
                return Column([rows])  # one row, whose elements are its messages
            return Column(rows, listed=content_type == "hg_jsonlist" and one.name != "args")
        codec: Any = find_input_codec(content_type) if content_type is not None else None
        if media is not None and (codec is None or content_type in ("str", "np", "base64", "pillow_image", "raw")):
            return Column(self._media_rows(one, media, pixels))
        if codec is None:
            rows = text_of(one, "str") if one.datatype == "BYTES" else _plain_rows(one)
            return Column(self._looked_at(rows, media, one))
        value = codec.decode_input(one)
        if content_type == "hg_conversation":
            value = self._looked_at(value, media, one)
            return Column([value] if value and isinstance(value[0], dict) else value)
        rows = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        self._places.check_data(rows, one.name, "text" if media is None else "")
        if media is not None:
            rows = [self._medium(row, media, one, at, pixels) for at, row in enumerate(rows)]
        return Column(rows, listed=content_type == "nplist" and one.name != "args")

    def _media_rows(self, one: RequestInput, media: str, pixels: Pixels) -> list[Any]:
        """Pictures or sound: files in BYTES elements, or their pixels or samples."""
        if one.datatype == "BYTES":
            if media == "video" or (self._allow_urls and _all_are_places(one)):
                return [self._medium(text, media, one, at, pixels) for at, text in enumerate(text_of(one, "str"))]
            if media == "image":
                return pictures_of(one, pixels)
            return [heard(octets) for octets in file_bytes(one, "base64")]
        if media == "image":
            return pictures_of(one, pixels)
        array = one.data.to_numpy(one.datatype, one.shape)
        return [
            self._medium(row, media, one, at, pixels) for at, row in enumerate(array if array.ndim > 1 else [array])
        ]

    def _medium(self, value: Any, media: str, one: RequestInput, at: int, pixels: Pixels) -> Any:
        """One picture, sound or video, as the pipeline takes it."""
        if isinstance(value, str):
            if media == "video" and not is_place(value):
                raise CodecError(f"input '{one.name}': data[{at}]: {value[:40]!r} is no address of a video")
            return self._looked_at(value, media, one)
        if media == "image" and isinstance(value, np.ndarray):
            return picture_of_array(value, one, pixels)
        if media == "audio" and isinstance(value, np.ndarray):
            return np.ascontiguousarray(value, dtype=np.float32)
        return value

    def _looked_at(self, value: Any, media: str | None, one: RequestInput) -> Any:
        """A value for the pipeline to look at, in which texts that it could open are refused."""
        self._places.check_data(value, one.name, "text" if media is None else "")
        return _with_arrays(value) if media == "audio" else value

    # -- options ------------------------------------------------------------------------------------------------------

    def _option(self, one: RequestInput) -> Any:
        """The value of an input that holds for all rows."""
        content_type = self._content_type(one)
        if content_type in ("hg_json", "hg_jsonlist"):
            rows = HuggingfaceListJSONCodec.decode_input(one)
            return rows[0] if content_type == "hg_json" and len(rows) == 1 else rows
        codec: Any = find_input_codec(content_type) if content_type is not None else None
        if codec is None or content_type in ("str", "np", "raw"):
            return RawCodec.decode_input(one)
        return _plain(codec.decode_input(one))

    def _allowed(self, name: str, value: Any) -> Any:
        if name not in _CONTENT:
            check_objects(value, name)
        _refuse_reserved(name, value if name not in _CONTENT else None)
        self._places.check_option(value, name)
        return value

    def _check_option(self, name: str) -> None:
        """InferenceError for an input that is no option of a pipeline which generates: it would reach `generate`."""
        _refuse_reserved(name, None)
        if self._interface.task in GENERATING and name not in self._interface.options:
            near = difflib.get_close_matches(name, self._interface.options, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InferenceError(f"input '{name}' is no option of the pipeline {self._interface.task}{hint}")

    def _options(self, parameters: Parameters | None) -> dict[str, Any]:
        """The parameters that are options of the pipeline. InferenceError for one that is nearly one."""
        known = self._interface.options
        options: dict[str, Any] = {}
        for name, value in (parameters or {}).items():
            _refuse_reserved(name, None)
            if name in known:
                check_depth(value, f"parameter '{name}'")
                options[name] = self._allowed(name, value)
            elif near := difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE):
                raise InferenceError(f"parameter '{name}' is no option of the pipeline; did you mean '{near[0]}'?")
        return options

    def _add_sampling_rate(self, arguments: Arguments) -> None:
        """Says beside each array of samples at which rate it was taken, where the request tells it."""
        rate = arguments.options.pop("sampling_rate", None) if self._interface.media == "audio" else None
        if rate is not None:
            for column in arguments.positional:
                column.rows = [
                    {"raw": one, "sampling_rate": rate} if isinstance(one, np.ndarray) else one for one in column.rows
                ]


def _bare(sound: Any, rate: int) -> Any:
    """The samples alone, for a pipeline that takes no rate. InferenceError if they are of another one."""
    if not isinstance(sound, dict):
        return sound
    told = sound.get("sampling_rate", rate)
    if told != rate:
        raise InferenceError(f"this pipeline hears sound of {rate} samples a second, got {told}; convert it before")
    return samples_of(sound)


def _refuse_reserved(name: str, value: Any) -> None:
    """InferenceError for an option that is not for clients, also inside an object such as generate_kwargs."""
    if name in _RESERVED:
        raise InferenceError(f"'{name}' cannot be set by a request: it is for whoever runs the server")
    refuse(name)
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_reserved(str(key), inner)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                _refuse_reserved("", inner)


def _pairs(rows: list[Any], one: RequestInput) -> list[Any]:
    """Each two that follow one another as one row; rows that are pairs already as they are."""
    if all(isinstance(row, list) for row in rows):
        return rows
    if len(rows) % 2:
        raise InferenceError(f"input '{one.name}': the pipeline compares two pictures each, and got {len(rows)}")
    return [rows[at : at + 2] for at in range(0, len(rows), 2)]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in lists, however deep: pipelines take lists apart."""
    if isinstance(value, dict):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def is_chat(value: Any) -> bool:
    """Whether this is a list of messages."""
    return isinstance(value, list) and bool(value) and all(_is_message(one) for one in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value


def _with_arrays(value: Any, key: str = "raw") -> Any:
    """A value that came as JSON, with the samples in it as arrays."""
    if isinstance(value, dict):
        return {name: _with_arrays(inner, name) for name, inner in value.items()}
    if not isinstance(value, list):
        return value
    if key in ("raw", "array") and value and isinstance(value[0], int | float):
        try:
            return np.asarray(value, dtype=np.float32)
        except (OverflowError, TypeError, ValueError) as error:
            raise CodecError(f"the samples of a sound are numbers, all in one list: {error}") from error
    return [_with_arrays(inner, key) for inner in value]


def _all_are_places(one: RequestInput) -> bool:
    try:
        texts = text_of(one, "str")
    except CodecError:
        return False
    return bool(texts) and all(text is not None and is_place(text) for text in texts)


def _plain(value: Any) -> Any:
    """A value with lists and Python's numbers in the place of arrays: as such they have bounds."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _plain_rows(one: RequestInput) -> list[Any]:
    values = RawCodec.decode_input(one)
    return values if isinstance(values, list) else [values]


def fresh(value: Any) -> Any:
    """A copy of the lists and dicts in a value; pictures and arrays are shared, for nobody writes to them."""
    if isinstance(value, dict):
        return {name: fresh(inner) for name, inner in value.items()}
    return [fresh(inner) for inner in value] if isinstance(value, list) else value
