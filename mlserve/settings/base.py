"""What all settings classes share: how values are converted and explained, and pydantic's method names.

Calling a class reads the environment as MLServer's settings classes do: what the caller gives wins over variables,
variables over `.env`, `.env` over defaults. `build` is the same with the sources spelled out.
"""

from __future__ import annotations

import copy
import difflib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from mlserve.errors import SettingsError
from mlserve.in_pydantic import InPydantic, narrowed
from mlserve.settings.convert import BadValue, convert, flat, parse_text, shorten
from mlserve.settings.environment import Variables, read_variables
from mlserve.types.converting import converted, faults_of, is_plain
from mlserve.types.declared import Field, after, before, private_of
from mlserve.types.dumping import dump
from mlserve.types.extending import DeclaringMeta
from mlserve.types.schemas import schema_of
from mlserve.types.validators import Validator

if TYPE_CHECKING:
    from typing_extensions import Self

S = TypeVar("S", bound="SettingsBase")
Dict = dict[str, Any]
Report = Callable[[str], None]
Converter = Callable[[Any, "Sources"], Any]

_logger = logging.getLogger("mlserve.settings")


class Sources:
    """Where values come from beside the given ones, and where remarks go."""

    def __init__(self, variables: Variables, report: Report | None = None) -> None:
        self.variables = variables
        self.report = report if report is not None else _logger.warning


class _Meta(DeclaringMeta):
    """Makes `Settings(...)` read the environment; msgspec's own conversions never come here."""

    def __call__(cls, /, *, _env_file: str | Path | None = ".env", **given: Any) -> Any:
        try:
            return build(cls, given, Sources(read_variables(_env_file)))
        except BadValue as error:
            raise SettingsError(f"{cls.__name__}: {error}") from None


class SettingsBase(msgspec.Struct, InPydantic, kw_only=True, dict=True, metaclass=_Meta):
    """Mutable settings with pydantic's method names, thin."""

    _prefix: ClassVar[str] = ""  # of the variables, after MLSERVER_ or MLSERVE_
    _env_prefix: ClassVar[str | None] = None  # in place of that whole prefix: of a class of others
    _aliases: ClassVar[Mapping[str, str]] = {}
    _keeps_unknown: ClassVar[bool] = False  # unknown keys become attributes instead of a warning
    _reads_variables: ClassVar[bool] = True
    _converters: ClassVar[Mapping[str, Converter]] = {}
    _declared: ClassVar[Mapping[str, Field]] = {}  # the fields that classes of others declare
    _validators: ClassVar[tuple[Validator, ...]] = ()  # those of classes of others, for the whole object
    _fields: ClassVar[Mapping[str, Field]] = {}  # all of such a class, in order
    _checked: ClassVar[Mapping[str, Field]] = {}
    _hidden: ClassVar[frozenset[str]] = frozenset()
    _keys: ClassVar[frozenset[str] | None] = None
    _is_extended: ClassVar[bool] = False
    _private: ClassVar[Mapping[str, Callable[[], Any] | None]] = {}
    _written: ClassVar[Mapping[str, Any]] = {}

    @property
    def model_fields_set(self) -> set[str]:
        """The names that a caller, a file or a variable gave, as against defaults."""
        return set(self.__dict__.get("_given", ()))

    @property
    def model_extra(self) -> dict[str, Any]:
        """Keys that are no setting of ours, where the class keeps them."""
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        """Settings from a mapping; settings objects pass as they are."""
        if isinstance(obj, cls):
            return obj
        if not isinstance(obj, Mapping):
            raise SettingsError(f"{cls.__name__}: expected an object {{...}}, got {shorten(obj)}")
        made: Self = cls(**obj)
        return made

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray) -> Self:
        """Settings from JSON text."""
        try:
            data = json.loads(json_data)
        except ValueError as error:
            raise SettingsError(f"{cls.__name__}: {error}") from None
        return cls.model_validate(data)

    @classmethod
    def model_construct(cls, **values: Any) -> Self:
        """Settings of exactly these values: no environment, no conversion."""
        made = restore(cls, values, {**private_of(cls), "_given": frozenset(values)})
        made.model_post_init(None)
        return made

    @classmethod
    def parse_file(cls, path: str | Path) -> Self:
        """Settings from a JSON file."""
        from mlserve.settings.files import read_json_object  # it imports this module

        return cls.model_validate(read_json_object(Path(path))[0])

    @classmethod
    def parse_obj(cls, obj: Any) -> Self:
        """`model_validate` under pydantic's older name."""
        return cls.model_validate(obj)

    @classmethod
    def parse_raw(cls, json_data: str | bytes | bytearray) -> Self:
        """`model_validate_json` under pydantic's older name."""
        return cls.model_validate_json(json_data)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Pairs of name and value, so that `dict(settings)` works."""
        return ((name, getattr(self, name)) for name in (*self.__struct_fields__, *self.model_extra))

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Any = None,
        exclude: Any = None,
        exclude_unset: bool = False,
        exclude_none: bool = False,
        exclude_defaults: bool = False,
        by_alias: bool = False,
        **_: Any,
    ) -> Dict:
        """The settings as a dict, nested ones too, by the names that files use; a class is its import path.

        Unset is what nobody gave and nobody changed. `include` and `exclude` may be nested, as those of the protocol's
        types; other switches of pydantic do nothing.
        """
        switches = {"exclude_unset": exclude_unset, "exclude_none": exclude_none, "exclude_defaults": exclude_defaults}
        switches["by_alias"] = by_alias
        given = self.model_fields_set
        defaults = _defaults_of(type(self))
        dumped: Dict = {}
        for name, value in self:
            is_default = (exclude_defaults or exclude_unset) and value == defaults.get(name, _NOTHING)
            if is_default and (exclude_defaults or name not in given):
                continue
            if name not in self._hidden and not (exclude_none and value is None):
                dumped[name] = _plain(value, mode, switches)
        if include is not None or exclude is not None:
            dumped = dump(dumped, include, exclude, none=True)
        if by_alias and self._declared:
            return {self._declared[name].written if name in self._declared else name: dumped[name] for name in dumped}
        return dumped

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """The settings as JSON text."""
        return json.dumps(self.model_dump(mode="json", **options), indent=indent, ensure_ascii=False)

    @classmethod
    def model_json_schema(cls, **_: Any) -> Dict:
        """The JSON schema of this class, as files have it; parts of it under `$defs`."""
        return schema_of(cls)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that reads no environment, with some values replaced."""
        made = copy.deepcopy(self) if deep else self.__copy__()
        for name, value in (update or {}).items():
            setattr(made, name, value)
        return made

    def dict(self, *, exclude_unset: bool = True, **options: Any) -> Dict:
        """`model_dump` without what is unset, as MLServer has it under this name."""
        return self.model_dump(exclude_unset=exclude_unset, **options)

    def json(self, *, exclude_unset: bool = True, **options: Any) -> str:
        """`model_dump_json` without what is unset."""
        return self.model_dump_json(exclude_unset=exclude_unset, **options)

    schema = model_json_schema
    copy = model_copy

    def _narrowed(self, cls: Any) -> Any:
        cls = cls or type(self)
        fields = {name: narrowed(getattr(self, name), hint) for name, hint in field_types(cls).items()}
        return restore(cls, fields, self.__dict__)

    def __copy__(self) -> Self:
        cls, fields, more = self.__reduce__()[1]
        copied: Self = restore(cls, fields, more)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return (restore, (type(self), fields, self.__dict__.copy()))

    @classmethod
    def _complete(cls, made: Any, sources: Sources) -> None:
        """What is left to do for an object made of all its sources."""

    @classmethod
    def _hint_for(cls, key: str) -> str | None:
        """Where an unknown key belongs, if that is not in this class."""
        return None


