"""REST paths of the model's own."""

from mlserver import MLModel
from mlserver.handlers import custom_handler
from starlette.requests import Request
from starlette.responses import Response


class Handlers(MLModel):
    async def load(self) -> bool:
        self._loaded = "in the model's process"
        return True

    @custom_handler(rest_path="/custom-endpoint", rest_method="GET")
    async def where(self) -> dict:
        return {"loaded": self._loaded}

    @custom_handler(rest_path="/custom-endpoint/upper")
    async def upper(self, request: Request) -> Response:
        return Response((await request.body()).upper(), media_type="text/plain")

    @custom_handler(rest_path="/custom-endpoint/swap")
    async def swap(self, payload: dict) -> dict:
        return {value: key for key, value in payload.items()}
