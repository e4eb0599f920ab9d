"""`mlserver.utils`: the helper of runtimes that finds their artifact."""

from __future__ import annotations

from mlserve.artifacts import get_model_uri

__all__ = ["get_model_uri"]