_NOTHING = object()


def restore(cls: type[S], fields: Mapping[str, Any], more: Mapping[str, Any]) -> S:
    """An object of exactly these values: nothing is read, nothing converted."""
    made: S = msgspec.StructMeta.__call__(cls, **fields)
    made.__dict__.update(more)
    return made


def build(cls: type[Any], given: Mapping[str, Any], sources: Sources) -> Any:
    """A settings object from given values, completed from the environment.

    Raises BadValue; of unknown keys each is reported, or kept where the class keeps them.
    """
    extra: dict[str, Any] = {}
    makers: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
    given = _as_declared(partial(before, cls), dict(given)) if cls._validators else given
    for name, (variable, text) in _variables_of(cls, sources.variables).items():
        if name in cls.__struct_fields__ and name not in given:
            makers[name] = partial(_from_variable, cls, name, variable, text, sources)
    for key, value in given.items():
        name = _name_of(cls, key)
        if name in cls.__struct_fields__:
            makers[name] = partial(convert_field, cls, name, value, sources)
        elif cls._keys is not None:
            raise BadValue((key,), f"is no setting of {cls.__name__}, which takes no others{nearest(key, cls)}")
        elif cls._keeps_unknown:
            extra[key] = value
        elif not key.startswith(("_", "$", "//")):  # the usual places of comments and schema names
            sources.report(f"unknown key '{key}' is ignored{nearest(key, cls)}")
    values, defaults = _values(cls, makers)
    made = restore(cls, {**values, **defaults}, {**extra, "_given": frozenset(values) | frozenset(extra)})
    made.__dict__.update(private_of(cls))
    cls._complete(made, sources)
    return _as_declared(partial(after, cls), made) if cls._validators else made


def _variables_of(cls: Any, variables: Variables) -> Mapping[str, tuple[str, str]]:
    """The variables of a class: those of this program, or what the env_prefix of its `model_config` says."""
    if cls._env_prefix is not None:
        return variables.named(cls._env_prefix)
    return variables.of(cls._prefix) if cls._reads_variables else {}


def _name_of(cls: Any, key: str) -> str:
    """The setting that a key means: by its name, or by an alias, of ours or of the class that declares it."""
    by_alias = (name for name, field in cls._declared.items() if key in field.keys)
    name: str = cls._aliases.get(key) or next(by_alias, key)
    return name


