"""Names of models with a slash in them: /v2/models/a%2Fb/infer is about "a/b", and not about "a".

ASGI hands paths out decoded, where both slashes look alike. A request whose path has an encoded one is routed by a copy
of its scope in which that one is NUL, a character that no name has, until its part of the path has been found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from starlette.types import Scope

__all__ = ["DECODED_PATH", "keep_slashes", "with_slashes"]

DECODED_PATH = "mlserve.decoded_path"  # in the scope of such a request: the path as it came

_MODELS = ("/v2/models/", "/v2/repository/models/")
_ENCODED = re.compile("%2[Ff]")
_STANDS_FOR_IT = "\0"
_NAMES = ("model_name", "model_version")


def keep_slashes(scope: Scope) -> Scope:
    """The scope to find the endpoint with; the same one where no encoded slash is in a path of models."""
    raw = scope["raw_path"].decode("latin-1")
    path = scope["path"]
    if not any(prefix in path for prefix in _MODELS) or not _ENCODED.search(raw):
        return scope
    return {**scope, "path": unquote(_ENCODED.sub("%00", raw)), DECODED_PATH: path}


def with_slashes(params: Mapping[str, Any]) -> dict[str, Any]:
    """The named parts of such a path, the models' names with their slashes."""
    return {
        key: value.replace(_STANDS_FOR_IT, "/") if key in _NAMES and isinstance(value, str) else value
        for key, value in params.items()
    }
