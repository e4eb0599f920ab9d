"""What the settings ask for: models, tasks, variables, devices, threads; and what is said when it cannot be had."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
import transformers

from mlserve.compat import install, uninstall
from mlserve.errors import InvalidModelURI, ModelLoadError
from mlserve_huggingface import HuggingFaceRuntime
from mlserve_huggingface.loading import find_model
from mlserve_huggingface.settings import settings_of
from runtimes.huggingface.tests.asking import GREEDY, IS_5, ask, load, pipeline, plain, settings_for, texts
from tests.old_runtimes import check_old_names

TEXT = "the red fox"


def refusal(settings: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(settings)
    assert caught.value.message.startswith(("model 'm': ", "Invalid URI specified for model m"))
    return str(caught.value)


def test_the_task_is_found_in_the_model(models: dict[str, Path]) -> None:
    for task, folder in models.items():
        if task in ("zero-shot-classification", "text2text-generation"):
            continue
        model = load(settings_for(folder))
        assert model._caller._pipeline.task == task
        anyio.run(model.unload)


def test_pretrained_model_goes_before_uri(models: dict[str, Path]) -> None:
    own = str(models["text-classification"])
    model = load(settings_for(Path("/nowhere"), task="text-classification", pretrained_model=own))
    assert ask(model, texts(TEXT)) == plain(pipeline("text-classification", models["text-classification"])(TEXT))


def test_the_models_own_folder_and_folders_beside_its_settings(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["text-classification"], tmp_path, dirs_exist_ok=True)
    shutil.copytree(models["text-classification"], tmp_path / "beside")
    for extra in ({}, {"pretrained_model": "beside"}, {"pretrained_tokenizer": "beside"}):
        settings = settings_for(None, **extra)
        settings.source_dir = tmp_path
        assert len(ask(load(settings), texts(TEXT))) == 1


def test_a_folder_of_settings_without_a_model_means_the_default_model(models: dict[str, Path], tmp_path: Path) -> None:
    """Settings from a file that name no artifact have their own folder as the artifact."""
    settings = settings_for(tmp_path, task="text-classification")
    settings.source_dir = tmp_path
    assert find_model(settings, settings_of(settings)) is None
    shutil.copytree(models["text-classification"], tmp_path, dirs_exist_ok=True)
    assert find_model(settings, settings_of(settings)) == str(tmp_path)


def test_variables_are_read_under_both_names(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(models["text-classification"], batch_size=3)
    monkeypatch.setenv("MLSERVER_MODEL_HUGGINGFACE_TASK", "sentiment-analysis")
    monkeypatch.setenv("MLSERVE_MODEL_HUGGINGFACE_OPTIMUM_MODEL", "true")
    monkeypatch.setenv("MLSERVE_MODEL_HUGGINGFACE_BATCH_SIZE", "7")
    chosen = settings_of(settings)
    assert (chosen.task, chosen.optimum_model, chosen.batch_size) == ("sentiment-analysis", True, 3)


def test_the_device_is_the_processor_unless_said_otherwise(models: dict[str, Path]) -> None:
    folder = models["text-classification"]
    for device in (-1, "cpu", "-1"):
        assert load(settings_for(folder, device=device))._caller._pipeline.device.type == "cpu"
    with_devices = settings_for(folder)
    with_devices.devices = [3]
    assert settings_of(settings_for(folder)).device == -1
    assert settings_of(with_devices).device == 0  # the only one that its worker sees
    if not torch.cuda.is_available():
        assert "torch sees no accelerator" in refusal(settings_for(folder, device=0))


def test_threads_have_the_name_of_all_runtimes_too(models: dict[str, Path]) -> None:
    before = torch.get_num_threads()
    try:
        for name in ("threads", "intra_op_threads"):
            torch.set_num_threads(1)
            load(settings_for(models["text-classification"], **{name: 2}))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"task": "text-clasification"}, "has no task 'text-clasification'; did you mean 'text-classification'?"),
        ({"task": "conversational"}, "use 'text-generation' and send the messages"),
        ({"device": []}, "'device': expected"),
        ({"threads": 0}, "'threads': expected a whole number >= 1, got 0"),
        ({"framework": "jax"}, "framework: expected 'pt' or 'tf', got 'jax'"),
        ({"task": "image-classification"}, "no pipeline for 'image-classification' can be made"),
        ({"pretrained_model": "no/such-model"}, "HF_HUB_OFFLINE is set"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_told_in_words(models: dict[str, Path], extra: dict[str, Any], words: str) -> None:
    assert words in refusal(settings_for(models["text-classification"], **extra))


def test_a_folder_that_holds_no_model_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match="it has no config"):
        load(settings_for(tmp_path))
    with pytest.raises(InvalidModelURI, match="does not exist"):
        load(settings_for(tmp_path / "gone"))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Strange"], "model_type": "bert"}))
    assert "transformers has no task for a Strange (config.json); known are" in refusal(settings_for(tmp_path))
    assert "no pipeline for 'fill-mask'" in refusal(settings_for(tmp_path, task="fill-mask"))


def test_without_a_model_the_tasks_default_is_looked_for(models: dict[str, Path]) -> None:
    assert "HF_HUB_OFFLINE is set" in refusal(settings_for(None, task="text-classification"))


if IS_5:

    @pytest.mark.parametrize("task", ["summarization", "translation_en_to_de", "image-to-text", "vqa"])
    def test_a_task_that_is_gone_names_the_version(models: dict[str, Path], task: str) -> None:
        told = refusal(settings_for(models["text2text-generation"], task=task))
        assert f"'{task}' is gone from transformers 5, and {transformers.__version__} is installed" in told

    def test_optimum_and_tensorflow_need_transformers_4(models: dict[str, Path]) -> None:
        told = refusal(settings_for(models["text-classification"], optimum_model=True))
        assert "needs transformers below 4.58" in told and "parameters.environment_path" in told
        told = refusal(settings_for(models["text-classification"], framework="tf"))
        assert "transformers 5 has no TensorFlow" in told and "parameters.environment_path" in told

else:

    @pytest.mark.filterwarnings("ignore")  # exporting warns of much
    @pytest.mark.parametrize("task", ["text-classification", "token-classification", "text-generation"])
    def test_optimum_answers_as_torch_does(models: dict[str, Path], task: str) -> None:
        model = load(settings_for(models[task], task=task, optimum_model=True))
        assert type(model._caller._pipeline.model).__name__.startswith("ORTModel")
        options = GREEDY if task == "text-generation" else {}
        found = ask(model, texts(TEXT, **options))
        wanted = plain(pipeline(task, models[task])(TEXT, **options))
        assert [list(one) for one in found] == [list(one) for one in wanted]
        for one, other in zip(found, wanted):
            for name, value in other.items():
                assert one[name] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value)
        forget(model)

    @pytest.mark.filterwarnings("ignore")
    def test_optimum_has_the_threads_and_arguments_that_it_is_told(
        models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def made(**extra: Any) -> tuple[int, bool]:
            model = load(settings_for(models["text-generation"], optimum_model=True, **extra))
            served = model._caller._pipeline.model
            found = served.session.get_session_options().intra_op_num_threads, served.use_cache
            forget(model)
            return found

        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        before = torch.get_num_threads()
        try:
            assert made() == (3, True)
            assert made(threads=2, model_kwargs={"use_cache": False}) == (2, False)
        finally:
            torch.set_num_threads(before)


def forget(model: Any) -> None:
    """optimum's folder for the exported file goes here, not in another test."""
    anyio.run(model.unload)
    del model
    gc.collect()


def test_names_of_mlserver_lead_here() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="huggingface")
    assert entry.load() is HuggingFaceRuntime
    install()
    try:
        from mlserver_huggingface import HuggingFaceRuntime as same
        from mlserver_huggingface.codecs import PILImageCodec
        from mlserver_huggingface.settings import HuggingFaceSettings
    finally:
        uninstall()
    assert same is HuggingFaceRuntime and PILImageCodec.ContentType == "pillow_image"
    assert HuggingFaceSettings(task="ner").task == "ner"


def test_metadata_describes_the_task(models: dict[str, Path]) -> None:
    told = anyio.run(load(settings_for(models["text-classification"])).metadata)
    assert [(one.name, one.datatype, one.parameters.content_type) for one in told.inputs] == [("args", "BYTES", "str")]
    assert [(one.name, one.parameters.content_type) for one in told.outputs] == [("output", "hg_jsonlist")]
    own = settings_for(models["text-classification"], inputs=[{"name": "x", "datatype": "BYTES", "shape": [-1]}])
    assert [one.name for one in anyio.run(load(own).metadata).inputs] == ["x"]


def test_its_modules_have_mlservers_names() -> None:
    check_old_names("mlserver_huggingface")
