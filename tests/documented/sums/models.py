"""The plain interface: load() gets the model, predict() takes a request and makes a response."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Sums(MLModel):
    async def load(self) -> bool:
        self._model = sum
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        total = NumpyCodec.encode_output("total", self._model(rows))
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[total])
