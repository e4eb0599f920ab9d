"""Opens an ONNX file as a session of ONNX Runtime, and says in plain words why one cannot be opened."""

from __future__ import annotations

import logging
import re
from typing import Any

import onnxruntime

from mlserve.artifacts import foreign_kind
from mlserve.errors import ModelLoadError
from mlserve.extra import Extra
from mlserve.settings import ModelSettings
from mlserve.thread_limits import threads_of_process

__all__ = ["open_session", "without_place"]

_logger = logging.getLogger("mlserve.onnx")
_PLACE = re.compile(  # a line of the source and its function, by name or as the compiler writes it out; an inner status
    r"^(?:\S+\.(?:h|cc|cpp|cu):\d+ (?:(?=[^(]*::).*?\) (?:const )?(?:\[with [^]]*\] )?(?=\S)|\w+ |operator\(\) )"
    r"|\[ONNXRuntimeError\] : \d+ : \w+ : )+"
)
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_FATAL = (
    4  # what fails is told in the answer, or in the reason of the failed load; no need for it on standard error too
)
_NEWER = ("is under development", "Unsupported model IR version", "is till opset")


def open_session(path: str, settings: ModelSettings) -> Any:
    """An InferenceSession on a file. ModelLoadError says why it cannot be had."""
    extra = Extra(settings)
    providers = _providers(settings, extra)
    with open(path, "rb") as file:
        foreign = foreign_kind(file.read(64))
    if foreign:
        raise ModelLoadError(f"model '{settings.name}': {path}: no ONNX model, but {foreign}")
    options = _options(extra)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's have no base of their own
        if extra.mapping("session_options") and _opens(path, _options(extra, plain=True), providers):
            raise extra.refusal("session_options", f"what ONNX Runtime can use ({_text_of(error)})") from error
        raise ModelLoadError(f"model '{settings.name}': {path}: {_explain(error)}") from error
    _check_providers(settings.name, [_name(one) for one in providers], session.get_providers())
    return session


# -- where it runs ----------------------------------------------------------------------------------------------------


def _providers(settings: ModelSettings, extra: Extra) -> list[Any]:
    """What `extra.providers` lists, by name or as [name, {options}]; else CUDA for a model with devices, or the CPU."""
    available = onnxruntime.get_available_providers()
    wanted = extra.listed("providers")
    if not wanted:
        return [_CUDA, _CPU] if settings.devices and _CUDA in available else [_CPU]
    made = []
    for one in wanted:
        pair = [one, {}] if isinstance(one, str) else one
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], dict)):
            raise extra.refusal("providers", 'names, such as "CUDAExecutionProvider", or [name, {options}]')
        if pair[0] not in available:
            raise ModelLoadError(
                f"model '{settings.name}': parameters.extra.providers: this onnxruntime has no {pair[0]!r}; it has "
                f"{', '.join(available)}. CUDA and TensorRT come with 'mlserve-onnx[gpu]' in place of [cpu]"
            )
        made.append(tuple(pair))
    return made


def _name(provider: Any) -> str:
    return provider if isinstance(provider, str) else str(provider[0])


def _check_providers(name: str, wanted: list[str], found: list[str]) -> None:
    """ONNX Runtime goes on without a provider that does not start, on the CPU: right only if the CPU was named too."""
    lost = [one for one in wanted if one not in found]
    if lost and _CPU not in wanted:
        raise ModelLoadError(
            f"model '{name}': {', '.join(lost)} did not start (is there a device, and its driver?). To run on the CPU "
            f"where there is none, list CPUExecutionProvider last in parameters.extra.providers"
        )
    if lost:
        _logger.warning("model '%s': %s did not start, it runs on %s", name, ", ".join(lost), ", ".join(found))


# -- how it runs ------------------------------------------------------------------------------------------------------


def _opens(path: str, options: Any, providers: list[Any]) -> bool:
    """Whether a file can be opened so."""
    try:
        onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception:
        return False
    return True


def _options(extra: Extra, *, plain: bool = False) -> Any:
    """What the settings say; `plain`: without `session_options`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    threads, inter_threads = extra.threads() or threads_of_process(), extra.count("inter_threads")
    if threads is not None:
        options.intra_op_num_threads = threads
    if inter_threads is not None:
        options.inter_op_num_threads = inter_threads
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    given = {} if plain else extra.mapping("session_options")
    for key, value in given.items():
        if key == "config":
            _add_config(options, extra, value)
        else:
            _set_option(options, extra, key, value)
    return options


def _add_config(options: Any, extra: Extra, entries: Any) -> None:
    if not isinstance(entries, dict):
        raise extra.refusal("session_options", '"config" to be an object {...}')
    for key, value in entries.items():
        try:
            options.add_session_config_entry(key, str(value))
        except RuntimeError as error:
            told = " ".join(str(error).split())
            raise extra.refusal("session_options", f'entries of "config" that ONNX Runtime takes ({told})') from None


def _set_option(options: Any, extra: Extra, key: str, value: Any) -> None:
    """One attribute of SessionOptions; members of an enumeration by their name."""
    known = [name for name in dir(options) if not name.startswith("_") and not callable(getattr(options, name))]
    if key not in known:
        raise extra.refusal("session_options", f"only {', '.join(known)} and config as its keys, not {key!r}")
    kind = type(getattr(options, key))
    if isinstance(value, str) and hasattr(kind, "__members__"):
        if value not in kind.__members__:
            raise extra.refusal("session_options", f"{key} to be one of {', '.join(kind.__members__)}")
        value = kind.__members__[value]
    try:
        setattr(options, key, value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise extra.refusal("session_options", f"{key} to be of type {kind.__name__}") from None


# -- what went wrong --------------------------------------------------------------------------------------------------


def _explain(error: Exception) -> str:
    """Why ONNX Runtime could not open a file, and what helps."""
    installed = f"onnxruntime {onnxruntime.__version__} is installed"
    text = _text_of(error)
    if any(words in text for words in _NEWER):
        told = text[text.find("Opset ") :] if "Opset " in text else text[text.find("Unsupported") :]
        return (
            f"it was made by a newer ONNX than this ONNX Runtime knows ({told}; {installed}). Export it with "
            f"a lower opset and IR version, or install a newer onnxruntime"
        )
    if "parsing failed" in text or "No graph was found" in text:
        return f"no ONNX model, or one that is cut short ({text})"
    if "xternal data" in text or "No such file or directory" in text:
        return f"the files with its weights are missing; they belong beside it, under the names they had ({text})"
    return f"ONNX Runtime cannot run it ({text}; {installed})"


def _text_of(error: Exception) -> str:
    """ONNX Runtime's complaint, without the place in its source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].partition(" failed:")[2] or lines[0]
    return without_place(text).strip()


def without_place(text: str) -> str:
    """A message of ONNX Runtime without the lines of its source."""
    return _PLACE.sub("", text)
