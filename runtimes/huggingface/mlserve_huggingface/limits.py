"""Bounds for the options of clients that memory grows with: a request of a few bytes must not cost gigabytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlserve.errors import InferenceError
from mlserve_huggingface.generation import Generation
from mlserve_huggingface.options import Options
from mlserve_huggingface.tables import check_cells, tables_in
from mlserve_huggingface.texts import Tokens, together

__all__ = ["Limits", "shorter_edge", "tokens_of"]

_TOKENS = 4096  # where a model does not tell how many it takes, and for generated text, which may go beyond
_SPAN = 384  # tokens of question and context together, unless max_seq_len says otherwise
_LARGER = 10**9  # what tokenizers say for "not known" is larger
_LENGTHS = frozenset(("max_length", "pad_to_multiple_of"))
_MOST = {
    "num_frames": 1024,
    "image_seq_len": 4096,  # tokens of a picture
    "max_image_tiles": 64,
    "max_patches": 4096,
    "min_patches": 64,
    "max_pixels": 4096**2,
    "min_pixels": 4096**2,
    "maxlenratio": 20,  # of speech to its text
    "minlenratio": 20,
    "crops_n_layers": 2,
    "points_per_batch": 64,
} | dict.fromkeys(("height", "width", "size", "crop_size", "pad_size", "shortest_edge", "longest_edge"), 1024)
_CUTTING = frozenset({"do_center_crop", "do_resize"})
_ANSWERS = {"top_k": 1000, "topk": 1000}  # of question answering; elsewhere there are no more than labels or tokens
_MASKED = 10_000  # answers to all masks of a text, each with the whole text
_SPECIAL = 4  # tokens that a tokenizer adds to a text, or that RoBERTa has no places for
_LABELS = 1000  # candidates, which some models see all at once
_AT_ONCE = 50_000  # tokens of texts that are padded to the longest: 1000 labels of 50, or 97 texts of 512
_OF_TABLES = 10_000  # the same of a table with each of its questions: 19 of 512, some 40 MB each with TAPAS
# Tasks whose lists are no texts that the model sees at once: words, or what is asked one by one.
_APART = frozenset({"document-question-answering", "question-answering", "zero-shot-classification"})
_IN_WINDOWS = _APART - {"zero-shot-classification"}  # as long as may be
_CUT = frozenset({"ner", "token-classification", "zero-shot-classification"})  # by their pipelines, where they know how
_SAID = ("prompt", "question", "text")  # options that are read as rows are
_STEP = 2  # seconds from one chunk of sound to the next: 1800 chunks in an hour
_TEMPLATE = 1000  # characters; each label has a text of them
_GRID = {"crops_n_layers": 0, "points_per_crop": 32, "crop_n_points_downscale_factor": 1}  # of points, as they are
_POINTS = 6000  # in a picture and its crops, at each of which a model looks for masks


class Limits:
    """The bounds for one pipeline."""

    def __init__(self, task: str, pipeline: Any, sees_text: bool = True, most_generated: int | None = None) -> None:
        tokens = tokens_of(pipeline)
        generated = max(tokens, _TOKENS)
        generates = getattr(getattr(pipeline, "model", None), "can_generate", lambda: False)()
        self._options = Options(pipeline, generated) if generates else None
        self._knows_lists = task not in _APART
        self._asks_tables = task == "table-question-answering"
        self._cuts_tables = self._asks_tables and getattr(pipeline, "type", None) == "tapas"  # unless told otherwise
        self._at_once = _OF_TABLES if self._asks_tables else _AT_ONCE
        self._counted = Tokens(pipeline)
        self._generation = (
            Generation(pipeline, tokens, sees_text, most_generated, self._knows_lists) if generates else None
        )
        self._most = {
            **_MOST,
            **dict.fromkeys(_LENGTHS, generated if generates else tokens),
            "max_seq_len": generated,
        }
        self._tokens = tokens
        self._longest = generated
        is_cut = task in _CUT and self._counted.longest is not None
        self._sees_whole = sees_text and not is_cut and task not in _IN_WINDOWS
        self._span = None
        self._mask = pipeline.tokenizer.mask_token if task == "fill-mask" else None
        self._words = pipeline.model.config.vocab_size if task == "fill-mask" else 0
        if task in ("question-answering", "document-question-answering"):
            self._most |= _ANSWERS
        if task == "document-question-answering":
            self._span = tokens
        if task == "question-answering":
            # The pipeline of transformers makes all the spans at once; ours one at a time.
            self._span = min(tokens, _SPAN) if hasattr(pipeline, "feature_extractor") else None

    def check(self, options: dict[str, Any]) -> None:
        """InferenceError for an option that is above its bound, also inside an object such as generate_kwargs."""
        if self._options is not None:
            self._options.check(options)
        for name, value in _all_options(options):
            self._check(name, value)
        self._check_at_once(_labels(options), options, "'candidate_labels'", "ask for some of them at a time")
        _check_points(options)
        _check_windows(options, self._tokens)
        _check_chunks(options.get("chunk_length_s"), options.get("stride_length_s"))
        longest = options.get("max_seq_len", self._span)
        if self._span is not None and isinstance(longest, int):
            _compare("doc_stride", options.get("doc_stride"), longest // 2)

    @property
    def generates(self) -> bool:
        """Whether the model generates, so that `check_generation` is to be asked."""
        return self._generation is not None

    def check_generation(self, options: dict[str, Any], tokens: int) -> None:
        """InferenceError for what is about to reach `generate`: options, and the tokens of a text."""
        if self._options is not None and self._generation is not None:
            self._options.check_all(options)
            self._generation.check_tokens(list(_all_options(options)), tokens)

    def check_rows(self, options: dict[str, Any], rows: list[Any]) -> None:
        """InferenceError for options that are too much for one of the rows. From the thread whose turn it is."""
        if self._asks_tables:
            rows, options = tables_in(options, rows)
            if options.get("truncation") is None and self._cuts_tables:
                options = {**options, "truncation": True}
        if self._generation is not None:
            said = [one for name in _SAID if name in options for one in _rows(options[name])]
            for one in said:
                self._generation.check_prompt(one, options)
            self._generation.check(list(_all_options(options)), [*rows, *said], options)
        else:
            for row in rows:
                told = {**options, **row} if isinstance(row, dict) else options
                self._check_at_once(row, told, "the texts in one row", "send them as rows of their own")
                self._check_length(row, told)
        if self._cuts_tables:
            check_cells(rows)
        if self._mask is not None and _is_number(options.get("top_k")):
            masks = max((str(row).count(self._mask) for row in rows), default=0)
            _compare("top_k", options["top_k"], min(self._words, max(1, _MASKED // max(1, masks))))

    def are_passed(self, options: dict[str, Any], rows: list[Any]) -> bool:
        """Whether a text, with what is generated after it, has more tokens than the model has places for."""
        special = 0 if self._counted.longest is None else _SPECIAL
        for row in rows:
            tokens: float = self._counted.cut(together(row, self._counted.exactly)[1], options) + special
            if self._generation is not None:
                tokens = self._generation.after(dict(_all_options(options)), int(tokens))
            if tokens > self._tokens:
                return True
        return False

    def _check_at_once(self, row: Any, options: dict[str, Any], what: str, advice: str) -> None:
        """InferenceError for texts in one list, all padded to the longest, that are too much for the model at once."""
        for measure in (self._counted.most, self._counted.exactly):
            count, longest = together(row, measure)
            if not self._knows_lists or count == 1:
                return
            padded = max(self._counted.cut(longest, options), self._padded(options))
            if count * padded <= self._at_once:
                return
        raise InferenceError(
            f"{what} are padded to the longest of them: {count} of {padded:.0f} tokens each, {count * padded:.0f} in "
            f"all; the model sees at most {self._at_once} at once; {advice}"
        )

    def _check_length(self, row: Any, options: dict[str, Any]) -> None:
        """InferenceError for a text that is longer than any model shall see at once: not all have a bound."""
        for measure in (self._counted.most, self._counted.exactly) if self._sees_whole else ():
            longest = self._counted.cut(together(row, measure)[1], options)
            if longest <= self._longest:
                return
        if self._sees_whole:
            raise InferenceError(
                f"a text is longer than the model takes: {longest} tokens, and it sees at most {self._longest} at "
                f"once; shorten it, or set truncation"
            )

    def _padded(self, options: dict[str, Any]) -> float:
        """The tokens to which options have all texts padded."""
        said = list(_all_options(options))
        to_most = any(name == "padding" and value == "max_length" for name, value in said)
        wanted = _LENGTHS if to_most else _LENGTHS - {"max_length"}
        told: list[float] = [value for name, value in said if name in wanted and _is_number(value)]
        return max([*told, self._tokens if to_most and "max_length" not in dict(said) else 0])

    def _check(self, name: str, value: Any) -> None:
        if name in _CUTTING and value is False:
            raise InferenceError(f"'{name}' cannot be false: the model would see all pixels of a picture at once")
        if name == "hypothesis_template":
            _check_template(value)
        elif name in self._most:
            _compare(name, value, self._most[name])


def _compare(name: str, value: Any, most: int) -> None:
    if _is_number(value) and value < 0:
        raise InferenceError(f"'{name}' is 0 or more, got {value}")
    if _is_number(value) and not value <= most:
        raise InferenceError(f"'{name}' is at most {most} for this model, got {value}")


def _labels(options: dict[str, Any]) -> list[str]:
    """The texts of the candidates. InferenceError for more of them than a model shall compare at once."""
    labels, template = options.get("candidate_labels"), options.get("hypothesis_template")
    labels = labels.split(",") if isinstance(labels, str) else labels if isinstance(labels, list) else []
    if len(labels) > _LABELS:
        raise InferenceError(
            f"'candidate_labels' are at most {_LABELS}, got {len(labels)}; ask for some of them at a time"
        )
    return [f"{template if isinstance(template, str) else ''} {label}" for label in labels]


def _check_points(options: dict[str, Any]) -> None:
    """InferenceError for more points to look for masks at than a model shall see."""
    told = {name: options.get(name, usual) for name, usual in _GRID.items()}
    if told == _GRID or not all(map(_is_number, told.values())):
        return
    layers, each, fewer = told.values()
    if each < 1 or fewer < 1:
        raise InferenceError("'points_per_crop' and 'crop_n_points_downscale_factor' are 1 or more")
    points = sum(4**layer * (each / fewer**layer) ** 2 for layer in range(int(layers) + 1))
    if not points <= _POINTS:
        raise InferenceError(
            f"'points_per_crop' squared, for the picture and for each of the crops of 'crops_n_layers' (4; 16 more), "
            f"is at most {_POINTS} points, got {points:g}"
        )


def _rows(value: Any) -> list[Any]:
    """An option that is read as rows are: a list of texts is one row each, a chat one row."""
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else [value]


def _check_windows(options: dict[str, Any], tokens: int) -> None:
    """InferenceError for windows of a text that overlap by more than half, or that the model would see all at once."""
    said = list(_all_options(options))
    if any(value for name, value in said if name == "return_overflowing_tokens"):
        raise InferenceError(
            "'return_overflowing_tokens' cannot be set by a request: memory grows with its windows without bound; "
            "send the parts of a long text as texts of their own"
        )
    longest = min([tokens, *(value for name, value in said if name == "max_length" and _is_number(value))])
    for name, value in said:
        if name == "stride":
            _compare(name, value, int(longest // 2))


def _check_chunks(length: Any, strides: Any) -> None:
    """InferenceError for chunks of sound that begin so close to one another that there are very many."""
    each = strides if isinstance(strides, list) else [strides] * 2
    if strides is None and _is_number(length):
        each = [length / 6] * 2  # as transformers has it
    told = length and len(each) == 2 and all(_is_number(one) for one in (length, *each))
    if told and not length - sum(each) >= _STEP:
        raise InferenceError(
            f"'chunk_length_s' without both sides of 'stride_length_s' (a sixth of it each, unless told) is at least "
            f"{_STEP} seconds, got {length} and {strides}: each chunk is heard as a sound of its own"
        )


def _all_options(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The options by name, also those inside objects and lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _all_options(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _all_options(inner, name)
    else:
        yield name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _check_template(value: Any) -> None:
    """InferenceError for what is more than words around a label: formats can make any width, and read attributes."""
    if isinstance(value, str) and (value.count("{}") != 1 or set(value.replace("{}", "")) & set("{}")):
        raise InferenceError(
            f"'hypothesis_template' has {{}} once, for the label, and no other braces, got {value[:60]!r}"
        )
    if isinstance(value, str) and len(value) > _TEMPLATE:
        raise InferenceError(f"'hypothesis_template' has at most {_TEMPLATE} characters, got {len(value)}")


def shorter_edge(options: dict[str, Any]) -> int:
    """The length that options want the shorter edge of pictures to have; 0 if none do."""
    edges = [value for name, value in _all_options(options) if name in ("shortest_edge", "size") and _is_number(value)]
    return int(max(edges, default=0))


def tokens_of(pipeline: Any) -> int:
    """How many tokens the model takes."""
    config = getattr(getattr(pipeline, "model", None), "config", None)
    told = (
        getattr(getattr(pipeline, "tokenizer", None), "model_max_length", None),
        *(getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")),
    )
    # Some configurations have -1 for "any number".
    known = [int(one) for one in told if isinstance(one, int | float) and 0 < one < _LARGER]
    return min(known, default=_TOKENS)
