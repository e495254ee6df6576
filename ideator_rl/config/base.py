"""The base of every configuration class, and the sentences about values that one does not take.

A configuration class is a pydantic dataclass that inherits `Config`.  Types and ranges are its annotations; a
docstring under a field describes it and names its unit.  `read_config` builds one from a mapping; a value of a wrong
type or out of its range, an unknown key and a missing key each give one sentence: what came, what was expected.

Text is never read as a number, nor a number as text or as true or false.  A whole number is taken as a float.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from ideator_rl.config.suggest import did_you_mean
from ideator_rl.errors import IdeatorError
from ideator_rl.text.redaction import without_tokens

Built = TypeVar("Built")

Flag = StrictBool
Integer = StrictInt
Count = Annotated[StrictInt, Field(ge=1)]
CountOrZero = Annotated[StrictInt, Field(ge=0)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Amount = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
PlainNumber = StrictInt | Number
"""A number that stays a whole number where it was written as one: hashes depend on its text."""
PlainAmount = CountOrZero | Amount
PlainPositive = Annotated[StrictInt, Field(gt=0)] | Positive
_SINGLE = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
Names = Annotated[list[str], _SINGLE]
"""Several names; a single one may be written without a list."""
Items = Annotated[list[Any], _SINGLE]
"""The same for items of any type."""

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
"""Pydantic's types of this error: of a model, of a dataclass, and of a key that is not text."""
PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list",
         tuple: "a list", dict: "a mapping", type(None): "null", Any: "anything"}  # fmt: skip


class ConfigError(IdeatorError):
    """A configuration is not usable."""


class Config:
    """Base of the configuration classes; each is decorated with `pydantic.dataclasses.dataclass(frozen=True)`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    def as_mapping(self) -> dict[str, Any]:
        """All values by key, the class's own keys before those that it inherits."""
        values = asdict(self)  # type: ignore[call-overload]
        own = [name for name in type(self).__annotations__ if name in values]
        return {name: values[name] for name in (*own, *(name for name in values if name not in own))}


class _Unexpected(ValueError):
    """The check of an `Expected` failed."""


@dataclass(frozen=True)
class Expected:
    """In an annotation: how a message describes the values, and a check in addition to the type."""

    text: str
    check: Callable[[Any], bool] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        schema = handler(source)
        return schema if self.check is None else core_schema.no_info_after_validator_function(self._checked, schema)

    def _checked(self, value: Any) -> Any:
        assert self.check is not None
        try:
            fits = self.check(value)
        except (ValueError, TypeError, OverflowError):
            fits = False
        if not fits:
            raise _Unexpected
        return value


def read_config(
    kind: type[Built],
    values: Any,
    lead: str,
    error: type[IdeatorError] = ConfigError,
    unknown_hint: str | None = None,
) -> Built:
    """A configuration from a mapping.

    Args:
        kind: a configuration class, or a pydantic model.
        lead: how a message begins, such as `The recipe r.yaml has`.
        unknown_hint: ends the message about an unknown key that is similar to none; by default, the list of keys.

    Raises:
        error: a value does not fit, a key is unknown or missing; or the class's own check of all values together
            raised a ValueError, whose text then follows `lead`.
    """
    try:
        built: Built = kind.__pydantic_validator__.validate_python(values)  # type: ignore[attr-defined]
        return built
    except ValidationError as problem:
        raise error(_sentence(kind, problem, lead, unknown_hint)) from None


def use_words(kind: Any, values: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """Values as YAML reads them, but the words as written where a key takes text and not what YAML made of them.

    So `save_strategy: no`, `run_name: 007` and `run_name: 2026-01-01` are text, and `push_to_hub: no` is false.

    Args:
        words: the words of unquoted values, by key.
    """
    result = dict(values)
    for key, value in values.items():
        field = config_fields(kind).get(key)
        members = [] if field is None else [member for member in _members(field.annotation) if member is not Any]
        takes_text = any(member is str or get_origin(member) is Literal for member in members)
        if isinstance(value, str):
            # In quotes a number with an exponent is text, which recipes have used as a number.
            if members and not takes_text and {int, float} & set(members) and _EXPONENT.fullmatch(value):
                result[key] = float(value)
        elif takes_text and key in words and field is not None:
            try:
                kind_of_value: Any = field.annotation
                for item in field.metadata:
                    kind_of_value = Annotated[kind_of_value, item]
                TypeAdapter(kind_of_value).validate_python(value)
            except ValidationError:
                result[key] = words[key]
    return result


_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d{1,3}")


def check_options(kind: type, options: Mapping[str, Any], lead: str) -> None:
    """Check options by name against the fields of any dataclass, such as a plugin's.

    Raises:
        ConfigError: no such field, or a value of another type.
    """
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind) if field.init]
    # A field that no option names may have a type that pydantic cannot check, such as a protocol.
    takes = {name: (hints[name] if name in options else Any, None) for name in names}
    strict = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    read_config(create_model(kind.__name__, __config__=strict, **takes), dict(options), lead)  # type: ignore[call-overload]


