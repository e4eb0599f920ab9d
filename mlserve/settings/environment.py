"""Variables named MLSERVER_* or MLSERVE_*, from the process environment and a `.env` file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_PREFIXES = ("mlserver_", "mlserve_")  # where both spellings of one name are set, the later one wins
_ASSIGNMENT = re.compile(
    r"""
    ^[ \t]*(?:export[ \t]+)?(?P<key>[A-Za-z_][\w.-]*)[ \t]*=[ \t]*
    (?:
        '(?P<single>[^']*)'[ \t]*(?:\#[^\n]*)?
        | "(?P<double>(?:[^"\\]|\\.)*)"[ \t]*(?:\#[^\n]*)?
        | (?P<bare>[^\s'"#][^\n]*?|)(?:[ \t]+\#[^\n]*)?
    )[ \t]*\r?$
    """,
    re.MULTILINE | re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


class Variables:
    """The variables of this program: lower-case name without prefix -> the name as written, and its text."""

    def __init__(self, environ: Mapping[str, str], dotenv: Mapping[str, str] | None = None) -> None:
        self._found: dict[str, tuple[str, str]] = {}
        self._all = {name.lower(): (name, text) for source in (dotenv or {}, environ) for name, text in source.items()}
        for source in (dotenv or {}), environ:
            for prefix in _PREFIXES:
                for name, text in source.items():
                    if name.lower().startswith(prefix):
                        self._found[name.lower()[len(prefix) :]] = (name, text)

    def of(self, prefix: str) -> dict[str, tuple[str, str]]:
        """Those whose name goes on with `prefix` ("model_" for models), by the rest of their name."""
        return {name[len(prefix) :]: found for name, found in self._found.items() if name.startswith(prefix)}

    def named(self, prefix: str) -> dict[str, tuple[str, str]]:
        """Those of any program whose name begins with `prefix`, in upper or lower case, by the rest of their name."""
        start = prefix.lower()
        return {name[len(start) :]: found for name, found in self._all.items() if name.startswith(start)}


def read_variables(env_file: str | Path | None = ".env") -> Variables:
    """The variables as they are now; `env_file` is relative to the working directory and may be missing."""
    dotenv: dict[str, str] = {}
    if env_file is not None:
        try:
            dotenv = parse_dotenv(Path(env_file).read_text("utf-8-sig"))
        except (OSError, UnicodeDecodeError):  # no such file, or another program's file
            dotenv = {}
    return Variables(os.environ, dotenv)


def parse_dotenv(text: str) -> dict[str, str]:
    """Assignments of a `.env` file: `export`, comments, both kinds of quotes, values over several lines, `${NAME}`.

    Single quotes keep everything as it is; double quotes know backslash escapes.
    """
    values: dict[str, str] = {}
    for found in _ASSIGNMENT.finditer(text):
        if found["single"] is not None:
            values[found["key"]] = found["single"]
            continue
        value = found["bare"] or ""
        if found["double"] is not None:
            value = _ESCAPE.sub(lambda part: _ESCAPED.get(part[1], part[1]), found["double"])
        values[found["key"]] = _REFERENCE.sub(lambda part: _look_up(part, values), value)
    return values


def _look_up(reference: re.Match[str], values: Mapping[str, str]) -> str:
    name, default = reference["name"], reference["default"] or ""
    return os.environ.get(name) or values.get(name) or default
