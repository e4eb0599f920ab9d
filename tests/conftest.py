"""What holds for all tests."""

from __future__ import annotations

import sys

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


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Says which test has brought trio-asyncio into this process: those that fail of it are others, later on."""
    if sys.modules.get("trio_asyncio") and "own_process" not in item.config.option.markexpr:
        pytest.exit(f"{item.nodeid} imports trio_asyncio: mark it with own_process", returncode=1)
