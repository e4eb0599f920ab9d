"""Settings of the server as a whole: `settings.json`, MLSERVER_<NAME> or MLSERVE_<NAME>, `.env`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from mlserve.settings.base import Converter, SettingsBase, Sources, build
from mlserve.settings.convert import BadValue, shorten
from mlserve.version import __version__

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class CORSSettings(SettingsBase):
    """Which origins a browser may call us from."""

    _reads_variables: ClassVar[bool] = False  # as a whole from MLSERVER_CORS_SETTINGS

    allow_origins: list[str] = []
    allow_origin_regex: str | None = None
    allow_credentials: bool = False
    allow_methods: list[str] = msgspec.field(default_factory=lambda: ["GET"])
    allow_headers: list[str] = []
    expose_headers: list[str] = []
    max_age: int = 600

    if TYPE_CHECKING:  # it takes what files hold: dicts for objects, text for numbers, unknown keys

        def __init__(self, *, _env_file: str | Path | None = ".env", **values: Any) -> None: ...


def _cors(value: Any, sources: Sources) -> CORSSettings | None:
    if value is None or isinstance(value, CORSSettings):
        return value
    if not isinstance(value, Mapping):
        raise BadValue((), f"expected an object {{...}} or null, got {shorten(value)}")
    made: CORSSettings = build(CORSSettings, value, sources)
    return made


def _import_path(value: Any, sources: Sources) -> Any:
    if value is None or isinstance(value, (str, type)) or callable(value):
        return value or None
    raise BadValue((), f'expected an import path such as "package.ModelRepository", got {shorten(value)}')


class Settings(SettingsBase):
    """All settings of one server; docs/settings.md has their meaning."""

    _converters: ClassVar[Mapping[str, Converter]] = {
        "cors_settings": _cors,
        "model_repository_implementation": _import_path,
    }

    # As MLServer has them.
    debug: bool = False
    host: str = "0.0.0.0"
    http_port: Port = 8080
    grpc_port: Port = 8081
    metrics_port: Port = 8082
    metrics_endpoint: str | None = "/metrics"
    metrics_rest_server_prefix: str = "rest_server"
    metrics_dir: str = msgspec.field(default_factory=lambda: os.path.join(os.getcwd(), ".metrics"))
    parallel_workers: Count = 1
    parallel_workers_timeout: Seconds = 5
    environments_dir: str = msgspec.field(default_factory=lambda: os.path.join(os.getcwd(), ".envs"))
    model_repository_implementation: Any = None  # an import path, or the class itself
    model_repository_implementation_args: dict[str, Any] = {}
    model_repository_root: str = "."
    load_models_at_startup: bool = True
    server_name: str = "mlserve"
    server_version: str = __version__
    extensions: list[str] = []
    root_path: str = ""
    grpc_max_message_length: int | None = None
    cors_settings: CORSSettings | None = None
    gzip_enabled: bool = True
    use_structured_logging: bool = False
    logging_settings: str | dict[str, Any] | None = None
    kafka_enabled: bool = False
    kafka_servers: str = "localhost:9092"
    kafka_topic_input: str = "mlserver-input"
    kafka_topic_output: str = "mlserver-output"
    tracing_server: str | None = None
    cache_enabled: bool = False
    cache_size: Count = 100

    # Ours.
    backend: Literal["asyncio", "trio"] = "asyncio"
    max_body_bytes: Positive = 256 * 1024 * 1024
    request_timeout_seconds: Seconds | None = None
    hard_timeout_seconds: Seconds = 60
    load_timeout_seconds: Seconds = 1800
    max_queue_size: Positive = 4096
    max_running_calls: Positive = 1024
    body_memory_bytes: Count = 0
    answer_memory_bytes: Count = 0
    send_timeout_seconds: Seconds = 60
    shutdown_timeout_seconds: Seconds = 25
    shutdown_pause_seconds: Seconds = 0
    slot_memory_bytes: Count = 0
    readiness: Literal["strict", "partial"] = "strict"
    grpc_stream_response: Literal["mlserver", "triton"] = "mlserver"
    stream_keep_alive_seconds: Seconds | None = 15
    parallel_backend: Literal["process", "ray"] = "process"

    if TYPE_CHECKING:  # it takes what files hold: dicts for objects, text for numbers, unknown keys

        def __init__(self, *, _env_file: str | Path | None = ".env", **values: Any) -> None: ...
