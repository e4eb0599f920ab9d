"""Settings of one version of one model: `model-settings.json`, MLSERVER_MODEL_<NAME>."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from mlserve.settings.base import Converter, SettingsBase, Sources, build
from mlserve.settings.convert import BadValue, convert, shorten
from mlserve.settings.server import Count, Positive, Seconds
from mlserve.types import MetadataTensor, ValidationError

if TYPE_CHECKING:
    from typing_extensions import Self


def _text_or_number(value: Any, sources: Sources) -> str | None:
    """Versions and groups are text; files often have them as bare numbers."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    converted: str | None = convert(value, str | None)
    return converted


class ModelParameters(SettingsBase):
    """What is particular to this instance of a model; keys that we do not know are kept as attributes."""

    _prefix: ClassVar[str] = "model_"
    _keeps_unknown: ClassVar[bool] = True
    _converters: ClassVar[Mapping[str, Converter]] = {
        "version": _text_or_number,
        "inference_pool_gid": _text_or_number,
        "extra": lambda value, sources: convert({} if value is None else value, dict[str, Any]),
    }

    uri: str | None = None
    version: str | None = None
    environment_path: str | None = None
    environment_tarball: str | None = None
    inference_pool_gid: str | None = None
    autogenerate_inference_pool_gid: bool = False
    format: str | None = None
    content_type: str | None = None
    extra: dict[str, Any] = {}

    if TYPE_CHECKING:  # it takes what files hold: dicts for objects, text for numbers, unknown keys

        def __init__(self, *, _env_file: str | Path | None = ".env", **values: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:  # tells type checkers that other attributes may be there
        raise AttributeError(f"ModelParameters has no '{name}': the model's settings do not give it")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelParameters):
            return NotImplemented
        return self.model_dump() == other.model_dump()


def _parameters(value: Any, sources: Sources) -> ModelParameters | None:
    if value is None or isinstance(value, ModelParameters):
        return value
    if not isinstance(value, Mapping):
        raise BadValue((), f"expected an object {{...}}, got {shorten(value)}")
    made: ModelParameters = build(ModelParameters, value, sources)
    return made


def _devices(value: Any, sources: Sources) -> list[int | str]:
    devices: list[int | str] = convert(value, list[int | str])
    for place, device in enumerate(devices):
        # One that no driver can find would hide all that come after it, and so all of them.
        if any(not part.strip() or part.strip().startswith("-") for part in str(device).split(",")):
            raise BadValue(
                (str(place),), f'expected a number from 0 on, or a UUID such as "GPU-…", got {shorten(device)}'
            )
    return devices


def _implementation(value: Any, sources: Sources) -> Any:
    if isinstance(value, (type, str)):  # "" is what settings made in code have; files may not
        return value.strip() if isinstance(value, str) else value
    raise BadValue((), f'expected an import path such as "mlserve_sklearn.SKLearnModel", got {shorten(value)}')


def _tensors(value: Any, sources: Sources) -> list[MetadataTensor]:
    if not isinstance(value, (list, tuple)):
        raise BadValue((), f"expected a list of {{name, datatype, shape}}, got {shorten(value)}")
    return [_tensor(part, place) for place, part in enumerate(value)]


def _tensor(value: Any, place: int) -> MetadataTensor:
    if isinstance(value, MetadataTensor):
        return value
    if not isinstance(value, Mapping):
        raise BadValue((str(place),), f"expected {{name, datatype, shape}}, got {shorten(value)}")
    missing = [key for key in ("name", "datatype", "shape") if key not in value]
    if missing:
        raise BadValue((str(place),), f"has no '{missing[0]}' (it needs name, datatype and shape)")
    try:
        return MetadataTensor.model_validate(dict(value))
    except ValidationError as error:
        fault = error.errors()[0]
        path = (str(place), *(str(part) for part in fault["loc"]))
        raise BadValue(path, f"{fault['msg'].lower()}, got {shorten(fault['input'])}") from None


