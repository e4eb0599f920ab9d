"""The Spark session of this process: one Java process for all models of Spark, those of other runtimes too.

What it listens on is on the loopback interface; it has no web interface, and its files lie in a folder that goes
with it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException, PySparkRuntimeError
from pyspark.sql import SparkSession

from mlserve import spark_process
from mlserve.errors import ModelLoadError
from mlserve.extra import Extra
from mlserve.settings import ModelSettings

__all__ = ["Wanted", "is_alive", "session_of", "stop_using"]

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

    def differs_from(self, running: SparkConf) -> str | None:
        """What the running session does not have as this model wants it."""
        master = str(running.get("spark.master")).removeprefix("local[").rstrip("]")
        memory = running.get("spark.driver.memory", "what is usual")
        for what, mine, theirs in (("threads", self.threads, master), ("memory", self.memory, memory)):
            if mine is not None and str(mine) != theirs:
                return f"{what} {mine}, but it runs with {theirs}"
        for key, value in self.more.items():
            if running.get(key) != value:
                return f"{key}={value}, but it runs with {running.get(key)}"
        return None


class _Started:
    """The session that a model of this runtime has started."""

    session: Any = None
    by = ""


_started = _Started()


def session_of(wanted: Wanted) -> Any:
    """The session, started if there is none; `stop_using` gives it back. ModelLoadError, with what helps."""
    spark_process.use(wanted)
    try:
        return _start(wanted) if SparkContext._active_spark_context is None else _joined(wanted)
    except BaseException:
        spark_process.leave(wanted)
        raise


def stop_using(wanted: Wanted) -> None:
    """Ends the session and its Java process, unless another model uses it."""
    spark_process.leave(wanted)


def is_alive(session: Any) -> bool:
    """Whether it is the session of this process, and its Java process runs."""
    is_current = session is not None and session is SparkSession._instantiatedSession
    return is_current and spark_process.running() is not None


def _joined(wanted: Wanted) -> Any:
    """The session that runs already: a model of this runtime has started it, or somebody else, such as MLflow."""
    session = SparkSession.builder.getOrCreate()
    differs = wanted.differs_from(session.sparkContext.getConf())
    if differs:
        starter = f"model '{_started.by}'" if session is _started.session else "others"
        raise ModelLoadError(
            f"model '{wanted.name}' wants Spark with {differs}, for {starter}: models in one process share it; leave "
            f"it out in one of them, or give them pools of their own (parallel_workers)"
        )
    return session


def _start(wanted: Wanted) -> Any:
    _check_java()
    try:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        session = SparkSession.builder.config(conf=_conf(wanted, spark_process.folder())).getOrCreate()
    except (PySparkException, OSError) as error:
        raise ModelLoadError(f"Spark does not start: {_explain(error)}") from error
    _started.session, _started.by = session, wanted.name
    return session


def _conf(wanted: Wanted, folder: str) -> SparkConf:
    logging = Path(folder, "log4j2.properties")
    logging.write_text(_LOGGING)
    return SparkConf().setAll(
        list(
            {
                "spark.master": f"local[{wanted.threads or 1}]",
                "spark.app.name": "mlserve",
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.driver.memory": wanted.memory or "1g",
                "spark.driver.extraJavaOptions": spark_process.java_option("log4j2.configurationFile", logging),
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
                "spark.sql.warehouse.dir": str(Path(folder, "warehouse")),
                "spark.sql.shuffle.partitions": "1",
                **wanted.more,
            }.items()
        )
    )


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
