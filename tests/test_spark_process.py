"""Calls into Spark's Java process, with a Java process that only these tests know."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlserve import spark_process
from mlserve.errors import ModelError, ModelLoadError


class Java:
    """A Java process: each call takes one of the outcomes, None for one that kills it."""

    def __init__(self, *outcomes: str | Exception | None) -> None:
        self.outcomes: Iterator[str | Exception | None] = iter(outcomes)
        self.answers = True
        self.starts = 0

    def call(self) -> str:
        outcome = next(self.outcomes)
        if isinstance(outcome, str):
            return outcome
        self.answers = outcome is not None
        raise outcome or ConnectionError("Answer from Java side is empty")

    def start(self) -> None:
        self.starts += 1
        self.answers = True


def answer_of(java: Java, monkeypatch: pytest.MonkeyPatch, is_there: bool = True) -> str:
    monkeypatch.setattr(spark_process, "answers", lambda: java.answers)
    return spark_process.call_again("m", is_there, java.call, java.start)


def test_a_call_is_repeated_in_a_new_java_process_when_the_old_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, dies, is_gone = Java("a"), Java(None, "b"), Java("c")
    assert answer_of(alive, monkeypatch) == "a" and alive.starts == 0
    assert answer_of(dies, monkeypatch) == "b" and dies.starts == 1
    assert answer_of(is_gone, monkeypatch, is_there=False) == "c" and is_gone.starts == 1


def test_an_error_is_passed_on_while_java_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for java in (Java(KeyError("x")), Java(None, KeyError("x"))):
        with pytest.raises(KeyError):
            answer_of(java, monkeypatch)


def test_a_java_process_that_dies_again_or_does_not_start_is_the_models_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="model 'm': Spark's Java process ended during this call, and so did"):
        answer_of(Java(None, None), monkeypatch)
    java = Java(None)
    monkeypatch.setattr(java, "start", lambda: (_ for _ in ()).throw(ModelLoadError("no Java")))
    with pytest.raises(ModelError, match="no Java"):
        answer_of(java, monkeypatch)


@pytest.mark.parametrize("before", [None, "-Xmx1g"])
def test_java_has_its_temporary_files_in_a_folder_while_somebody_uses_it(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("SPARK_SUBMIT_OPTS", raising=False)
    if before is not None:
        monkeypatch.setenv("SPARK_SUBMIT_OPTS", before)
    one, other = object(), object()
    spark_process.use(one)
    folder = spark_process.folder()
    spark_process.use(other)
    spark_process.leave(one)
    assert spark_process.folder() == folder and Path(folder).is_dir()
    ours = [f'-Djava.io.tmpdir="{folder}"', "-Dspark.ui.enabled=false"]
    assert os.environ["SPARK_SUBMIT_OPTS"].split() == [*ours, *([before] if before else [])]
    spark_process.leave(other)
    assert not Path(folder).exists() and os.environ.get("SPARK_SUBMIT_OPTS") == before


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder for temporary files, as in a container whose files cannot be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))


@pytest.mark.usefixtures("nowhere")
def test_nothing_is_made_for_a_user_that_may_not_start_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_SUBMIT_OPTS", raising=False)
    user = object()
    spark_process.use(user, is_sure=False)
    assert "SPARK_SUBMIT_OPTS" not in os.environ
    spark_process.leave(user)


@pytest.mark.usefixtures("nowhere")
def test_where_no_folder_can_be_made_it_says_what_helps() -> None:
    user = object()
    with pytest.raises(ModelLoadError, match=r"no folder for temporary files can be made.*set TMPDIR to a folder"):
        spark_process.use(user)
    assert user not in spark_process._shared.users.values() and not spark_process._shared.folder


@pytest.mark.parametrize(
    ("value", "word"), [("/a b", '"/a b"'), ('/a"b', '"/a\\"b"'), ("/a\\b", '"/a\\\\b"'), ("/it's", '"/it\'s"')]
)
def test_an_option_of_java_is_one_word_whatever_is_in_it(value: str, word: str) -> None:
    assert spark_process.java_option("x", value) == f"-Dx={word}"
