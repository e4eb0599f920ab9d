"""Makes the pipeline that the settings describe, and says in plain words why one cannot be made."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
import transformers

from mlserve.artifacts import local_artifact
from mlserve.errors import InvalidModelURI, ModelLoadError
from mlserve.settings import ModelSettings
from mlserve.thread_limits import threads_of_process
from mlserve_huggingface.dense import MaskGeneration, Segmentation
from mlserve_huggingface.obstacles import check_packages, explain, warn_of_packages
from mlserve_huggingface.on_tensorflow import check_tensorflow, tensorflow_pipeline
from mlserve_huggingface.question_answering import QuestionAnswering
from mlserve_huggingface.settings import HuggingFaceSettings
from mlserve_huggingface.tasks import resolve_task

__all__ = ["find_model", "make_pipeline"]

_logger = logging.getLogger("mlserve.huggingface")
_IS_5 = int(transformers.__version__.partition(".")[0]) >= 5


def find_model(settings: ModelSettings, chosen: HuggingFaceSettings) -> str | None:
    """The folder or hub name of the model: `pretrained_model`, else `parameters.uri`, else the model's own folder.

    None if there is neither: then the task's default model is fetched. InvalidModelURI if the folder holds none.
    """
    if chosen.pretrained_model:
        return _near(chosen.pretrained_model, settings)
    uri = settings.parameters.uri if settings.parameters is not None else None
    own = settings.source_dir
    if uri in (None, "", str(own)) and (own is None or not (own / "config.json").is_file()):
        return None
    folder = Path(local_artifact(settings))
    if not (folder / "config.json").is_file():
        raise InvalidModelURI(
            settings.name,
            f"{folder} is no folder of a Hugging Face model: it has no config.json (save_pretrained writes it)",
        )
    return str(folder)


def make_pipeline(settings: ModelSettings, chosen: HuggingFaceSettings, model: str | None) -> tuple[str, Any]:
    """The task and its pipeline. ModelLoadError."""
    _quieten()
    _set_threads(chosen)
    folder = model if model is not None and Path(model).is_dir() else None
    task = f"{chosen.task}{chosen.task_suffix}"
    if not task and model is not None and folder is None:
        task = _task_on_hub(model, settings.name)
    task = resolve_task(task, folder, settings.name)
    _check_framework(chosen, settings.name)
    check_packages(task, settings.name)
    tokenizer = _near(chosen.pretrained_tokenizer, settings) if chosen.pretrained_tokenizer else None
    try:
        pipeline = _made(task, chosen, model, tokenizer, settings.name)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"model '{settings.name}': {explain(error, task, model, tokenizer)}") from error
    warn_of_packages(task, pipeline, model, settings.name)
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer is not None and tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token_id = tokenizer.eos_token_id  # without one, texts of unlike lengths cannot run together
    return task, pipeline


def _task_on_hub(model: str, name: str) -> str:
    """The task that the hub has for a model."""
    try:
        return str(transformers.pipelines.get_task(model))
    except Exception as error:
        raise ModelLoadError(f"model '{name}': {explain(error, '', model)}; or set parameters.extra.task") from error


def _made(task: str, chosen: HuggingFaceSettings, model: str | None, tokenizer: Any, name: str) -> Any:
    options: dict[str, Any] = {"tokenizer": tokenizer} if tokenizer else {}
    if task == "image-segmentation":
        options["pipeline_class"] = Segmentation
    elif task == "mask-generation":
        options |= {"pipeline_class": MaskGeneration, "most_numbers": chosen.max_answer_numbers}
    device = "cpu" if chosen.device in (-1, "-1") else chosen.device
    if isinstance(device, str) and device.isdecimal():
        device = int(device)
    if chosen.framework == "tf" and not chosen.optimum_model:
        return tensorflow_pipeline(task, model, chosen, device, name, **options)
    if isinstance(device, int) and not torch.accelerator.is_available():
        raise ModelLoadError(
            f"model '{name}': device {device} is asked for, but torch sees no accelerator; -1 is the processor"
        )
    if chosen.optimum_model:
        options |= {} if device == "cpu" else {"device": device}
        return _optimum(task, model, chosen, options, name)
    if task == "question-answering" and _IS_5:
        if model is None:
            raise ModelLoadError(f"model '{name}': transformers 5 has no default for '{task}'; name a pretrained_model")
        return QuestionAnswering.from_pretrained(model, tokenizer or model, device, chosen.model_kwargs or {})
    if not _IS_5:
        options["framework"] = "pt"  # else a folder of TensorFlow's weights would be one of TensorFlow, half made
    if chosen.model_kwargs:
        options["model_kwargs"] = chosen.model_kwargs
    return transformers.pipeline(task, model=model, device=device, **options)


def _optimum(task: str, model: str | None, chosen: HuggingFaceSettings, options: dict[str, Any], name: str) -> Any:
    """A pipeline of ONNX Runtime, exported on the spot where the folder holds no ONNX file."""
    if _IS_5:
        raise ModelLoadError(
            f"model '{name}': optimum_model needs optimum-onnx, which needs transformers below 4.58, and "
            f"{transformers.__version__} is installed; serve it from an environment with "
            f"'mlserve-huggingface[optimum]' (parameters.environment_path), or export it and use the runtime 'onnx'"
        )
    try:
        from optimum.pipelines import pipeline
    except ImportError as error:
        raise ModelLoadError(
            f"model '{name}': optimum_model needs optimum-onnx: pip install 'mlserve-huggingface[optimum]' ({error})"
        ) from error
    model_kwargs = {"session_options": _session_options(chosen), **(chosen.model_kwargs or {})}
    return pipeline(task, model=model, accelerator="ort", model_kwargs=model_kwargs, **options)


def _session_options(chosen: HuggingFaceSettings) -> Any:
    import onnxruntime  # optimum brings it

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]  # it has no types
        def __deepcopy__(self, memo: Any) -> Options:
            return self  # transformers copies a model's arguments, and ONNX Runtime's class cannot be copied

    options = Options()
    options.intra_op_num_threads = chosen.intra_op_threads or chosen.threads or threads_of_process() or 0
    return options


def _check_framework(chosen: HuggingFaceSettings, name: str) -> None:
    if chosen.framework not in (None, "", "pt", "tf"):
        raise ModelLoadError(
            f"model '{name}': parameters.extra.framework: expected 'pt' or 'tf', got '{chosen.framework}'"
        )
    if chosen.framework == "tf" and not chosen.optimum_model:
        check_tensorflow(name)


def _set_threads(chosen: HuggingFaceSettings) -> None:
    """Bounds torch's threads, which are the process's, not the model's."""
    threads = chosen.intra_op_threads or chosen.threads
    if threads is not None:
        torch.set_num_threads(threads)
    if chosen.inter_op_threads is not None and chosen.inter_op_threads != torch.get_num_interop_threads():
        try:
            torch.set_num_interop_threads(chosen.inter_op_threads)
        except RuntimeError:  # only before the first parallel work of the process
            _logger.warning("inter_op_threads has no effect: another model of this process has set it already")


def _quieten() -> None:
    """Progress bars and advice to developers stay out of the server's log, unless somebody asks for them."""
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()


def _near(name: str, settings: ModelSettings) -> str:
    """A folder beside the settings file, if there is one of that name; else the name as it is."""
    folder = settings.source_dir / name if settings.source_dir is not None else None
    return str(folder) if folder is not None and folder.is_dir() else name
