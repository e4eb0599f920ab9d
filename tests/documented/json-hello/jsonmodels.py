"""JSON documents as text: each input holds one, and so does the output."""

import json
from typing import Any, Dict  # noqa: UP035

from mlserver import MLModel, types
from mlserver.codecs import StringCodec


class JsonHello(MLModel):
    async def load(self) -> bool:
        return await super().load()

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        answer = json.dumps({"request": self._documents(payload), "said": "hello"}).encode("UTF-8")
        output = types.ResponseOutput(
            name="echo_response",
            shape=[len(answer)],
            datatype="BYTES",
            data=[answer],
            parameters=types.Parameters(content_type="str"),
        )
        return types.InferenceResponse(
            id=payload.id, model_name=self.name, model_version=self.version, outputs=[output]
        )

    def _documents(self, payload: types.InferenceRequest) -> Dict[str, Any]:  # noqa: UP006
        return {one.name: json.loads("".join(self.decode(one, default_codec=StringCodec))) for one in payload.inputs}