def config_fields(kind: Any) -> dict[str, FieldInfo]:
    """The fields of a configuration class by name; empty for any other type."""
    return getattr(kind, "__pydantic_fields__", {})


def expected(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """A type with its range, as a reader of YAML calls it: `a whole number of at least 1 or null`."""
    annotation, metadata = _unwrapped(annotation, metadata)
    for item in metadata:
        if isinstance(item, Expected):
            return item.text
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join("null" if value is None else str(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        texts = list(dict.fromkeys(expected(member, metadata) for member in get_args(annotation)))
        # Where any number is taken, "a whole number" adds nothing.
        covered = {text for text in texts if text.startswith(PLAIN[int]) and text.replace("whole ", "") in texts}
        return " or ".join(text for text in texts if text not in covered)
    base = origin or annotation
    if base in (int, float):
        return PLAIN[base] + _range(metadata)
    return PLAIN.get(base, "a mapping" if config_fields(base) else getattr(base, "__name__", str(base)))


def _range(metadata: tuple[Any, ...]) -> str:
    names = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = {name: getattr(item, name) for item in metadata for name in names if hasattr(item, name)}
    if {"ge", "le"} <= bounds.keys():
        return f" from {_bound(bounds['ge'])} to {_bound(bounds['le'])}"
    parts = [f"{text} {_bound(bounds[name])}" for name, text in names.items() if name in bounds]
    return f" {' and '.join(parts)}" if parts else ""


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _unwrapped(annotation: Any, metadata: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A type without `Annotated`, and all metadata about it; a FieldInfo among it counts as its own metadata."""
    while get_origin(annotation) is Annotated:
        annotation, metadata = annotation.__origin__, (*metadata, *annotation.__metadata__)
    return annotation, tuple(_flat(metadata))


def _flat(metadata: tuple[Any, ...]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _flat(tuple(item.metadata))
        else:
            yield item


def _sentence(kind: Any, problem: ValidationError, lead: str, unknown_hint: str | None) -> str:
    """One problem in words: an unknown key first, since a misspelt key explains a missing one; a missing key last."""
    ranks = {**dict.fromkeys(UNKNOWN_KEY, 0), "missing": 2}
    # Of the errors of a union's members, the deepest belongs to the member that was meant.
    errors = problem.errors(include_url=False)
    error = min(errors, key=lambda error: (ranks.get(error["type"], 1), -len(error["loc"])))
    if error["type"] in UNKNOWN_KEY:
        # The valid keys are those of the mapping that holds the unknown one.
        *parents, key = error["loc"]
        path, annotation, _ = _follow(kind, tuple(parents))
        names = [name for member in _members(annotation) for name in config_fields(member)]
        return f"{lead} the unknown key {_join(path, key)!r}. {did_you_mean(key, names, unknown_hint)}"
    path, annotation, metadata = _follow(kind, error["loc"])
    text = expected(annotation, metadata)
    if error["type"] == "missing":
        return f"{lead} no {path!r}. Expected {text}."
    # A check of all values together raises its own text; that of one value has the text of its type.
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, ValueError) and not isinstance(raised, _Unexpected):
        return f"{lead} {raised}"
    if error["type"] == "finite_number":
        text = text.replace("a number", "a finite number")
    # A word that YAML reads as something other than text is what a person meant as text.
    meant_text = isinstance(error["input"], bool) and error["type"] in ("string_type", "literal_error")
    text += "; in quotes it is text" if meant_text and "quotes" not in text else ""
    value = without_tokens(repr(error["input"]))
    value = value if len(value) <= 200 else f"{value[:100]}…"
    return f"{lead} {path}: {value}. Expected {text}." if path else f"{lead} {value}. Expected {text}."


def _follow(kind: Any, location: tuple[int | str, ...]) -> tuple[str, Any, tuple[Any, ...]]:
    """The dotted key, the type and its metadata at the location of an error.

    Pydantic also puts the names of a union's members into a location; these are skipped.
    """
    path, annotation, metadata = "", kind, ()
    for step in location:
        for member in _members(annotation):
            inside = config_fields(member)
            arguments = get_args(member)
            if step in inside:
                field = inside[str(step)]
                annotation, metadata = field.annotation, tuple(field.metadata)
            elif get_origin(member) is dict and isinstance(step, str) and step != "str" and step[:5] != "dict[":
                annotation, metadata = arguments[1], ()
            elif get_origin(member) in (list, tuple) and isinstance(step, int):
                annotation, metadata = arguments[min(step, len(arguments) - 1)], ()
            else:
                continue
            path = _join(path, step)
            break
    return path, annotation, metadata


def _members(annotation: Any) -> list[Any]:
    """The members of a union; else the type itself."""
    annotation, _ = _unwrapped(annotation, ())
    if get_origin(annotation) in (Union, types.UnionType):
        return [bare for member in get_args(annotation) for bare in _members(member)]
    return [annotation]


def _join(path: str, step: int | str) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else str(step)
