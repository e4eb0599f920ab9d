"""The documents about the REST interface, and pages that show them; nothing is fetched from elsewhere."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import anyio
from starlette.exceptions import HTTPException

from mlserve.rest import openapi
from mlserve.rest.replies import Reply, json_reply
from mlserve.rest.requests import Request
from mlserve.types import MetadataModelResponse

__all__ = ["Describes", "DocsEndpoints"]

_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {  # Swagger UI, as its NOTICE and LICENSE beside it say; no other file of the folder is served.
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_HTML = (b"content-type", b"text/html; charset=utf-8")
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{static}/swagger-ui.css">
<link rel="icon" type="image/png" href="{static}/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{static}/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{url: {document}, dom_id: "#swagger-ui", deepLinking: true}});
</script>
</body>
</html>
"""


class Describes(Protocol):
    """What these endpoints need of the data plane."""

    def model_metadata(self, name: str, version: str | None = ...) -> MetadataModelResponse: ...


class DocsEndpoints:
    """OpenAPI documents, and Swagger UI on each of those for the data plane."""

    def __init__(self, dataplane: Describes, root_path: str) -> None:
        self._dataplane = dataplane
        self._root_path = root_path

    async def server_page(self, _: Request) -> Reply:
        return self._page("mlserve", "/v2/docs/dataplane.json")

    async def server_document(self, _: Request) -> Reply:
        return json_reply(openapi.server_document(self._root_path))

    async def repository_document(self, _: Request) -> Reply:
        return json_reply(openapi.repository_document(self._root_path))

    async def model_page(self, request: Request) -> Reply:
        name, version = request.model
        self._dataplane.model_metadata(name, version)  # ModelNotFound
        path = f"/v2/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
        return self._page(f"{name} on mlserve", f"{path}/docs/dataplane.json")

    async def model_document(self, request: Request) -> Reply:
        name, version = request.model
        metadata = self._dataplane.model_metadata(name, version)
        return json_reply(openapi.model_document(metadata, name, version, self._root_path))

    async def static(self, request: Request) -> Reply:
        """One of Swagger UI's files."""
        name = request.params["file"]
        if name not in _STATIC_TYPES:
            raise HTTPException(404)
        headers = [(b"content-type", _STATIC_TYPES[name]), (b"cache-control", b"public, max-age=86400")]
        return Reply(200, headers, [await anyio.Path(_STATIC / name).read_bytes()])

    def _page(self, title: str, document: str) -> Reply:
        root = self._root_path
        page = _PAGE.format(
            title=html.escape(title),
            static=html.escape(f"{root}/v2/docs/static"),
            document=json.dumps(root + document).replace("<", "\\u003c"),
        )
        return Reply(200, [_HTML], [page.encode()])
