"""A content type of one's own: a codec made from NumpyCodec, for arrays and for text of one byte a pixel."""

import io

import picture as Image
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec, register_input_codec
from mlserver.codecs.utils import InputOrOutput
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, RequestOutput, ResponseOutput


@register_input_codec
class PictureCodec(NumpyCodec):
    ContentType = "img"
    DefaultMode = "L"

    @classmethod
    def can_encode(cls, payload: Image) -> bool:
        return isinstance(payload, Image)  # a module is no class: this raises, as the document's does

    @classmethod
    def _decode(cls, input_or_output: InputOrOutput) -> Image:
        if input_or_output.datatype != "BYTES":
            return Image.fromarray(super().decode_input(input_or_output), mode=cls.DefaultMode)
        encoded = input_or_output.data
        if isinstance(encoded, str):
            encoded = encoded.encode()
        return Image.frombytes(mode=cls.DefaultMode, size=input_or_output.shape, data=encoded)

    @classmethod
    def encode_output(cls, name: str, payload: Image) -> ResponseOutput:
        file = io.BytesIO()
        payload.save(file, mode=cls.DefaultMode)
        return ResponseOutput(name=name, shape=payload.size, datatype="BYTES", data=file.getvalue())

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Image:
        return cls._decode(response_output)

    @classmethod
    def encode_input(cls, name: str, payload: Image) -> RequestInput:
        output = cls.encode_output(name, payload)
        return RequestInput(name=output.name, shape=output.shape, datatype=output.datatype, data=output.data)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Image:
        return cls._decode(request_input)


class Pictures(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = []
        for one in payload.inputs:
            image = self.decode(one)
            outputs += [
                ResponseOutput(name=one.name, datatype=one.datatype, shape=one.shape, data=one.data),
                StringCodec.encode_output(f"{one.name}-seen", [f"{type(image).__name__} {image.pixels.sum()}"]),
                self.encode(image, RequestOutput(name=f"{one.name}-again", parameters={"content_type": "img"})),
            ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
