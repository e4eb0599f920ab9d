"""Shows what arrived, as it came and decoded; and sends it back. `seen` has what the document's example prints."""

import json

from mlserver import MLModel
from mlserver.codecs import DecodedParameterName
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput

_to_exclude = {
    "parameters": {DecodedParameterName, "headers"},
    "inputs": {"__all__": {"parameters": {DecodedParameterName, "headers"}}},
}


class Echo(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        seen = [json.dumps(payload.dict(exclude=_to_exclude))]
        outputs = []
        for one in payload.inputs:
            seen.append(repr(self.decode(one)))
            json.dumps(one.dict(exclude=_to_exclude), indent=2)
            outputs.append(ResponseOutput(name=one.name, datatype=one.datatype, shape=one.shape, data=one.data))
        return InferenceResponse(model_name=self.name, outputs=outputs, parameters=Parameters(seen=json.dumps(seen)))
