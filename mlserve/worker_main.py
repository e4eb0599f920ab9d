"""Where a worker process begins: prepares the process, then serves its channel until that closes.

The settings come as JSON on standard input; the control socket and the memory of progress and values are inherited
descriptors, named on the command line together with the server's pid.
"""

from __future__ import annotations

import importlib.util
import mmap
import signal
import socket
import sys

import anyio

from mlserve import compat, garbage, logs, malloc, osdep
from mlserve.channel import Channel
from mlserve.counted import CELLS_BYTES
from mlserve.frames import ToWorker
from mlserve.progress import Progress
from mlserve.settings import Settings
from mlserve.worker import Worker


def main() -> None:
    """Runs one worker process; returns when the server is gone or asked it to stop."""
    sock_fd, progress_fd, parent_pid = (int(word) for word in sys.argv[1:4])
    osdep.die_with_parent(parent_pid)
    _look_like_a_program()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the server decides what follows
    settings = Settings.model_validate_json(sys.stdin.buffer.read())
    logs.configure(settings)
    malloc.tune()
    garbage.spare()
    compat.install()
    channel = Channel(socket.socket(fileno=sock_fd), ToWorker)
    memory = memoryview(mmap.mmap(progress_fd, mmap.PAGESIZE + CELLS_BYTES))
    serve(channel, memory[: mmap.PAGESIZE], memory[mmap.PAGESIZE :])


def _look_like_a_program() -> None:
    """Gives `__main__` the file and spec that `python -m mlserve` has: libraries take one without for something else.

    pyspark, for one, ends the process as a run of doctests. multiprocessing runs no module of that name in children.
    """
    program = sys.modules["__main__"]
    program.__spec__ = importlib.util.find_spec("mlserve.__main__")
    assert program.__spec__ is not None
    program.__file__ = program.__spec__.origin


def serve(channel: Channel, progress: object, values: object = None) -> None:
    """Runs a worker on a new event loop of this thread until its channel closes."""
    try:
        anyio.run(Worker(channel, Progress(progress), values).run, backend_options={"use_uvloop": _has_uvloop()})
    finally:
        channel.close()


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401  # only asked for; anyio imports it
    except ImportError:
        return False
    return True
