"""The Java process of Spark that a process has: who uses it, so that it ends with the last of them and not before.

pyspark has one for whoever starts it first or joins later; so models of all runtimes are noted here. What it writes to
disk is in a folder that goes with it. Java itself ends when this process does, killed or not: its standard input ends.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from mlserve.errors import ModelError, ModelLoadError
from mlserve.held_folders import held_folder

__all__ = ["answers", "call_again", "end", "folder", "java_option", "leave", "running", "use"]

T = TypeVar("T")

_logger = logging.getLogger("mlserve.model")
_END_SECONDS = 10.0
_OPTIONS = "SPARK_SUBMIT_OPTS"  # for the Java process that Spark starts
_NO_WEB_INTERFACE = "-Dspark.ui.enabled=false"  # settings of Spark may be options of Java


class _Shared:
    def __init__(self) -> None:
        self.users: dict[int, object] = {}  # by their identity
        self.is_ours = False  # nobody else had started it when the first of them came
        self.leftovers = ExitStack()
        self.folder = ""  # while there is a user


_shared = _Shared()


def use(user: object, is_sure: bool = True) -> None:
    """Notes a user, which then starts Spark or joins it; once, however often it comes.

    What is left of a Java process that has died is put away before. `is_sure`: it does, so that there is a folder for
    the process (ModelLoadError if none can be made); a user that may do so, or not, has nothing made for it.
    """
    if getattr(_gateway(), "proc", None) is not None and running() is None:
        end()
    if not _shared.users:
        _shared.is_ours = _gateway() is None
    if is_sure and not _shared.folder:
        _shared.folder = _shared.leftovers.enter_context(held_folder("mlserve-spark-"))
        _shared.leftovers.enter_context(_started_with(java_option("java.io.tmpdir", _shared.folder)))
    _shared.users[id(user)] = user


def leave(user: object) -> None:
    """Ends Spark with its last user; not if it was there before the first, and so is somebody else's."""
    noted = _shared.users.pop(id(user), None)
    if noted is not None and not _shared.users:
        if _shared.is_ours:
            end()
        else:
            _put_away()


def folder() -> str:
    """Where the Java process that users start has its temporary files, for theirs too; removed when it has ended."""
    assert _shared.folder, "use() comes first, of a user that is sure"
    return _shared.folder


def java_option(name: str, value: object) -> str:
    """A property for Java's command line, as one word among the options that Spark takes apart at blanks."""
    text = str(value).replace("\\", r"\\").replace('"', r"\"")
    return f'-D{name}="{text}"'


def running() -> object | None:
    """The Java process, if there is one and it has not ended as far as is known."""
    process = getattr(_gateway(), "proc", None)
    return None if process is None or process.poll() is not None else process


def answers() -> bool:
    """Whether Java answers: asked after an error, since a process that was killed is there for a moment yet."""
    gateway = _gateway()
    if gateway is None:
        return False
    try:
        gateway.jvm.System.nanoTime()
    except Exception:  # whatever py4j meets where the other side is gone
        return False
    return True


def call_again(name: str, is_there: bool, call: Callable[[], T], restart: Callable[[], object]) -> T:
    """What a model's call into Java gives; where that is gone, such as for lack of memory, the same after `restart()`.

    `is_there`: the Java process that the model was loaded into runs, as far as is known; one that was killed is there
    for a moment yet. ModelError if Java cannot be started again, or ends again during the call.
    """
    if is_there:
        try:
            return call()
        except Exception:
            if answers():
                raise
            end()
    _logger.warning("model '%s': the Java process of Spark is gone; it is started again", name)
    try:
        restart()
        return call()
    except ModelLoadError as error:
        raise ModelError(error.message) from error
    except Exception as error:
        if answers():
            raise
        told = f"model '{name}': Spark's Java process ended during this call, and so did the one that was started again"
        raise ModelError(f"{told}; what they said is in the log") from error


def end() -> None:
    """Ends Spark, also where its Java process is gone already; SparkSession.stop() alone would leave that behind."""
    gateway = _gateway()
    if gateway is not None:
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

        try:
            session = SparkSession._instantiatedSession
            if session is not None and answers():
                session.stop()
            gateway.shutdown()
        except Exception:  # whatever py4j meets where the other side is gone
            pass
        _end_process(getattr(gateway, "proc", None))
        SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
        SparkSession._instantiatedSession = SparkSession._activeSession = None
    _put_away()


def _put_away() -> None:
    _shared.folder = ""
    _shared.leftovers.close()


@contextmanager
def _started_with(temporary_files: str) -> Iterator[None]:
    """Java, if it is started in here, has its temporary files there: Spark's, MLflow's, libraries that it unpacks."""
    before = os.environ.get(_OPTIONS)
    ours = f"{temporary_files} {_NO_WEB_INTERFACE}"
    os.environ[_OPTIONS] = f"{ours} {before or ''}".strip()  # what was there goes before ours
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_OPTIONS, None)
        else:
            os.environ[_OPTIONS] = before


def _gateway() -> Any:
    """pyspark's way to its Java process, if it has one."""
    pyspark = sys.modules.get("pyspark")
    return None if pyspark is None else pyspark.SparkContext._gateway


def _end_process(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()  # which is how it learns that it may end
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
