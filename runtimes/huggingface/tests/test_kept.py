"""Models that keep a text's state on themselves: nobody goes on from another's, and who reads slowly keeps nobody."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mlserve_huggingface import HuggingFaceRuntime
from runtimes.huggingface.tests.asking import IS_5, load, only, pipeline, rows, settings_for, streamed, texts
from runtimes.huggingface.tests.tiny_architectures import make

PROMPTS = ["the red fox runs over the hill .", "my name is mary and", "the old bear runs . the small cat"]
OPTIONS = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}


def recurrent(folder: Path) -> Path:
    return make(folder / "recurrent", "text-generation", "recurrent_gemma")


def static(folder: Path) -> Path:
    """Its settings of generation ask for a cache of fixed size: transformers 4 keeps it on the model, 5 its size."""
    made = make(folder / "static", "text-generation", "llama")
    settings = made / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "cache_implementation": "static"}))
    return made


def usual(folder: Path) -> Path:
    return make(folder / "usual", "text-generation", "llama")


def dynamic(folder: Path) -> Path:
    """Its positions go by the longest text that it has seen: texts grow beyond the length that it was made for."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    more = {"max_position_embeddings": 20, "rope_parameters" if IS_5 else "rope_scaling": rope}
    return make(folder / "dynamic", "text-generation", "llama", **more)


def long(folder: Path) -> Path:
    """Its positions are written anew with each token, by the same numbers as long as texts are short."""
    rope = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope_5 = {**rope, "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 256}
    more = {"rope_parameters": rope_5} if IS_5 else {"rope_scaling": {**rope, "type": "longrope"}}
    sizes = {"max_position_embeddings": 1024, "original_max_position_embeddings": 256}
    return make(folder / "long", "text-generation", "phi3", **sizes, **more)


@pytest.fixture(params=[recurrent, static, dynamic, usual, long])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[HuggingFaceRuntime, list[str], bool]]:
    """A model, what its own pipeline makes of each prompt, and whether it keeps what it generates from."""
    folder = request.param(tmp_path)
    own = pipeline("text-generation", folder)
    alone = [own(prompt, return_full_text=False, **OPTIONS)[0]["generated_text"] for prompt in PROMPTS]
    model = load(settings_for(folder, task="text-generation"))
    yield model, alone, request.param not in (usual, long)
    anyio.run(model.unload)


def test_texts_beside_one_another_are_those_of_each_alone(
    served: tuple[HuggingFaceRuntime, list[str], bool], caplog: pytest.LogCaptureFixture
) -> None:
    model, alone, keeps = served
    found: dict[str, str] = {}

    async def ask(prompt: str) -> None:
        (row,) = rows(await model.predict(texts(prompt, return_full_text=False, **OPTIONS)))
        found[prompt] = row["generated_text"]

    async def stream(prompt: str) -> None:
        found[prompt + " in pieces"] = "".join(await streamed(model, texts(prompt, **OPTIONS)))

    async def ask_all() -> None:
        async with anyio.create_task_group() as group:
            for prompt in PROMPTS:
                group.start_soon(ask, prompt)
                group.start_soon(stream, prompt)

    with caplog.at_level(logging.WARNING, "mlserve.model"):
        anyio.run(ask_all)
    expected = dict(zip(PROMPTS, alone))
    assert found == expected | {f"{prompt} in pieces": text for prompt, text in expected.items()}
    told = [one for one in caplog.messages if "keeps what it generates from on itself" in one]
    assert len(told) == keeps


def test_who_reads_slowly_keeps_nobody_waiting(served: tuple[HuggingFaceRuntime, list[str], bool]) -> None:
    model, alone, _ = served

    async def ask_beside() -> str:
        stream = model.predict_stream(only(texts(PROMPTS[0], **OPTIONS)))
        await anext(stream)  # and no more of them
        with anyio.fail_after(60):
            (row,) = rows(await model.predict(texts(PROMPTS[1], return_full_text=False, **OPTIONS)))
        await stream.aclose()
        return str(row["generated_text"])

    assert anyio.run(ask_beside) == alone[1]
