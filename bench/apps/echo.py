"""Echo models for both servers: this file runs on mlserve and on MLServer alike."""

from __future__ import annotations

try:
    from mlserve import MLModel
    from mlserve.codecs import NumpyCodec
    from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput
except ImportError:
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec
    from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    """Takes its input as an array, as a real model does, and gives the array back."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output("output", array)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])


class PassOn(MLModel):
    """Gives its input back without a look at the values."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        output = ResponseOutput(name="output", datatype=given.datatype, shape=given.shape, data=given.data)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
