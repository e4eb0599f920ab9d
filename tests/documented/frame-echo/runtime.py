"""The decoded form of a whole request, read before predict() from its parameters."""

from mlserver import MLModel
from mlserver.codecs import DecodedParameterName, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

_to_exclude = {
    "parameters": {DecodedParameterName},
    "inputs": {"__all__": {"parameters": {DecodedParameterName}}},
}


class FrameEcho(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        payload.dict(exclude=_to_exclude)
        decoded = None
        if payload.parameters:
            decoded = getattr(payload.parameters, DecodedParameterName)
        outputs = [
            ResponseOutput(name=one.name, datatype=one.datatype, shape=one.shape, data=one.data)
            for one in payload.inputs
        ]
        outputs.append(StringCodec.encode_output("decoded", [f"{type(decoded).__name__}: {list(decoded.columns)}"]))
        return InferenceResponse(model_name=self.name, outputs=outputs)
