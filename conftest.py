"""For all suites: a skipped test fails the run, unless tests/allowed_skips.txt lists it; a busy machine fails none."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest

hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")
for part in ("connect", "read", "write", "pool"):  # of what httpx waits where a test does not say: 5 s otherwise
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, 60.0)

LIST = Path(__file__).parent / "tests" / "allowed_skips.txt"

_unlisted: list[str] = []


def allowed(text: str) -> list[tuple[re.Pattern[str], str]]:
    """The entries of the list: a pattern for the test's id, in which * stands for anything, and the reason."""
    entries = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition(" ")
            assert reason.strip(), f"{LIST.name}: no reason for {pattern}"
            entries.append((re.compile(re.escape(pattern).replace(r"\*", ".*")), reason.strip()))
    return entries


_allowed = allowed(LIST.read_text(encoding="utf-8"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Marks tests that xfail does not run, or breaks off, unlike those that fail as expected."""
    report = yield
    report.is_left_out = call.excinfo is not None and isinstance(call.excinfo.value, pytest.xfail.Exception)
    return report


def pytest_runtest_logreport(report: Any) -> None:
    _note(report)


def pytest_collectreport(report: Any) -> None:
    _note(report)


def _note(report: Any) -> None:
    if not report.skipped or (hasattr(report, "wasxfail") and not getattr(report, "is_left_out", False)):
        return
    if not any(pattern.fullmatch(report.nodeid) for pattern, _ in _allowed):
        told = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.wasxfail
        _unlisted.append(f"{report.nodeid}: {told}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unlisted and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _unlisted:
        terminalreporter.section(f"skipped, but not listed in tests/{LIST.name}", red=True)
        for line in _unlisted:
            terminalreporter.line(line)
