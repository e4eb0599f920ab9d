"""The Spark session of this process: one Java process for all models of Spark, from the first one to the last.

What it listens on is on the loopback interface; it has no web interface, and its files lie in a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException, PySparkRuntimeError
from pyspark.sql import SparkSession

from mlserve.errors import ModelLoadError
from mlserve.extra import Extra
from mlserve.settings import ModelSettings

__all__ = ["Wanted", "is_alive", "session_of", "stop_using"]

_END_SECONDS = 10.0
_LOGGING = """
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = spark: %p %c: %m%n%ex
# Tasks fail where a client's data does not fit; the client is told.
logger.executor.name = org.apache.spark.executor.Executor
logger.executor.level = off
logger.tasks.name = org.apache.spark.scheduler.TaskSetManager
logger.tasks.level = off
"""


class Wanted:
    """What a model asks of the session: what is None is left to others, or to the default."""

    def __init__(self, settings: ModelSettings) -> None:
        extra = Extra(settings)
        self.name = settings.name
        self.threads = extra.threads()
        self.memory = extra.text("memory")
        self.more = {str(key): str(value) for key, value in extra.mapping("spark_conf").items()}

    def differs_from(self, running: Wanted) -> str | None:
        """What the running session does not have as this model wants it."""
        for what in ("threads", "memory"):
            mine, theirs = getattr(self, what), getattr(running, what)
            if mine is not None and mine != theirs:
                return f"{what} {mine}, but it runs with {theirs}"
        for key, value in self.more.items():
            if running.more.get(key) != value:
                return f"{key}={value}, but it runs with {running.more.get(key)}"
        return None


class _Shared:
    """The session that the models of this process use together."""

    def __init__(self) -> None:
        self.users = 0
        self.session: Any = None
        self.wanted: Wanted | None = None
        self.folder = ""


_shared = _Shared()


def session_of(wanted: Wanted) -> Any:
    """The session, started if there is none; `stop_using` gives it back. ModelLoadError, with what helps."""
    if _shared.session is not None and not is_alive(_shared.session):
        _end()
    if _shared.session is None:
        _start(wanted)
    assert _shared.wanted is not None
    differs = wanted.differs_from(_shared.wanted)
    if differs:
        raise ModelLoadError(
            f"model '{wanted.name}' wants Spark with {differs}, for model '{_shared.wanted.name}': models in one "
            f"process share it; leave it out in one of them, or give them pools of their own (parallel_workers)"
        )
    _shared.users += 1
    return _shared.session


def stop_using(session: Any) -> None:
    """Ends the session and its Java process, unless another model uses it. Nothing for one that is gone already."""
    if session is None or session is not _shared.session:
        return
    _shared.users -= 1
    if _shared.users == 0:
        _end()


def is_alive(session: Any) -> bool:
    """Whether it is the session of this process, and its Java process runs."""
    process = getattr(SparkContext._gateway, "proc", None)
    return session is not None and session is _shared.session and process is not None and process.poll() is None


def _start(wanted: Wanted) -> None:
    _check_java()
    wanted.threads = wanted.threads or 1
    wanted.memory = wanted.memory or "1g"
    folder = tempfile.mkdtemp(prefix="mlserve-spark-")
    try:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        session = SparkSession.builder.config(conf=_conf(wanted, folder)).getOrCreate()
    except (PySparkException, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ModelLoadError(f"Spark does not start: {_explain(error)}") from error
    _shared.session, _shared.wanted, _shared.folder = session, wanted, folder


def _conf(wanted: Wanted, folder: str) -> SparkConf:
    logging = Path(folder, "log4j2.properties")
    logging.write_text(_LOGGING)
    return SparkConf().setAll(
        list(
            {
                "spark.master": f"local[{wanted.threads}]",
                "spark.app.name": "mlserve",
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.driver.memory": str(wanted.memory),
                "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={logging}",
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
                "spark.local.dir": folder,
                "spark.sql.warehouse.dir": str(Path(folder, "warehouse")),
                "spark.sql.shuffle.partitions": "1",
                **wanted.more,
            }.items()
        )
    )


def _end() -> None:
    """Also of a Java process that is gone already; SparkSession.stop() alone would leave one behind."""
    gateway: Any = SparkContext._gateway
    process: Any = getattr(gateway, "proc", None)
    try:
        if is_alive(_shared.session):
            _shared.session.stop()
        gateway.shutdown()
    except Exception:  # whatever py4j meets where the other side is gone
        pass
    if process is not None:
        _end_process(process)
    SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = SparkSession._activeSession = None
    shutil.rmtree(_shared.folder, ignore_errors=True)
    _shared.session, _shared.wanted, _shared.users = None, None, 0


def _end_process(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()  # which is how it learns that it may end
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if home and not Path(home, "bin", "java").is_file():
        raise ModelLoadError(f"Spark needs Java, and JAVA_HOME is {home}, which has no bin/java; correct or unset it")
    if not home and shutil.which("java") is None:
        raise ModelLoadError(
            "Spark needs Java 17 or later, and there is none: install one (such as Debian's openjdk-17-jre-headless), "
            "or set JAVA_HOME to where it is"
        )


def _explain(error: Exception) -> str:
    if isinstance(error, PySparkRuntimeError) and "JAVA_GATEWAY_EXITED" in str(error):
        return (
            "its Java process ended at once; what it said stands in the log above. Java has to be 17 or later, and "
            "parameters.extra.memory no more than there is"
        )
    return str(error)
