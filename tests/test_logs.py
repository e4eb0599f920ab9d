"""Log set-up: where lines go, what they say, and that it can be done twice and undone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlserve import logs
from mlserve.errors import SettingsError
from mlserve.settings import Settings


class Stderr:
    """What was written so far, as io.StringIO has it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Stderr:
    return Stderr(capsys)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test leaves the logs as it found them, whatever it configured."""
    configure, done = logs.configure, []

    def remember(settings: Settings, part: str = "") -> logs.Configured:
        done.append(configure(settings, part))
        return done[-1]

    monkeypatch.setattr(logs, "configure", remember)
    yield
    for configured in reversed(done):
        configured.close()


def test_lines_go_to_stderr_with_time_level_and_logger(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None))
    logging.getLogger("mlserve.x").info("hello %s", "you")
    (line,) = stderr.getvalue().splitlines()
    assert line.endswith(" INFO mlserve.x hello you") and line[4] == "-" and line[19] == "."


def test_the_part_of_the_program_is_named(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None), "worker 2")
    logging.getLogger("mlserve.x").info("hello")
    assert " INFO worker 2 mlserve.x hello" in stderr.getvalue()


def test_debug_lines_of_ours_show_only_when_debugging_those_of_others_never(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None))
    logging.getLogger("mlserve.x").debug("hidden")
    assert not logs.access_enabled()
    logs.access("REST", "POST", "/v2", 200, 0.1)
    logs.configure(Settings(_env_file=None, debug=True))
    for name in ("mlserve.x", "mlserver", "someone.else"):
        logging.getLogger(name).debug("from %s", name)
    assert [line.rsplit(" ", 1)[1] for line in stderr.getvalue().splitlines()] == ["mlserve.x", "mlserver"]


def test_setting_up_twice_writes_each_line_once(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None))
    logs.configure(Settings(_env_file=None))
    logging.getLogger("mlserve.x").info("hello")
    assert stderr.getvalue().count("hello") == 1


def test_closing_puts_back_what_was_there(stderr: Stderr) -> None:
    root, ours = logging.getLogger(), logging.getLogger("mlserve")
    before = (list(root.handlers), root.level, ours.level)
    configured = logs.configure(Settings(_env_file=None, debug=True))
    others = logging.NullHandler()
    root.addHandler(others)
    configured.close()
    assert others in root.handlers
    root.removeHandler(others)
    assert (list(root.handlers), root.level, ours.level) == before


def test_lines_of_a_call_carry_its_fields(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None))
    logger = logging.getLogger("mlserve.x")
    with logs.call_fields("call-1", "iris", "v1"):
        logger.info("inside")
        token = logs.bind("call-2")
        logger.info("deeper")
        logs.unbind(token)
    logger.info("outside")
    lines = stderr.getvalue().splitlines()
    assert [line.partition("mlserve.x")[2] for line in lines] == [
        " [iris v1 call-1] inside",
        " [call-2] deeper",
        " outside",
    ]


def test_structured_lines_are_json_objects(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None, use_structured_logging=True), "server")
    with logs.call_fields("call-1", "iris"):
        try:
            raise ValueError("größer\nzwei")
        except ValueError:
            logging.getLogger("mlserve.x").exception("failed %d", 1)
    (line,) = stderr.getvalue().splitlines()
    fields = json.loads(line)
    assert fields["level"] == "ERROR" and fields["logger"] == "mlserve.x" and fields["message"] == "failed 1"
    assert fields["request_id"] == "call-1" and fields["model"] == "iris" and "version" not in fields
    assert fields["process"] == "server" and "ValueError: größer" in fields["exception"]
    assert fields["time"].endswith("+00:00")


def test_a_traceback_follows_its_line(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None))
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("mlserve.x").warning("failed", exc_info=True)
    lines = stderr.getvalue().splitlines()
    assert lines[0].endswith("failed") and lines[1].startswith("Traceback") and lines[-1] == "ValueError: x"


def test_an_access_line_says_who_what_and_how_long(stderr: Stderr) -> None:
    logs.configure(Settings(_env_file=None, debug=True))
    assert logs.access_enabled()
    logs.access("REST", "POST", "/v2/models/iris/infer", 200, 0.0123, "10.0.0.1")
    assert "REST POST /v2/models/iris/infer 200 12.3 ms 10.0.0.1" in stderr.getvalue()


# -- a configuration of one's own -----------------------------------------------------------------------------------


def dict_config(path: Path, logger: str) -> dict[str, object]:
    return {
        "version": 1,
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(path)}},
        "loggers": {logger: {"handlers": ["file"], "level": "INFO"}},
    }


@pytest.mark.parametrize("logger", ["mlserve", "mlserver"])
def test_a_dict_configures_our_loggers_under_either_name(tmp_path: Path, stderr: Stderr, logger: str) -> None:
    logs.configure(Settings(_env_file=None, logging_settings=dict_config(tmp_path / "log", logger)))
    logging.getLogger("mlserve.x").info("hello")
    assert (tmp_path / "log").read_text() == "hello\n" and "hello" not in stderr.getvalue()


def test_a_json_file_does_too(tmp_path: Path, stderr: Stderr) -> None:
    path = tmp_path / "logging.json"
    path.write_text(json.dumps(dict_config(tmp_path / "log", "mlserve")))
    logs.configure(Settings(_env_file=None, logging_settings=str(path)))
    logging.getLogger("mlserve.x").info("hello")
    assert (tmp_path / "log").read_text() == "hello\n"


def test_an_ini_file_does_too(tmp_path: Path, stderr: Stderr) -> None:
    path = tmp_path / "logging.ini"
    path.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=INFO\nhandlers=file\n"
        f"[handler_file]\nclass=FileHandler\nargs=({str(tmp_path / 'log')!r},)\n"
    )
    logs.configure(Settings(_env_file=None, logging_settings=str(path)))
    logging.getLogger("mlserve.x").info("hello")
    assert (tmp_path / "log").read_text() == "hello\n" and stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.ini", "there is no file nowhere.ini"),
        ("nowhere.json", "nowhere.json"),
        ({"handlers": {"h": {"class": "no.such.Handler"}}}, "Unable to configure handler 'h'"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_a_settings_error_and_changes_nothing(
    stderr: Stderr, given: object, message: str
) -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(SettingsError, match="logging_settings: ") as caught:
        logs.configure(Settings(_env_file=None, logging_settings=given))
    assert message in str(caught.value) and logging.getLogger().handlers == before
