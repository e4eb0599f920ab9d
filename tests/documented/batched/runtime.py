"""Parameters of batched requests: lists while they are together, single values again in the answers."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput


class Batched(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        one = payload.inputs[0]
        given = getattr(one.parameters, "custom-param")
        parameters = Parameters(content_type="np", given=given, together=[str(len(given))] * one.shape[0])
        output = ResponseOutput(
            name="foo", datatype=one.datatype, shape=one.shape, data=one.data, parameters=parameters
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
