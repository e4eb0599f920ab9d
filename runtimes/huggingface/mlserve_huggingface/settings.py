"""What the runtime is told: `parameters.extra`, and MLSERVE_MODEL_HUGGINGFACE_* or MLSERVER_MODEL_HUGGINGFACE_*."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mlserve.errors import ModelLoadError, SettingsError
from mlserve.settings import ModelSettings
from mlserve.settings.base import SettingsBase
from mlserve.settings.server import Count, Positive

__all__ = ["HuggingFaceSettings", "get_huggingface_settings", "settings_of"]


class HuggingFaceSettings(SettingsBase):
    """How a pipeline is made and run; docs/runtimes/huggingface.md has the meaning of each."""

    _prefix: ClassVar[str] = "model_huggingface_"

    # As MLServer has them.
    task: str = ""  # empty: found in the model's own config.json
    task_suffix: str = ""
    pretrained_model: str | None = None  # goes before parameters.uri
    model_kwargs: dict[str, Any] | None = None
    pretrained_tokenizer: str | None = None
    framework: str | None = None
    optimum_model: bool = False
    device: int | str | None = -1
    inter_op_threads: Positive | None = None
    intra_op_threads: Positive | None = None

    # Ours.
    threads: Positive | None = None  # intra_op_threads, under the name that all runtimes have for it
    batch_size: Count = 0  # rows that the model computes together; 0: max_batch_size
    allow_urls: bool = False  # whether a client's text may name pictures and sound for the server to fetch or open
    max_answer_numbers: Positive = 12_500_000  # of one answer: a depth map of 12 megapixels, 31 texts of 512 x 768
    max_generation_tokens: Positive | None = None  # of all sequences generated for one text, their prompts among them
    max_sound_seconds: Positive | None = None  # of one sound
    max_pixels: Positive | None = None  # of one picture; four times as many in all pictures of a request

    if TYPE_CHECKING:  # it takes what files hold: dicts for objects, text for numbers, unknown keys

        def __init__(self, *, _env_file: str | Path | None = ".env", **values: Any) -> None: ...


def settings_of(settings: ModelSettings) -> HuggingFaceSettings:
    """What `parameters.extra` says, completed from variables. ModelLoadError for a value that a setting cannot take."""
    extra = settings.parameters.extra if settings.parameters is not None else {}
    try:
        chosen = HuggingFaceSettings.model_validate(extra)
    except SettingsError as error:
        told = error.message.replace("HuggingFaceSettings", "parameters.extra", 1)
        raise ModelLoadError(f"model '{settings.name}': {told}") from error
    if settings.devices and "device" not in chosen.model_fields_set:
        chosen.device = 0  # the only one that this worker sees
    return chosen


get_huggingface_settings = settings_of  # as MLServer calls it