def _check_batching(made: ModelSettings) -> None:
    """BadValue unless "auto" and its target are there together: one says nothing without the other."""
    auto, target = made.max_batch_time == "auto", made.target_latency_seconds
    if auto and target is None:
        raise BadValue(
            ("max_batch_time",),
            '"auto" needs target_latency_seconds: the time within which 99 of 100 calls shall have their answers, such '
            "as 0.1",
        )
    if target is not None and not auto:
        raise BadValue(
            ("target_latency_seconds",),
            f'{target:g} is what batching aims at with "max_batch_time": "auto", but max_batch_time is '
            f'{made.max_batch_time}; set it to "auto", or leave target_latency_seconds out',
        )


class ModelSettings(SettingsBase):
    """All settings of one version of one model; docs/settings.md has their meaning."""

    _prefix: ClassVar[str] = "model_"
    _aliases: ClassVar[Mapping[str, str]] = {"implementation_": "implementation"}
    _converters: ClassVar[Mapping[str, Converter]] = {
        "implementation": _implementation,
        "parameters": _parameters,
        "devices": _devices,
        "inputs": _tensors,
        "outputs": _tensors,
    }

    # As MLServer has them.
    name: str = ""
    implementation: Any = ""  # an import path, a runtime's short name, or the class itself
    platform: str = ""
    versions: list[str] = []
    inputs: list[MetadataTensor] = []
    outputs: list[MetadataTensor] = []
    max_batch_size: Count = 0
    max_batch_time: Annotated[float, msgspec.Meta(ge=0)] | Literal["auto"] = 0.0
    cache_enabled: bool = False
    parallel_workers: Count | None = None
    warm_workers: bool = False
    parameters: ModelParameters | None = None

    # Ours.
    batch_eager: bool = True
    max_batch_rows: Count = 0
    target_latency_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_queue_size: Positive | None = None
    request_timeout_seconds: Seconds | None = None
    hard_timeout_seconds: Seconds | None = None
    load_timeout_seconds: Seconds | None = None
    max_running_calls: Positive | None = None
    devices: list[int | str] = []
    recycle_after_requests: Count = 0
    recycle_above_bytes: Count = 0

    if TYPE_CHECKING:  # it takes what files hold: dicts for objects, text for numbers, unknown keys

        def __init__(self, *, _env_file: str | Path | None = ".env", **values: Any) -> None: ...

    @property
    def implementation_(self) -> str:
        """The implementation as an import path, also where the class itself was given."""
        value = self.implementation
        return value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}"

    @property
    def version(self) -> str | None:
        """The model's version, where its settings name one."""
        return self.parameters.version if self.parameters is not None else None

    @property
    def source_dir(self) -> Path | None:
        """The folder of the settings file; None for settings made in code. No part of the dumped settings."""
        return self.__dict__.get("_source_dir")

    @source_dir.setter
    def source_dir(self, folder: Path | str | None) -> None:
        self.__dict__["_source_dir"] = Path(folder) if folder is not None else None

    @property
    def _source(self) -> str | None:
        """The settings file itself, under the name that MLServer has for it; None where there is none."""
        return self.__dict__.get("_source_file")

    @_source.setter
    def _source(self, path: Path | str | None) -> None:
        self.__dict__["_source_file"] = str(path) if path is not None else None
        self.source_dir = Path(path).parent if path is not None else None

    @classmethod
    def parse_file(cls, path: str | Path) -> Self:
        """Settings from a JSON file, which they remember: what they name beside it can be found."""
        made = super().parse_file(path)
        made._source = str(path)
        return made

    @classmethod
    def _complete(cls, made: ModelSettings, sources: Sources) -> None:
        """Flat variables (MLSERVER_MODEL_URI) give parameters even where nothing else does."""
        if made.parameters is None:
            parameters = build(ModelParameters, {}, sources)
            made.parameters = parameters if parameters.model_fields_set else None
        _check_batching(made)

    @classmethod
    def _hint_for(cls, key: str) -> str | None:
        return f"parameters.{key}" if key in ModelParameters.__struct_fields__ else None
