"""A narrow picture is refused where its shorter edge would be scaled up: 213 bytes became 3 GB."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DetrImageProcessor,
    DPTImageProcessor,
    GLPNImageProcessor,
    Swin2SRImageProcessor,
    ViTImageProcessor,
)

from mlserve.codecs.errors import CodecError
from mlserve_huggingface import HuggingFaceRuntime
from mlserve_huggingface.codecs.pixels import Pixels
from mlserve_huggingface.scaling import Scaling, most_pixels
from runtimes.huggingface.tests.asking import ask, base64_png, load, request, settings_for, tensor
from runtimes.huggingface.tests.test_limits import refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS
from runtimes.huggingface.tests.tiny_models import resnet

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers


def of(**size: Any) -> Scaling:
    return Scaling(SimpleNamespace(image_processor=SimpleNamespace(**size)))


@pytest.fixture(scope="module")
def scaling_up(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceRuntime:
    folder = tmp_path_factory.mktemp("scaling") / "model"
    resnet(folder, CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 32, "width": 32}))
    return load(settings_for(folder, task="image-classification"))


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 200)])
@pytest.mark.parametrize("form", ["base64", "pillow_image", "json", "pixels"])
def test_a_narrow_picture_is_refused_however_it_comes(
    scaling_up: HuggingFaceRuntime, form: str, size: tuple[int, int]
) -> None:
    sent = base64_png(Image.new("RGB", size))
    pixels = {"name": "args", "shape": [size[1], size[0], 3], "datatype": "UINT8", "data": [7] * size[0] * size[1] * 3}
    one = {
        "base64": tensor("args", [sent]),
        "pillow_image": tensor("args", [sent], "pillow_image"),
        "json": tensor("args", [json.dumps(sent)], "hg_jsonlist"),
        "pixels": pixels,
    }[form]
    told = refusal(scaling_up, one)
    assert f"at most 199 times as long as wide, got {size[0]} x {size[1]}" in told


def test_a_panorama_is_taken(scaling_up: HuggingFaceRuntime) -> None:
    for size in ((10, 300), (1, 199), (3000, 100)):
        assert ask(scaling_up, request(tensor("args", [base64_png(Image.new("RGB", size))])))


def test_the_bound_is_of_pixels_after_scaling() -> None:
    for edge, most in ((224, 199), (384, 67), (800, 15), (1600, 4), (4096, 4), (10, 200)):
        of(size={"shortest_edge": edge}).added(most, 1)
        with pytest.raises(CodecError, match=f"at most {most} times as long as wide, got 1 x {most + 1}"):
            of(size={"shortest_edge": edge}).added(1, most + 1)


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"shortest_edge": 800, "longest_edge": 1333}},
        {"size": SimpleNamespace(shortest_edge=3136, longest_edge=12845056, height=None)},  # pixels, as of Qwen
        {"size": {"height": 800, "width": 800}},
        {"size": {"longest_edge": 1024}},
        {"size": {"shortest_edge": 800}, "do_resize": False},
        {"size": None},
        {},
    ],
    ids=str,
)
def test_where_nothing_grows_pictures_may_be_as_narrow_as_where_that_is_not_known(processor: dict[str, Any]) -> None:
    assert of(**processor).added(200, 1) == 0
    with pytest.raises(CodecError, match="at most 200 times as long as wide, got 201 x 1"):
        of(**processor).added(201, 1)


@pytest.mark.parametrize("size", [{"height": 384, "width": 384}, {"height": 384, "width": 512}], ids=str)
def test_a_shape_that_is_kept_may_not_make_the_longer_edge_very_long(size: dict[str, int]) -> None:
    kept = of(size=size, keep_aspect_ratio=True)
    most = 6 if size["width"] == 384 else 4
    kept.added(most, 1)
    with pytest.raises(CodecError, match=f"at most {most} times as long as wide"):
        kept.added(1, most + 1)
    assert of(size=size, keep_aspect_ratio=True, do_resize=False).added(200, 1) == 0
    made = DPTImageProcessor(size=size, keep_aspect_ratio=True)
    height, width = made(Image.new("RGB", (most * 400, 400)), return_tensors="np")["pixel_values"].shape[2:]
    assert height * width <= 1_200_000


OWN_SIZE: dict[str, tuple[Callable[[], Any], str, int]] = {
    "glpn": (GLPNImageProcessor, "depth-estimation", 1_000_000),
    "swin2sr": (Swin2SRImageProcessor, "image-to-image", 512**2),
    "as it is": (lambda: ViTImageProcessor(do_resize=False), "image-segmentation", 1_000_000),
    "vit": (ViTImageProcessor, "image-classification", 40_000_000),
    "detr": (DetrImageProcessor, "object-detection", 40_000_000),
}


@pytest.mark.parametrize("name", OWN_SIZE)
def test_a_model_that_sees_all_pixels_is_shown_fewer(name: str) -> None:
    make, task, most = OWN_SIZE[name]
    assert most_pixels(task, SimpleNamespace(image_processor=make())) == most
    assert most_pixels("fill-mask", SimpleNamespace()) == 40_000_000


def test_a_picture_that_is_too_large_for_such_a_model_is_refused(tmp_path: Path) -> None:
    MAKERS["depth-estimation"](tmp_path / "m")
    large = tensor("args", [base64_png(Image.new("RGB", (1001, 1000)))])
    told = refusal(load(settings_for(tmp_path / "m", task="depth-estimation")), large)
    assert "at most 1000000 pixels (parameters.extra.max_pixels), got 1001 x 1000" in told
    model = load(settings_for(tmp_path / "m", task="depth-estimation", max_pixels=1001 * 1000, max_answer_numbers=1))
    assert "1001000 numbers" in refusal(model, large)  # it is looked at, by the settings' own bound


def test_what_transformers_makes_of_a_setting_is_understood() -> None:
    for made in (CLIPImageProcessor(size=224), ConvNextImageProcessor(size={"shortest_edge": 224})):
        with pytest.raises(CodecError, match="at most 199 times"):
            Scaling(SimpleNamespace(image_processor=made)).added(1, 200)


def test_all_pictures_of_a_request_count_as_they_are_scaled() -> None:
    pixels = Pixels(1_000_000, of(size={"shortest_edge": 224}))
    for _ in range(100):
        pixels.count(32, 32)
    with pytest.raises(CodecError, match="together at most 4000000 pixels, as they are or scaled"):
        for _ in range(5):
            pixels.count(1, 20)


def test_an_edge_that_the_request_sets_counts(models: dict[str, Path], tmp_path: Path) -> None:
    MAKERS["image-feature-extraction"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="image-feature-extraction"))
    narrow = tensor("args", [base64_png(Image.new("RGB", (1, 150)))])
    size = tensor("image_processor_kwargs", [json.dumps({"size": {"shortest_edge": 1024}})], "hg_json")
    assert "at most 9 times as long as wide, got 1 x 150" in refusal(model, narrow, size)
    assert ask(model, request(narrow))
