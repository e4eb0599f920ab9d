"""The same stream of small texts on LitServe: `litserve_tokens.py FOLDER PORT`, with asynchronous streams."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import litserve


class Tokens(litserve.LitAPI):
    """One event for each token, in the same JSON as the other server's."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    async def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads an annotation as a schema
        """How many tokens, after how many milliseconds each, and the call's id."""
        return request["id"], *(one["data"][0] for one in request["inputs"])

    async def predict(self, x: Any) -> AsyncIterator[Any]:
        """The tokens."""
        call_id, count, pause_ms = x
        for place in range(int(count)):
            if pause_ms:
                await asyncio.sleep(pause_ms / 1000)
            yield call_id, f"token {place}"

    async def encode_response(self, output: Any) -> AsyncIterator[str]:
        """The events."""
        async for call_id, text in output:
            tensor = {"name": "token", "datatype": "BYTES", "shape": [1], "data": [text]}
            yield f"data: {json.dumps({'id': call_id, 'model_name': 'tokens', 'outputs': [tensor]})}\n\n"


if __name__ == "__main__":
    api = Tokens(stream=True, enable_async=True)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
