"""Headers of the request come in, headers of the response go out."""

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, Parameters


class Headers(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        seen = "nothing"
        if payload.parameters and payload.parameters.headers:
            seen = payload.parameters.headers["x-question"]
        return InferenceResponse(
            model_name=self.name,
            outputs=[StringCodec.encode_output("seen", [seen])],
            parameters=Parameters(headers={"x-answer": "forty-two"}),
        )
