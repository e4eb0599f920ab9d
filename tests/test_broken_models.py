"""A model whose settings or environment nobody can use: the server starts without it, and tells why to everybody."""

from __future__ import annotations

import httpx
import pytest

from mlserve.grpc import dataplane_pb2 as pb
from tests.grpc_calls import SERVICE, connected
from tests.packed import archive_of
from tests.serving import serving, write_model

GOOD = """
from mlserve import MLModel
from mlserve.types import InferenceResponse


class Good(MLModel):
    async def predict(self, request):
        return InferenceResponse(model_name=self.name, outputs=[request.inputs[0].model_dump()])
"""
REQUEST = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
REASONS = {
    "huge": "is broken or incomplete",
    "itself": "its bin/python is a link that leads back to itself",
    "cut": "bin/python is cut off after 4 bytes",
    "long": "aaaa",
    "half": "?x is not there",
}


def _huge(path):
    """An archive whose one member says that it is larger than any disk."""
    archive_of(path, ("bin/python", b"#!"), mode="w")
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + b"\xff" * 11
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)


def _write(folder):
    settings = {
        "good": {},
        "huge": {"environment_tarball": "env.tar"},
        "itself": {"environment_path": "env"},
        "cut": {"environment_path": "env"},
        "long": {"environment_path": "a" * 5000},
        "half": {"environment_path": "\ud800x"},
    }
    for name, parameters in settings.items():
        place = write_model(folder, name, "models.Good", parameters=parameters)
        (place / "models.py").write_text(GOOD)
    _huge(folder / "huge" / "env.tar")
    for name in ("itself", "cut"):
        (folder / name / "env" / "bin").mkdir(parents=True)
    (folder / "itself" / "env" / "bin" / "python").symlink_to("python")
    (folder / "cut" / "env" / "bin" / "python").write_bytes(b"\x7fELF")


def _index_of_grpc(channel):
    index = channel.unary_unary(
        f"/{SERVICE}/RepositoryIndex",
        pb.RepositoryIndexRequest.SerializeToString,
        pb.RepositoryIndexResponse.FromString,
    )
    return {one.name: (one.state, one.reason) for one in index(pb.RepositoryIndexRequest(), timeout=60).models}


def test_the_server_starts_without_them_and_tells_why_over_both_protocols(tmp_path):
    _write(tmp_path)
    with serving(tmp_path) as server:
        assert httpx.post(f"{server.rest}/v2/models/good/infer", json=REQUEST, timeout=60).status_code == 200
        answer = httpx.post(f"{server.rest}/v2/repository/index", json={})
        assert answer.status_code == 200, answer.text
        told = {one["name"]: (one["state"], one["reason"]) for one in answer.json()}
        assert told.keys() == {"good", *REASONS}
        for name, words in REASONS.items():
            assert told[name][0] == "UNAVAILABLE" and words in told[name][1], told[name]
            load = httpx.post(f"{server.rest}/v2/repository/models/{name}/load", timeout=60)
            assert load.status_code == 500 and words in load.json()["error"]
        with connected(server.grpc) as channel:
            assert _index_of_grpc(channel) == told
        assert server.stop() == 0


HANDLER = """
from mlserve import MLModel
from mlserve.handlers import custom_handler


class Strange: ...


class Asks(MLModel):
    @custom_handler(rest_path="/asks", rest_method="GET")
    def asks(self, thing: Strange = None):
        return 1
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_handler_that_nobody_can_call_is_told_when_its_model_loads(workers, tmp_path):
    """The others are served, and the worker lives on."""
    for name, kind, text in (("good", "Good", GOOD), ("asks", "Asks", HANDLER)):
        place = write_model(tmp_path, name, f"models.{kind}")
        (place / "models.py").write_text(text)
    with serving(tmp_path, env={"MLSERVER_PARALLEL_WORKERS": str(workers)}) as server:
        assert server.infer("good", [1.0]).status_code == 200
        index = httpx.post(f"{server.rest}/v2/repository/index", json={}, timeout=60).json()
        reason = next(one["reason"] for one in index if one["name"] == "asks")
        assert "the argument 'thing' of a custom handler: nothing can make a Strange" in reason
        assert "ended with exit code" not in server.output
