"""Model: msgspec's Struct with the conveniences of pydantic models that code written for MLServer uses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mlserve.in_pydantic import InPydantic, narrowed
from mlserve.types.declared import Field, after, before, private_of, taken
from mlserve.types.dumping import dump, dump_json
from mlserve.types.extending import DeclaringMeta, Extended
from mlserve.types.schemas import schema_of
from mlserve.types.validation import ValidationError, from_msgspec
from mlserve.types.validators import Validator

__all__ = ["Model"]

_Dict = dict[str, Any]

_StructMeta: Any = type(msgspec.Struct)
_construct = _StructMeta.__call__


if TYPE_CHECKING:
    from msgspec import StructMeta as _ModelMeta
    from typing_extensions import Self
else:

    class _ModelMeta(DeclaringMeta):
        """Turns wrong keywords of a constructor into a ValidationError, or leaves them out if they are unknown."""

        _beside = (Extended,)

        @property
        def model_fields(cls) -> dict[str, Any]:
            """The fields by name, as msgspec describes them."""
            return {field.name: field for field in msgspec.structs.fields(cls)}

        __fields__ = model_fields

        def __call__(cls, *args: Any, **fields: Any) -> Any:
            if cls._is_extended:
                return _extended(cls, args, fields)
            if "data" in fields or not cls._has_data:
                try:
                    return _construct(cls, *args, **fields)
                except TypeError:
                    pass
            return _construct(cls, **_checked_fields(cls, args, fields))


class Model(
    msgspec.Struct, InPydantic, metaclass=_ModelMeta, kw_only=True, omit_defaults=True, repr_omit_defaults=True
):
    """The base of the protocol's types. Fields are mutable; None and unset fields are left out of every dump.

    The constructor takes nested dicts for nested types, ignores unknown keywords, and raises ValidationError.
    """

    _is_extended: ClassVar[bool] = False  # a class of others, with fields or validators of theirs
    _declared: ClassVar[Mapping[str, Field]] = {}  # the fields that classes of others declare
    _validators: ClassVar[tuple[Validator, ...]] = ()  # those of classes of others, for the whole object
    _checked: ClassVar[Mapping[str, Field]] = {}  # those and, where a validator may ask for their values, all others
    _hidden: ClassVar[frozenset[str]] = frozenset()  # from dumps
    _keys: ClassVar[frozenset[str] | None] = None  # all that may be given, where other keys are refused
    _private: ClassVar[Mapping[str, Callable[[], Any] | None]] = {}  # makes the private attributes of such classes
    _written: ClassVar[Mapping[str, Any]] = {}  # what validators see of fields that the decoder reads as something else
    _unset: ClassVar[frozenset[str]] = frozenset()  # those of them that an object was not given
    _has_data: ClassVar[bool] = False  # `data` has a default for the decoder, but has to be given to the constructor

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Pairs of field name and value, so that `dict(request)` works."""
        return ((name, getattr(self, name)) for name in self.__struct_fields__)

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Any = None,
        exclude: Any = None,
        exclude_none: bool = True,
        exclude_unset: bool = True,
        exclude_defaults: bool = False,
        by_alias: bool = False,
        **_: Any,
    ) -> _Dict:
        """Nested plain dicts and lists. Fields that are None count as unset: they appear only if both switches say so.

        `include` and `exclude` may be nested, with "__all__" for every item of a list. Other switches of pydantic's
        method are taken and do nothing.
        """
        none = not (exclude_none or exclude_unset or exclude_defaults)
        plain: _Dict = dump(
            self,
            include,
            exclude,
            none=none,
            json=mode == "json",
            defaults=not exclude_defaults,
            unset=not exclude_unset,
            by_alias=by_alias,
        )
        return plain

    def model_dump_json(
        self,
        *,
        indent: int | None = None,
        include: Any = None,
        exclude: Any = None,
        exclude_none: bool = True,
        exclude_unset: bool = True,
        exclude_defaults: bool = False,
        by_alias: bool = False,
        **_: Any,
    ) -> str:
        """`model_dump` as JSON text; without picking, tensors' data is written as it stands."""
        none = not (exclude_none or exclude_unset or exclude_defaults)
        return dump_json(
            self,
            include,
            exclude,
            none=none,
            indent=indent,
            defaults=not exclude_defaults,
            unset=not exclude_unset,
            by_alias=by_alias,
        )

    @classmethod
    def model_validate(cls, obj: Any, **_: Any) -> Self:
        """An object of this type as it is, or one made of a mapping; ValidationError otherwise."""
        if isinstance(obj, cls):
            return obj
        if isinstance(obj, msgspec.Struct):
            obj = {name: value for name in obj.__struct_fields__ if (value := getattr(obj, name)) is not None}
        if not isinstance(obj, Mapping):
            message = f"Input should be a valid dictionary or instance of {cls.__name__}"
            raise ValidationError.one(cls.__name__, (), message, obj, "model_type")
        return cls(**obj)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray | memoryview, **_: Any) -> Self:
        """From JSON text, as lenient as MLServer: `["2"]` and `[2.0]` are shapes. The data stays text until read."""
        try:
            if cls._is_extended:
                return cls.model_validate(msgspec.json.decode(json_data))
            made: Self = _decoder(cls).decode(json_data)
        except ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _all_faults(cls, json_data) or from_msgspec(cls.__name__, error, json_data) from None
        if made._is_whole():
            return made
        raise _all_faults(cls, json_data) or ValidationError.one(cls.__name__, (), "Field required", json_data)

    def _is_whole(self) -> bool:
        """Whether nothing is missing that the decoder lets be missing."""
        return True

    @classmethod
    def parse_file(cls, path: Any, **_: Any) -> Self:
        """From a file of JSON text."""
        return cls.model_validate_json(Path(path).read_bytes())

    @classmethod
    def model_construct(cls, _fields_set: Any = None, **values: Any) -> Self:
        """The constructor under another name: here every object is checked."""
        return cls(**values)

    @classmethod
    def model_json_schema(cls, **_: Any) -> _Dict:
        """The JSON schema of this type, with those of its parts under `$defs`."""
        return schema_of(cls)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, deep or not (then parts are shared), with `update` applied."""
        again = copy.deepcopy(self) if deep else copy.copy(self)
        for name, value in (update or {}).items():
            setattr(again, name, value)
        return again

    def _narrowed(self, cls: Any) -> Any:
        cls = cls or type(self)
        made = {one.name: narrowed(getattr(self, one.name), one.type) for one in msgspec.structs.fields(cls)}
        same = cls is type(self) and all(value is getattr(self, name) for name, value in made.items())
        return self if same else cls(**{name: value for name, value in made.items() if name not in self._unset})

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the fields that are not None, and not at a default that a subclass declares."""
        return {name for name, value in self if value is not None and name not in self._unset}

    @property
    def model_extra(self) -> None:
        """Nothing: unknown keys are ignored."""
        return None

    if TYPE_CHECKING:
        parse_raw = model_validate_json
        parse_obj = model_validate
    else:  # Names of pydantic's first version. A method called dict would hide the type in annotations.
        parse_raw = classmethod(lambda cls, b, **_: cls.model_validate_json(b))
        parse_obj = classmethod(lambda cls, obj: cls.model_validate(obj))
        validate = parse_obj
        construct = model_construct
        schema = model_json_schema
        schema_json = classmethod(lambda cls, **_: msgspec.json.encode(cls.model_json_schema()).decode())
        model_rebuild = update_forward_refs = classmethod(lambda cls, *_, **__: None)  # all types are known
        dict = model_dump
        json = model_dump_json

        def copy(self, *, include=None, exclude=None, update=None, deep=False):
            """`model_copy`, with fields left out."""
            again = self.model_copy(update=update, deep=deep)
            if include is None and exclude is None:
                return again
            return type(self)(**dump(again, include, exclude))


