"""How binary metadata are read."""

from __future__ import annotations

import pytest

from mlserve.errors import InvalidRequest
from mlserve.grpc.metadata import request_headers


def test_binary_metadata_that_are_no_base64_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="metadata 'x-bin': expected base64"):
        request_headers([("x-bin", "?")])
    assert request_headers([("x-bin", "AQ,AP8")]) == {"x-bin": b"\x00\xff"}, "joined on the way"
