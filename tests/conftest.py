"""What holds for all tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps what is marked `own_process`, which is gRPC on trio, in a run of its own: `pytest -m own_process`.

    trio-asyncio, which it needs, replaces asyncio's way of finding the running loop in the whole process; other tests
    run asyncio servers in threads of theirs, which then fail.
    """
    if "own_process" not in config.option.markexpr:
        apart = [item for item in items if item.get_closest_marker("own_process")]
        config.hook.pytest_deselected(items=apart)
        items[:] = [item for item in items if item not in set(apart)]
