"""Makes a pipeline on TensorFlow, with transformers 4: it has devices by number only, and threads of its own."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import transformers
from safetensors import safe_open

from mlserve.errors import ModelLoadError
from mlserve_huggingface.settings import HuggingFaceSettings

__all__ = ["check_tensorflow", "tensorflow_pipeline"]

_logger = logging.getLogger("mlserve.huggingface")
_PROCESSOR = -1


def check_tensorflow(name: str) -> None:
    """ModelLoadError if the installed packages have no TensorFlow models."""
    if int(transformers.__version__.partition(".")[0]) >= 5:
        raise ModelLoadError(
            f"model '{name}': framework 'tf' is asked for, but transformers 5 has no TensorFlow, and "
            f"{transformers.__version__} is installed; serve it from an environment with 'transformers<5', tensorflow "
            f"and tf-keras (parameters.environment_path), or save it for PyTorch with transformers 4: "
            f"from_pretrained(…, from_tf=True), then save_pretrained"
        )
    if not transformers.is_tf_available():
        raise ModelLoadError(
            f"model '{name}': framework 'tf' needs pip install tensorflow tf-keras, in the server's environment, or in "
            f"the one of parameters.environment_path; USE_TF=0 must not be set"
        )


def tensorflow_pipeline(
    task: str, model: str | None, chosen: HuggingFaceSettings, device: Any, name: str, **options: Any
) -> Any:
    """The pipeline. ModelLoadError for a device that TensorFlow does not have."""
    import tensorflow

    _set_threads(chosen, tensorflow.config.threading)
    seen = len(tensorflow.config.list_physical_devices("GPU"))
    if device is None:
        device = 0 if seen else _PROCESSOR
    elif device == "cpu":
        device = _PROCESSOR
    if device not in range(_PROCESSOR, seen):
        raise ModelLoadError(
            f"model '{name}': device {device!r} is asked for; TensorFlow has them by number, -1 is the processor, and "
            f"sees {seen} accelerators"
        )
    # A type of torch's, which TensorFlow cannot read, is the default of some versions.
    kind = "dtype" if "dtype" in inspect.signature(transformers.pipeline).parameters else "torch_dtype"
    options |= {kind: None, "model_kwargs": {**_of_weights(model), **(chosen.model_kwargs or {})}}
    return transformers.pipeline(task, model=model, framework="tf", device=device, **options)


def _of_weights(model: str | None) -> dict[str, bool]:
    """What has transformers find the weights in a folder: it takes a safetensors file first, and the last versions
    cannot read one that was saved for PyTorch."""
    if model is None:
        return {}
    folder = Path(model)
    if any(folder.glob("tf_model.h5*")):
        return {"use_safetensors": False}
    safe = folder / "model.safetensors"
    if safe.is_file():
        with safe_open(safe, framework="np") as file:
            return {"from_pt": (file.metadata() or {}).get("format") == "pt"}
    return {"from_pt": (folder / "pytorch_model.bin").is_file()}


def _set_threads(chosen: HuggingFaceSettings, threading: Any) -> None:
    """Bounds TensorFlow's threads, which are the process's, not the model's."""
    within, between = chosen.intra_op_threads or chosen.threads, chosen.inter_op_threads
    try:
        if within is not None:
            threading.set_intra_op_parallelism_threads(within)
        if between is not None:
            threading.set_inter_op_parallelism_threads(between)
    except RuntimeError:  # only before its first work in the process; the same number again is no error
        _logger.warning("threads have no effect: TensorFlow computes already, and keeps the number that it has")
