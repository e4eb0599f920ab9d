"""For tests of runtimes and clients: a suite that every runtime should pass, and a server inside the test's process.

Public; docs/testing.md shows both. Needs no test framework.
"""

from __future__ import annotations

from mlserve.testing.conformance import check_runtime
from mlserve.testing.server import RunningServer, running_server

__all__ = ["RunningServer", "check_runtime", "running_server"]
