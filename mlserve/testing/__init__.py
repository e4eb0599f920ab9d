"""For authors of runtimes: what every runtime must do, as one check, and a server in a process of its own to ask.

    async def test_my_runtime(tmp_path):
        settings = ModelSettings(name="m", implementation=MyRuntime, parameters={"uri": str(save(tmp_path))})
        await check_runtime(settings, NumpyRequestCodec.encode_request(x), expected={"predict": y})

Nothing here needs a test framework: what is wrong is an AssertionError that says so.
"""

from __future__ import annotations

from mlserve.testing.conformance import check_runtime, load_model
from mlserve.testing.running import RunningServer, serving

__all__ = ["RunningServer", "check_runtime", "load_model", "serving"]
