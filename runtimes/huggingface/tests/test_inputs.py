"""What requests become: arguments, options, pictures, sound, chats; and what is refused with which words."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from mlserve.errors import MLServeError
from mlserve.tensors import TensorData
from mlserve.types import RequestOutput
from mlserve_huggingface import HuggingFaceRuntime
from runtimes.huggingface.tests.asking import (
    GREEDY,
    PICTURE,
    SOUND,
    ask,
    base64_png,
    load,
    pipeline,
    plain,
    request,
    settings_for,
    tensor,
    texts,
)

TEXT = "the red fox"


def refusal(model: HuggingFaceRuntime, *inputs: Any, **parameters: Any) -> str:
    with pytest.raises(MLServeError) as caught:
        anyio.run(model.predict, request(*inputs, **parameters))
    assert caught.value.http_status == 400
    return str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        tensor("top_k", [2]),
        tensor("top_k", [[2]]),
        tensor("top_k", [2], "raw"),
        tensor("top_k", [2], "np"),
        tensor("top_k", ["2"], "hg_json"),
    ],
    ids=str,
)
def test_an_option_is_a_plain_number_however_it_comes(models: dict[str, Path], option: dict[str, Any]) -> None:
    model = load(settings_for(models["text-classification"]))
    wanted = plain(pipeline("text-classification", models["text-classification"])(TEXT, top_k=2))
    assert ask(model, request(tensor("args", [TEXT]), option)) == wanted
    assert ask(model, texts(TEXT, top_k=2)) == wanted


def test_parameters_that_are_no_options_are_ignored_and_misspelt_ones_told(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    assert ask(model, texts(TEXT, trace="a", headers={"x": "y"}, content_type="str", **GREEDY))
    assert "did you mean 'max_new_tokens'?" in refusal(model, tensor("args", [TEXT]), max_new_token=3)


def test_outputs_are_those_that_there_are(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-classification"]))
    asked = texts(TEXT)
    asked.outputs = [RequestOutput(name="outputs")]  # as MLServer's metadata calls it
    assert len(ask(model, asked)) == 1
    asked.outputs = [RequestOutput(name="label")]
    with pytest.raises(MLServeError, match="has no output 'label': it has 'output'"):
        anyio.run(model.predict, asked)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "the request has no inputs"),
        ([tensor("foo", [TEXT])], "cannot use this request"),
        ([tensor("args", [TEXT]), tensor("inputs", [TEXT])], "is the pipeline's first argument already"),
        ([tensor("args", ["{not json"], "hg_json")], "data[0]: no JSON"),
        ([tensor("args", [TEXT * 100])], "longer than the model takes (it takes 64 tokens)"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_the_pipeline_cannot_use_is_the_clients_fault(
    models: dict[str, Path], inputs: list[Any], words: str
) -> None:
    model = load(settings_for(models["text-classification"]))
    assert words in refusal(model, *inputs)
    assert len(ask(model, texts(TEXT))) == 1


def test_a_long_text_is_cut_where_the_client_says_so(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-classification"]))
    long = tensor("args", [TEXT * 100])
    cut = ask(model, request(long, tensor("truncation", [True])))
    assert len(cut) == 1
    assert ask(model, request(long, truncation=True)) == cut
    assert ask(model, request(long, truncation=True, max_length=8)) != cut


# -- pictures ---------------------------------------------------------------------------------------------------------


def raw_png() -> dict[str, Any]:
    return {**tensor("inputs", [""]), "data": TensorData([base64.b64decode(base64_png())])}


@pytest.mark.parametrize(
    "picture",
    [
        tensor("inputs", [base64_png()], "pillow_image"),
        tensor("args", [base64_png()], "base64"),
        tensor("images", ["data:image/png;base64," + base64_png()]),
        tensor("inputs", np.asarray(PICTURE)),
        tensor("image", np.asarray(PICTURE)[None], "np"),
        raw_png(),
    ],
    ids=["pillow_image", "base64", "data", "pixels", "batch of pixels", "bytes"],
)
def test_a_picture_comes_in_many_ways(models: dict[str, Path], picture: dict[str, Any]) -> None:
    model = load(settings_for(models["image-classification"]))
    wanted = plain(pipeline("image-classification", models["image-classification"])(PICTURE))
    assert ask(model, request(picture)) == wanted


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (tensor("inputs", ["no base64!"]), "data[0]: 'no base64!' is no file in base64"),
        (tensor("inputs", ["aGVsbG8="], "pillow_image"), "no picture that Pillow can read"),
        (tensor("inputs", np.zeros((4, 4), "float32")), "pixels are UINT8 of shape"),
        (tensor("inputs", np.zeros((4, 4, 2), "uint8")), "got uint8 of shape [4, 4, 2]"),
        (tensor("inputs", ['"http://127.0.0.1:1/x.png"'], "hg_json"), "does not open for clients"),
        (tensor("inputs", ['{"image": "/etc/hostname"}'], "hg_json"), "does not open for clients"),
        (tensor("inputs", ["http://127.0.0.1:1/x.png"]), "is no file in base64"),
        (tensor("inputs", ["/etc/hostname"]), "is no file in base64"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_is_no_picture_is_refused_and_addresses_are_not_opened(
    models: dict[str, Path], picture: dict[str, Any], words: str
) -> None:
    assert words in refusal(load(settings_for(models["image-classification"])), picture)


def test_addresses_are_opened_where_the_settings_say_so(models: dict[str, Path], tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "one.png")
    model = load(settings_for(models["image-classification"], allow_urls=True))
    wanted = plain(pipeline("image-classification", models["image-classification"])(PICTURE))
    assert ask(model, request(tensor("inputs", [str(tmp_path / "one.png")]))) == wanted


# -- sound ------------------------------------------------------------------------------------------------------------


def wav(width: int, channels: int = 1) -> bytes:
    full = 2 ** (8 * width - 1)
    samples = np.round(SOUND.astype("f8") * (full - 1)).astype("<i4")
    octets = (samples + 128).astype("u1").tobytes() if width == 1 else samples.astype("<i4").view("u1").reshape(-1, 4)
    frames = octets if isinstance(octets, bytes) else octets[:, :width].tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(16000)
        pieces = [frames[at : at + width] * channels for at in range(0, len(frames), width)]
        out.writeframes(b"".join(pieces))
    return file.getvalue()


def scores(results: list[Any]) -> dict[str, float]:
    return {one["label"]: one["score"] for one in results}


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)])
def test_wav_files_are_heard(models: dict[str, Path], width: int, channels: int) -> None:
    model = load(settings_for(models["audio-classification"]))
    wanted = scores(plain(pipeline("audio-classification", models["audio-classification"])(SOUND)))
    text = base64.b64encode(wav(width, channels)).decode()
    near = 0.02 if width == 1 else 1e-4
    assert scores(ask(model, request(tensor("inputs", [text])))) == pytest.approx(wanted, abs=near)


@pytest.mark.parametrize(
    "sound",
    [
        [tensor("inputs", SOUND)],
        [tensor("args", SOUND[None], "nplist")],
        [tensor("args", SOUND, "np"), tensor("sampling_rate", [16000])],
        [tensor("args", [json.dumps({"raw": SOUND.tolist(), "sampling_rate": 16000})], "hg_json")],
    ],
    ids=["plain", "nplist", "with its rate", "JSON"],
)
def test_samples_come_in_many_ways_and_twice(models: dict[str, Path], sound: list[Any]) -> None:
    model = load(settings_for(models["audio-classification"]))
    wanted = plain(pipeline("audio-classification", models["audio-classification"])(SOUND))
    asked = request(*sound)
    assert ask(model, asked) == wanted
    assert ask(model, asked) == wanted  # the pipeline empties the dicts that it is given


# -- batches ----------------------------------------------------------------------------------------------------------


def test_members_of_a_batch_keep_their_own_options(models: dict[str, Path]) -> None:
    from mlserve.merging import merge, split

    settings = settings_for(models["zero-shot-classification"], task="zero-shot-classification")
    alone = load(settings)
    settings.max_batch_size, settings.max_batch_time = 8, 0.1
    model = load(settings)
    members = [
        request(tensor("sequences", [text]), tensor("candidate_labels", [label]))
        for text, label in (("the red fox", "animal"), ("the old bridge", "thing"), ("the cat", "animal"))
    ]
    wanted = [ask(alone, one)[0] for one in members]
    answer = anyio.run(model.predict, merge(members))
    found = [json.loads(part.outputs[0].data[0]) for part in split(answer, [1, 1, 1])]
    assert [one["labels"] for one in found] == [["animal"], ["thing"], ["animal"]]
    for one, other in zip(found, wanted):
        assert one["sequence"] == other["sequence"] and one["scores"] == pytest.approx(other["scores"], abs=1e-5)


@pytest.mark.parametrize(
    "name",
    ["custom_generate", "trust_remote_code", "num_workers", "assistant_model", "chat_template", "processor_kwargs"],
)
@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
def test_what_runs_foreign_code_or_starts_processes_is_no_clients_choice(
    models: dict[str, Path], task: str, name: str
) -> None:
    """As an input, as a parameter, and inside an object."""
    model = load(settings_for(models[task]))
    text = tensor("args", [TEXT])
    said = f"'{name}' cannot be set by a request"
    assert said in refusal(model, text, tensor(name, ["/somewhere"]))
    assert said in refusal(model, text, **{name: "/somewhere"})
    assert refusal(model, text, tensor("generate_kwargs", [json.dumps({name: 1})], "hg_json"))


def test_an_input_that_is_no_option_does_not_reach_the_generation(models: dict[str, Path]) -> None:
    said = refusal(load(settings_for(models["text-generation"])), tensor("args", [TEXT]), tensor("max_new_token", [3]))
    assert "did you mean 'max_new_tokens'?" in said
