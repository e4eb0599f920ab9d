"""A small file that is a huge picture is refused by its header, however it comes."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlserve.types import RequestInput
from mlserve_huggingface.codecs import PILImageCodec
from mlserve_huggingface.codecs.pixels import Pixels
from runtimes.huggingface.tests.asking import ask, base64_png, load, request, settings_for, tensor
from runtimes.huggingface.tests.test_limits import refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers


def png_of(width: int, height: int) -> str:
    """The base64 of a PNG whose header says this size; there are no pixels in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


@pytest.mark.parametrize("side", [9000, 13300, 40000])
@pytest.mark.parametrize("form", ["base64", "pillow_image", "data", "json"])
def test_a_huge_picture_is_refused(models: dict[str, Path], form: str, side: int) -> None:
    model = load(settings_for(models["image-classification"]))
    sent = png_of(side, side)
    one = {
        "base64": tensor("args", [sent]),
        "pillow_image": tensor("args", [sent], "pillow_image"),
        "data": tensor("args", ["data:image/png;base64," + sent]),
        "json": tensor("args", [json.dumps(sent)], "hg_jsonlist"),
    }[form]
    assert "40000000 pixels (parameters.extra.max_pixels)" in refusal(model, one)


@pytest.mark.parametrize("block", ["image", "url", "image_url"])
@pytest.mark.parametrize("name", ["args", "text"])
def test_a_huge_picture_in_a_chat_is_refused(tmp_path: Path, block: str, name: str) -> None:
    MAKERS["image-text-to-text"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="image-text-to-text"))

    def chat(sent: str) -> dict[str, Any]:
        picture = {
            "image": {"type": "image", "image": sent},
            "url": {"type": "image", "url": "data:image/png;base64," + sent},
            "image_url": {"type": "image_url", "image_url": {"url": "data:image/png;base64," + sent}},
        }[block]
        said = {"role": "user", "content": [picture, {"type": "text", "text": "the fox"}]}
        return tensor(name, [json.dumps(said)], "hg_jsonlist")

    assert "40000000 pixels (parameters.extra.max_pixels)" in refusal(model, chat(png_of(13300, 13300)))
    assert ask(model, request(chat(base64_png()), max_new_tokens=2))


def test_the_bound_is_a_setting_and_holds_for_all_pictures_of_a_request(models: dict[str, Path]) -> None:
    model = load(settings_for(models["image-classification"], max_pixels=32 * 32))
    fine = base64_png()
    assert len(ask(model, request(tensor("args", [fine] * 4)))) == 4
    assert "have together at most 4096 pixels" in refusal(model, tensor("args", [fine] * 5))
    assert "have together at most 4096 pixels" in refusal(model, tensor("args", [json.dumps(fine)] * 5, "hg_jsonlist"))
    large = base64_png(Image.new("RGB", (33, 32)))
    assert "at most 1024 pixels (parameters.extra.max_pixels), got 33 x 32" in refusal(model, tensor("args", [large]))
    pixels = {"name": "args", "shape": [32, 33, 3], "datatype": "UINT8", "data": [7] * 32 * 33 * 3}
    assert "at most 1024 pixels" in refusal(model, pixels)


def test_a_format_whose_header_does_not_tell_is_refused() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "ICO")
    with pytest.raises(Exception, match="the format ICO are not read; send PNG or JPEG"):
        Pixels().open(file.getvalue())


def test_what_transformers_passes_over_in_base64_hides_nothing() -> None:
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, "GIF")
    octets = file.getvalue()
    gif = base64.b64encode(octets[:6] + struct.pack("<HH", 13300, 13300) + octets[10:]).decode()
    for hidden in (gif, gif[:4] + "_-." + gif[4:], gif[:4] + "\n" + gif[4:]):
        with pytest.raises(Exception, match="40000000 pixels"):
            Pixels().look_at({"image": [hidden]})
    Pixels().look_at(["the red fox", "data:", "auto", 7, None])


def test_the_codec_alone_has_the_bound_too() -> None:
    with pytest.raises(Exception, match=r"input 'x': data\[0\]: a picture .* 40000000 pixels"):
        PILImageCodec.decode_input(RequestInput(**tensor("x", [png_of(9000, 9000)])))
