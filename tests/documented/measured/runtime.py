"""A metric of the model's own."""

import mlserver
from mlserver.types import InferenceRequest, InferenceResponse


class Measured(mlserver.MLModel):
    async def load(self) -> bool:
        mlserver.register("my_custom_metric", "How much was measured")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        mlserver.log(my_custom_metric=34)
        return InferenceResponse(model_name=self.name, outputs=[])
