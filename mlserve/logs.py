"""Log set-up of a process, and the fields that say which call a log line belongs to. Everything goes to stderr."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlserve.errors import SettingsError
from mlserve.settings import Settings

__all__ = ["Call", "Configured", "access", "access_enabled", "bind", "call_fields", "configure", "unbind"]

OURS = ("mlserve", "mlserver")  # runtimes written for MLServer log under its name
_access = logging.getLogger("mlserve.access")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler  # takes no type before Python 3.11


class Call(NamedTuple):
    """Which call a line belongs to; empty where that is not known."""

    request_id: str = ""
    model: str = ""
    version: str = ""


_NO_CALL = Call()
_call: ContextVar[Call] = ContextVar("mlserve_call", default=_NO_CALL)


def bind(request_id: str = "", model: str = "", version: str = "") -> Token[Call]:
    """Puts a call's fields on all lines of this context, until `unbind` gets the token back."""
    return _call.set(Call(request_id, model, version))


def unbind(token: Token[Call]) -> None:
    """Takes the fields off again."""
    _call.reset(token)


@contextmanager
def call_fields(request_id: str = "", model: str = "", version: str = "") -> Iterator[None]:
    """Puts a call's fields on all lines within."""
    token = bind(request_id, model, version)
    try:
        yield
    finally:
        unbind(token)


def access_enabled() -> bool:
    """Whether `access` writes anything: only when debugging, since a line costs as much as a small call."""
    return _access.isEnabledFor(logging.DEBUG)


def access(protocol: str, method: str, path: str, status: object, seconds: float, peer: str = "") -> None:
    """One line for one answered call: who asked for what, how it ended, how long it took."""
    if _access.isEnabledFor(logging.DEBUG):
        _access.debug("%s %s %s %s %.1f ms %s", protocol, method, path, status, seconds * 1000, peer or "-")


class _TextFormatter(logging.Formatter):
    """`2026-11-24 02:00:00.123 INFO mlserve.models [iris v1 call-id] text`"""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = f" {part}" if part else ""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        stamp = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        fields = " ".join(value for value in (_call.get()[1], _call.get()[2], _call.get()[0]) if value)
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname}{self._part} {record.name}"
        text = f"{line}{f' [{fields}]' if fields else ''} {record.message}"
        return "\n".join([text, *_tail(self, record)])


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": self._part,
            **_call.get()._asdict(),
            "exception": "\n".join(_tail(self, record)),
        }
        return json.dumps({key: value for key, value in fields.items() if value}, ensure_ascii=False, default=str)


def _tail(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The traceback and the stack of a record, where it has them."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    stack = formatter.formatStack(record.stack_info) if record.stack_info else ""
    return [text for text in (record.exc_text, stack) if text]


class _Handler(_StreamHandler):
    """Writes to whatever sys.stderr is at that moment, so that it can be redirected after the set-up."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # no stream of our own: see `stream`

    @property
    def stream(self) -> Any:
        return sys.stderr


class Configured:
    """A log set-up in force; `close` takes it back, and leaves alone what others changed meanwhile."""

    def __init__(self) -> None:
        self._before = _state()
        self._after = self._before

    def _done(self) -> None:
        self._after = _state()

    def close(self) -> None:
        """Takes away the handlers that came with the set-up; puts back those that went, and levels as they were."""
        for logger, (handlers, level, propagate) in self._before.items():
            added = [handler for handler in self._after[logger][0] if handler not in handlers]
            for handler in added:
                logger.removeHandler(handler)
                handler.close()
            for handler in handlers:
                if handler not in self._after[logger][0] and not isinstance(handler, _Handler):
                    logger.addHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _state() -> dict[logging.Logger, tuple[list[logging.Handler], int, bool]]:
    """Handlers, level and propagation of the loggers that a set-up changes."""
    loggers = [logging.getLogger(name) for name in ("", *OURS)]
    return {logger: (list(logger.handlers), logger.level, logger.propagate) for logger in loggers}


def configure(settings: Settings, part: str = "") -> Configured:
    """Sets this process's logs up as the settings say; a second call replaces the first.

    `part` names the process on each line ("worker 2"). Raises SettingsError if `logging_settings` cannot be used,
    and leaves no set-up of ours behind then.
    """
    configured = Configured()
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler()
    handler.setFormatter(_JsonFormatter(part) if settings.use_structured_logging else _TextFormatter(part))
    root.addHandler(handler)
    root.setLevel(logging.INFO)  # other libraries' debug lines would bury ours
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if settings.debug else logging.NOTSET)
    try:
        if settings.logging_settings:
            _apply(settings.logging_settings)
    except SettingsError:
        configured._done()
        configured.close()
        raise
    configured._done()
    return configured


def _apply(given: str | dict[str, Any]) -> None:
    """Hands a dict or a file (JSON; anything else is logging's own ini format) to logging.config."""
    try:
        if isinstance(given, str) and Path(given).suffix.lower() != ".json":
            if not Path(given).is_file():
                raise FileNotFoundError(f"there is no file {given}")
            logging.config.fileConfig(given, disable_existing_loggers=False)
            return
        config = json.loads(Path(given).read_text("utf-8")) if isinstance(given, str) else dict(given)
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **_with_our_name(config)})
    except Exception as error:
        reason = f"{error.__cause__}: {error}" if error.__cause__ is not None else str(error)
        raise SettingsError(f"logging_settings: {reason}") from error


def _with_our_name(config: dict[str, Any]) -> dict[str, Any]:
    """What a config made for MLServer says of its logger holds for ours too, and no line comes twice."""
    loggers = dict(config.get("loggers") or {})
    if "mlserver" in loggers:
        loggers.setdefault("mlserve", loggers["mlserver"])
    for name in OURS:
        if "root" not in config and loggers.get(name, {}).get("handlers"):
            loggers[name] = {"propagate": False, **loggers[name]}
    return {**config, "loggers": loggers}
