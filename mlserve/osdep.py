"""What depends on the operating system, each with a portable fallback: dying with the parent, seeing a child die."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from contextlib import suppress


def die_with_parent(parent_pid: int) -> None:
    """Asks the kernel to kill this process when its parent is gone; ends it at once if it is gone already.

    Linux only. Elsewhere a worker sees the end of its control socket, which a model that blocks can delay.
    The signal follows the *thread* that started this process: the parent must start workers from a thread that lives
    as long as the server.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def open_process(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, or None where the system has no such thing."""
    if hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(pid)
        except OSError:
            return None
    return None


def resident_bytes(pid: int) -> int | None:
    """The memory that a process holds, without shared memory; None once it is gone, or where /proc is not there."""
    try:
        with open(f"/proc/{pid}/status") as file:
            kibibytes = dict(line.split(":", 1) for line in file if line.startswith(("RssAnon", "RssFile")))
    except OSError:
        return None
    return sum(int(value.split()[0]) for value in kibibytes.values()) * 1024 if kibibytes else None


def raise_descriptor_limit() -> None:
    """Lifts the soft limit of open files to the hard one: each slot and each connection takes a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # macOS refuses an unlimited soft limit; the old one holds


def descriptor_limit() -> int:
    """How many files, slots and connections this process may have open; a large number where nothing bounds it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (1 << 20) if soft == resource.RLIM_INFINITY else min(soft, 1 << 20)


def quarter_of_memory() -> int:
    """A quarter of the machine's memory, in bytes; a guess where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (ValueError, OSError):
        return 1 << 30


def shared_memory_bytes() -> int:
    """How much shared memory slots may take by default: a quarter of memory, or what /dev/shm has free if less."""
    memory = quarter_of_memory()
    try:
        room = os.statvfs("/dev/shm")
        return min(memory, room.f_frsize * room.f_bavail)
    except OSError:
        return memory


def keep_signals_from_forks() -> None:
    """What code of models forks in this process has the default answers to signals: a SIGTERM of a child is not ours.

    A child inherits the descriptor that wakes the event loop at a signal: `multiprocessing` ends its children with
    SIGTERM, and the server would take that for its own end.
    """
    os.register_at_fork(after_in_child=_default_signals)


def _default_signals() -> None:
    with suppress(ValueError):  # not in the child's main thread: it has no signals of its own
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_within(seconds: float) -> None:
    """Ends this process after so many seconds, if it still runs then: Python waits for threads, as of models."""
    timer = threading.Timer(seconds, _end)
    timer.daemon = True
    timer.start()


def _end() -> None:
    with suppress(Exception):
        sys.stdout.flush()
        print("mlserve: threads still run, most likely of a model; the process ends without them", file=sys.stderr)
    os._exit(0)
