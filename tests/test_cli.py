"""The command line: what `mlserve start` hands on, what it prints when that fails, and the start-up table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.cli.main import app, root
from mlserve.cli.table import ModelRow, startup_table
from mlserve.errors import SettingsError, StartupError
from mlserve.version import __version__


class FakeServer(ModuleType):
    """Stands for mlserve.server: keeps what `run` is called with; returns or raises what it is told."""

    def __init__(self) -> None:
        super().__init__("mlserve.server")
        self.calls: list[tuple[Path, dict[str, Any]]] = []
        self.outcome: int | BaseException = 0

    def run(self, folder: Path, overrides: dict[str, Any]) -> int:
        self.calls.append((folder, overrides))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeServer:
    for name in list(os.environ):
        if name.lower().startswith(("mlserve_", "mlserver_")):
            monkeypatch.delenv(name)
    fake = FakeServer()
    monkeypatch.setitem(sys.modules, "mlserve.server", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_start_hands_on_the_folder_and_only_what_was_said(server: FakeServer, tmp_path: Path) -> None:
    result = invoke("start", str(tmp_path))
    assert result.exit_code == 0 and server.calls == [(tmp_path, {})]
    words = "--host 127.0.0.1 --http-port 1 --grpc-port 2 --metrics-port 3 -w 0 --debug --request-timeout 0.5"
    assert invoke("start", str(tmp_path), *words.split()).exit_code == 0
    assert server.calls[1][1] == {
        "host": "127.0.0.1",
        "http_port": 1,
        "grpc_port": 2,
        "metrics_port": 3,
        "parallel_workers": 0,
        "debug": True,
        "request_timeout_seconds": 0.5,
    }
    invoke("start", str(tmp_path), "--no-debug")
    assert server.calls[2][1] == {"debug": False}


def test_any_setting_can_be_set_and_options_win(server: FakeServer, tmp_path: Path) -> None:
    words = ["--set", "server-name=x", "--set", 'extensions=["a"]', "--set", "http_port=1", "--http-port", "2"]
    assert invoke("start", str(tmp_path), *words).exit_code == 0
    assert server.calls[0][1] == {"server_name": "x", "extensions": ["a"], "http_port": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "server_nam=x"], "there is no setting 'server_nam'; did you mean 'server_name'?"),
        (["--set", "server_name"], "--set: expected NAME=VALUE, got 'server_name'"),
        (["--set", "extensions=a"], "'extensions': expected JSON"),
    ],
)
def test_a_setting_that_cannot_be_set_is_one_line(
    server: FakeServer, tmp_path: Path, words: list[str], message: str
) -> None:
    result = invoke("start", str(tmp_path), *words)
    assert result.exit_code == 1 and not server.calls
    assert result.stderr.startswith(f"mlserve: error: {message}") and result.stderr.count("\n") == 1


def test_the_folder_may_come_from_a_variable_or_be_the_working_directory(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("start")
    monkeypatch.setenv("MLSERVER_MODELS_DIR", str(tmp_path))
    invoke("start")
    assert [folder for folder, _ in server.calls] == [Path("."), tmp_path]


@pytest.mark.parametrize("error", [StartupError("port 8080 is taken"), SettingsError("settings.json: broken")])
def test_a_failed_start_is_one_line_and_exit_code_1(server: FakeServer, tmp_path: Path, error: Exception) -> None:
    server.outcome = error
    result = invoke("start", str(tmp_path))
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == f"mlserve: error: {error}\n"


def test_a_folder_that_is_not_there_is_told(server: FakeServer, tmp_path: Path) -> None:
    result = invoke("start", str(tmp_path / "absent"))
    assert result.exit_code == 1 and "there is no folder or file" in result.stderr and not server.calls


def test_an_interrupt_is_quiet(server: FakeServer, tmp_path: Path) -> None:
    server.outcome = KeyboardInterrupt()
    result = invoke("start", str(tmp_path))
    assert result.exit_code == 130 and result.output == ""


def test_the_exit_code_of_the_server_is_ours(server: FakeServer, tmp_path: Path) -> None:
    server.outcome = 3
    assert invoke("start", str(tmp_path)).exit_code == 3


def test_an_option_that_is_no_number_is_a_usage_error(server: FakeServer, tmp_path: Path) -> None:
    assert invoke("start", str(tmp_path), "--http-port", "x").exit_code == 2


def test_the_version_is_shown() -> None:
    result = invoke("--version")
    assert result.exit_code == 0 and result.stdout == f"mlserve, version {__version__}\n"


def test_every_option_is_in_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text("utf-8")
    for name, command in root.commands.items():  # type: ignore[attr-defined]  # the type is not exported
        assert f"mlserve {name}" in text
        for parameter in command.params:
            options = [option for option in parameter.opts if option.startswith("--") and option != "--help"]
            assert all(option in text for option in options), options


def test_the_package_gives_the_command_and_imports_nothing_for_it() -> None:
    code = (
        "import sys, mlserve.cli.table; assert 'typer' not in sys.modules; "
        "from mlserve.cli import root; assert root.commands; "
        "assert 'mlserve.server' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- the table ------------------------------------------------------------------------------------------------------


def test_the_table_lines_up_and_gives_reasons_and_addresses() -> None:
    rows = [
        ModelRow("iris", "v1", "READY", "SKLearnModel"),
        ModelRow("名前", "", "UNAVAILABLE", "models.Mine", "no weights\n  at all"),
    ]
    addresses = {"http": "127.0.0.1:8080", "grpc": "127.0.0.1:8081", "metrics": "127.0.0.1:8082"}
    assert startup_table(rows, addresses, "2 in pool default").splitlines() == [
        "MODEL  VERSION  STATE        RUNTIME",
        "iris   v1       READY        SKLearnModel",
        "名前   -        UNAVAILABLE  models.Mine",
        "    no weights",
        "      at all",
        "",
        "REST     http://127.0.0.1:8080",
        "gRPC     127.0.0.1:8081",
        "metrics  http://127.0.0.1:8082",
        "workers  2 in pool default",
    ]


def test_a_server_without_models_says_so() -> None:
    assert startup_table([], {"http": "h:1"}, "") == "no models\n\nREST  http://h:1\n"
    assert startup_table([], {}, "") == "no models\n"