_decoders: dict[type[Any], Any] = {}


def _decoder(cls: Any) -> Any:
    found = _decoders.get(cls)
    if found is None:
        found = _decoders[cls] = msgspec.json.Decoder(cls, strict=False)
    return found


def _all_faults(cls: Any, json_data: Any) -> ValidationError | None:
    """Every fault of JSON text that the decoder, which stops at the first, has refused; None if it is no JSON."""
    try:
        cls.model_validate(msgspec.json.decode(json_data))
    except ValidationError as error:
        return error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return None


def fault(model: Model, name: str, message: str, value: Any, kind: str = "value_error") -> ValidationError:
    """A ValidationError about one field of a model that is being made."""
    return ValidationError.one(type(model).__name__, (name,), message, value, kind)


def check_texts(model: Model, *names: str) -> None:
    """ValidationError if one of these fields of a model that is being made is neither text nor None."""
    for name in names:
        value = getattr(model, name)
        if value.__class__ is str or value is None or isinstance(value, str):
            continue
        if name not in model._declared:
            raise fault(model, name, "Input should be a valid string", value, "string_type")


def nested_list(model: Model, name: str, kind: Any, values: Any) -> list[Any]:
    """A list of models, where some may come as dicts."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise fault(model, name, "Input should be a valid list", values, "list_type")
    made, faults = [], []
    for at, one in enumerate(values):
        try:
            made.append(kind.model_validate(one))
        except ValidationError as error:
            faults += error.below(type(model).__name__, name, at).errors()
    if faults:
        raise ValidationError(type(model).__name__, faults)
    return made


def _extended(cls: Any, args: tuple[Any, ...], fields: _Dict) -> Any:
    """An object of a class that others have made of ours."""
    if args:
        raise _misfit(cls, args, [])
    fields = before(cls, fields)
    values, defaults, faults = taken(cls, fields)
    faults = _missing(cls, fields) + faults
    if faults:
        raise _misfit(cls, args, faults)
    ours = {name: fields[name] for name in cls.__struct_fields__ if name in fields and name not in cls._checked}
    made = _construct(cls, **ours, **values, **defaults)
    vars(made).update(private_of(cls))
    vars(made)["_unset"] = frozenset(cls._declared) - values.keys()
    return after(cls, made)


def _checked_fields(cls: Any, args: tuple[Any, ...], fields: _Dict) -> _Dict:
    """The known ones of a constructor's keywords; ValidationError if a required one is missing."""
    missing = _missing(cls, fields)
    if args or missing:
        raise _misfit(cls, args, missing)
    return {name: value for name, value in fields.items() if name in cls.__struct_fields__}


def _misfit(cls: Any, args: tuple[Any, ...], faults: list[_Dict]) -> ValidationError:
    if args:
        return ValidationError.one(cls.__name__, (), "fields are given by keyword", args, "positional")
    return ValidationError(cls.__name__, faults)


def _missing(cls: Any, fields: _Dict) -> list[_Dict]:
    """The faults of required fields of ours that are missing."""
    required = cls.__struct_fields__[: len(cls.__struct_fields__) - len(cls.__struct_defaults__)]
    defaults = dict(zip(reversed(cls.__struct_fields__), reversed(cls.__struct_defaults__), strict=False))
    return [
        {"type": "missing", "loc": (name,), "msg": "Field required", "input": fields}
        for name in cls.__struct_fields__
        if name not in fields
        and name not in cls._checked
        and (name in required or defaults.get(name) is msgspec.NODEFAULT or (name == "data" and cls._has_data))
    ]