def _values(cls: Any, makers: Mapping[str, Callable[..., Any]]) -> tuple[Dict, Dict]:
    """What the makers make, which see the values of the fields before, and the defaults of the declared rest."""
    if not cls._is_extended:
        return {name: make({}) for name, make in makers.items()}, {}
    values: Dict = {}
    defaults: Dict = {}
    seen: Dict = {}
    for name, field in cls._fields.items():
        if name in makers:
            values[name] = seen[name] = makers[name](seen)
        elif not field.required:
            default = field.default()
            if field.validates_default or field.has_validators:  # as pydantic's settings do it
                default = _as_declared(partial(field.validated, values=seen, convert=_converted), default)
            defaults[name] = seen[name] = default
        elif name in cls._declared:
            raise BadValue((name,), "is required")
    return values, defaults


def nearest(key: str, cls: type[Any], cutoff: float = 0.6) -> str:
    """The known key that was probably meant, as the end of a sentence; empty when none is near."""
    found = difflib.get_close_matches(key.lower(), cls.__struct_fields__, n=1, cutoff=cutoff)
    best = cls._hint_for(key) or (found[0] if found else None)
    return f"; did you mean '{best}'?" if best else ""


def _from_variable(cls: Any, name: str, variable: str, text: str, sources: Sources, seen: Mapping[str, Any]) -> Any:
    try:
        return convert_field(cls, name, parse_text(text, field_types(cls)[name]), sources, seen)
    except ValueError as error:
        reason = str(error)
        if isinstance(error, BadValue):  # the variable's own name stands for the first part of the way
            reason = str(BadValue(error.path[1:], error.text)) if error.path[1:] else error.text
        hint = ""
        if text.startswith("tcp://"):
            hint = " (Kubernetes sets it for a service of that name; enableServiceLinks: false in the pod stops that)"
        raise SettingsError(f"variable {variable}: {reason}{hint}") from None


@lru_cache(maxsize=16)
def field_types(cls: Any) -> dict[str, Any]:
    """The type of each setting by its name."""
    return {field.name: field.type for field in msgspec.structs.fields(cls)}


def _defaults_of(cls: Any) -> Dict:
    fields = msgspec.structs.fields(cls)
    made = {one.name: one.default_factory() for one in fields if one.default_factory is not msgspec.NODEFAULT}
    return {**{one.name: one.default for one in fields if one.default is not msgspec.NODEFAULT}, **made}


def convert_field(cls: Any, name: str, value: Any, sources: Sources, seen: Mapping[str, Any]) -> Any:
    """The value as the setting `name` keeps it; its validators see those before. Raises BadValue."""
    converter = cls._converters.get(name)
    try:
        field = cls._declared.get(name)
        if field is not None:
            return _as_declared(partial(field.validated, values=seen, convert=_converted), value)
        if converter is not None:
            return converter(value, sources)
        return convert(value, field_types(cls)[name])
    except BadValue as error:
        raise error.under(name) from None


def _converted(hint: Any, value: Any) -> Any:
    """A value of a declared field: plain ones as leniently as those of our own settings; members of enums stay."""
    parts = [_without_bounds(one) for one in flat(hint)]
    is_simple = all(is_plain(one) or (isinstance(one, type) and issubclass(one, (Enum, NoneType))) for one in parts)
    return convert(value, hint) if is_simple else converted(hint, value)


def _without_bounds(hint: Any) -> Any:
    """A hint without the bounds that `convert` knows, which are msgspec's."""
    metadata = getattr(hint, "__metadata__", ())
    return hint.__origin__ if metadata and all(isinstance(one, msgspec.Meta) for one in metadata) else hint


def _as_declared(make: Callable[..., Any], *given: Any) -> Any:
    """What is made by the rules of the types' fields and validators. BadValue in place of their errors."""
    try:
        return make(*given)
    except BadValue:
        raise
    except SettingsError as error:  # of settings inside
        raise BadValue((), str(error)) from None
    except ValueError as error:
        fault = faults_of(error, value=given[0])[0]
        text = f"{fault['msg'][:1].lower()}{fault['msg'][1:]}"
        if not isinstance(fault["input"], SettingsBase):
            text += f", got {shorten(fault['input'])}"
        raise BadValue(tuple(map(str, fault["loc"])), text) from None


def _plain(value: Any, mode: str, switches: Mapping[str, bool]) -> Any:
    if isinstance(value, SettingsBase):
        return value.model_dump(mode=mode, **switches)
    if isinstance(value, msgspec.Struct):
        return msgspec.json.decode(msgspec.json.encode(value))
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "model_dump"):
        return value.model_dump(mode=mode, **switches)
    if isinstance(value, list):
        return [_plain(part, mode, switches) for part in value]
    if isinstance(value, Mapping):
        return {key: _plain(part, mode, switches) for key, part in value.items()}
    return dump(value, json=True) if mode == "json" and value is not None else value
