"""Keeps clients from having the server open a file or an address: what transformers could open must be content itself.

transformers opens whatever text it finds where a picture, sound or video may be, under keys that differ by task and
version. So nothing here asks for such keys: every text counts, except where only words can be.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any

from mlserve.errors import InferenceError

__all__ = ["Places", "is_place"]

# The pipelines that see text only. What they get is opened by nobody, except in the messages of a chat.
_OF_TEXT = frozenset({
    "decision", "feature-extraction", "fill-mask", "ner", "question-answering", "sentiment-analysis",
    "summarization", "table-question-answering", "text-classification", "text-generation", "text2text-generation",
    "token-classification", "translation", "zero-shot-classification",
})  # fmt: skip
# Keys below which there are words: no version of transformers opens them.
_WORDS = frozenset({
    "candidate_labels", "content", "hypothesis_template", "name", "prefix", "prompt", "query", "question",
    "questions", "reasoning", "reasoning_content", "refusal", "role", "stop_strings", "suffix", "text", "text_inputs",
    "text_pair", "thinking", "tool_call_id", "type",
})  # fmt: skip
_UNOPENED = frozenset({"documents", "generate_kwargs", "table", "tool_calls", "tools", "word_boxes"})

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_DATA = re.compile(r"data:[\w+.-]*/?[\w+.-]*(?:;[\w.=+-]+){0,4};base64,", re.ASCII)
_WORD = re.compile(r"[\w+-]{1,64}(?:/[\w+.-]{1,64})?", re.ASCII)  # such as "auto", or the media type "image/png"


class Places:
    """Checks what requests for one pipeline bring."""

    def __init__(self, task: str, allowed: bool) -> None:
        self._allowed = allowed
        self._opens = task not in _OF_TEXT
        self._of_video = task == "video-classification"  # which reads no base64, but lists of files and of addresses

    def check_data(self, value: Any, name: str, key: str) -> None:
        """InferenceError unless all texts of a value that the pipeline looks at are words, or content in base64.

        `key` is "text" where the pipeline takes a bare text for a text.
        """
        if not self._allowed:
            self._walk(value, "data" if self._opens else "words", key, name)

    def check_option(self, value: Any, name: str) -> None:
        """InferenceError if a text in the value of an option is an address or the name of a file."""
        if not self._allowed:
            self._walk(value, "option" if self._opens else "words", name, name)

    def _walk(self, value: Any, where: str, key: str, name: str) -> None:
        """`where` is what the value belongs to: "data", "option", the content of a "message", or mere "words"."""
        if key in _UNOPENED:
            return
        if isinstance(value, dict):
            for inner_key, inner in value.items():
                inside = "message" if inner_key == "content" else where
                self._walk(inner, inside, str(inner_key), name)
        elif isinstance(value, list | tuple):
            for inner in value:
                # A text in a list of blocks is a block of an unknown kind, not the text of a message.
                self._walk(inner, where, "" if where == "message" else key, name)
        elif isinstance(value, str) and not self._fits(value, where, key):
            raise InferenceError(
                f"input '{name}': {value[:60]!r} is an address or file, which this model does not open for clients "
                f"(parameters.extra.allow_urls), or no base64; send the content itself, as base64"
            )

    def _fits(self, text: str, where: str, key: str) -> bool:
        if where == "words" or (where == "message" and key in _WORDS):
            return True
        if key in _WORDS:
            return _ADDRESS.match(text) is None  # there are processors that fetch an address in place of a text
        if where == "option":
            return not is_place(text) and not is_place(f"{text}.npz")  # the file of a voice
        if where == "data" and self._of_video:
            return False
        return not _exists(text) and (_WORD.fullmatch(text) is not None or _is_base64(text))


def is_place(text: str) -> bool:
    """Whether a pipeline would take a text for an address or a file, as against the content itself."""
    return _ADDRESS.match(text) is not None or _exists(text)


def _exists(text: str) -> bool:
    try:
        return len(text) < 4096 and Path(text).exists()  # no path is longer
    except (OSError, ValueError):
        return False


def _is_base64(text: str) -> bool:
    data = _DATA.match(text)
    coded = text[data.end() :] if data is not None else text
    try:
        return bool(base64.b64decode("".join(coded.split()), validate=True))
    except (binascii.Error, ValueError):
        return False
