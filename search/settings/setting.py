"""One setting: a pydantic field, read from what a user gave and written as words of the command line.

A value may come from the command line, where it is text, or from Python. Both are checked by the field's own
declaration, and a mistake is one sentence with the setting's name as the user knows it (`models.settings`).
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from models.errors import UserError
from models.settings import Option, Settings, setting_name
from search.settings.mistakes import check_text, fault_sentence, value_text
from search.settings.shell import option_words

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Setting:
    """A setting of a command and of the Python function of the same name."""

    name: str
    """Its keyword in Python."""
    field: FieldInfo
    default: Any
    """What is taken where it is not given; None may leave that to other settings (`Option.default`). Or `REQUIRED`."""
    owner: type[BaseModel]
    """The model that it is a field of, or of whose part."""
    path: tuple[str, ...]
    """Where it lies in the owner: `("recipe", "epochs")`."""

    @cached_property
    def option(self) -> Option:
        return next((item for item in self.field.metadata if isinstance(item, Option)), Option())

    @property
    def flag(self) -> str:
        """`--batch-size`, as the command line calls it."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @cached_property
    def kind(self) -> Any:
        """The type of a value: int, float, str, bool, dict, a Literal or a tuple's type; no None."""
        return _without_none(self.field.annotation)

    @property
    def is_list(self) -> bool:
        """Whether several values may be given."""
        return get_origin(self.kind) in (tuple, dict)

    @cached_property
    def element(self) -> Any:
        """The type of one value of several; options of a method are text until the method is known."""
        if get_origin(self.kind) is dict:
            return str
        return _without_none(get_args(self.kind)[0]) if self.is_list else self.kind

    @cached_property
    def help(self) -> str:
        """What it means, its range and its default, for people at the command line and in Python alike."""
        notes = [*_range_words(self.field, self.element), *self._default_words()]
        text = " ".join((self.field.description or "").split())
        return f"{text} ({'; '.join(notes)})".strip() if notes else text

    def _default_words(self) -> list[str]:
        default = self.option.default or self.to_text(self.default)
        if not default or self.default is REQUIRED or isinstance(self.default, bool):
            return []
        return [f"default: {default}"]

    def read_value(self, value: Any) -> Any:
        """The value as its field declares it; UserError for one that is of another kind, empty or out of range."""
        if value is None and self.default is None:
            return None
        # A network or data set as an object: `search.settings.inputs` checks it.
        if self.option.or_object and not isinstance(value, str | os.PathLike):
            return value
        name = setting_name(self.name, self.flag)
        try:
            return self._type_adapter.validate_python(self._prepare_value(value, name))
        except ValidationError as error:
            raise UserError(fault_sentence(error, name, value)) from None

    @cached_property
    def _type_adapter(self) -> TypeAdapter[Any]:
        # Options of a method are a mapping in the configuration, but are read as `NAME=VALUE` texts: what their values
        # may be is known once the method is. `rebuild_annotation` brings the field's ranges along.
        kind = tuple[str, ...] if get_origin(self.kind) is dict else self.field.rebuild_annotation()
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False, strict=self.kind is bool))

    def _prepare_value(self, value: Any, name: str) -> Any:
        """The value in a form that pydantic reads; lists from text with commas or from a single element."""
        value = _without_numpy(value)
        if not self.is_list:
            return _plain_value(value, self.element, name)
        if isinstance(value, Mapping):
            value = option_pairs(value, name)
        elements = value if isinstance(value, list | tuple) else [value]
        elements = [_plain_value(element, self.element, name) for element in elements]
        if self.option.repeatable:
            return elements
        # From Python a list may hold texts with commas too; an empty item between two commas is a slip of the hand.
        texts = [element.split(",") if isinstance(element, str) else [element] for element in elements]
        items = [item.strip() if isinstance(item, str) else item for text in texts for item in text]
        if elements and not any(item != "" for item in items):
            raise UserError(f"{name} {value_text(value)} names nothing; give at least one")
        return [item for item in items if item != ""]

    def to_text(self, value: Any) -> str:
        """The value as one word; empty for None and for nothing."""
        if isinstance(value, tuple):
            return ",".join(map(self.to_text, value))
        # `1`, as people write it, and not `1.0`.
        if isinstance(value, float) and value.is_integer():
            return f"{value:.0f}"
        return "" if value is None or value == {} else str(value)

    def to_words(self, value: Any) -> list[str]:
        """The words of the command line that give the value."""
        if isinstance(value, bool):
            return [self.flag if value else f"--no-{self.flag[2:]}"]
        if isinstance(value, Mapping):
            value = option_pairs(value, self.name)
        texts = map(str, value) if self.option.repeatable else [self.to_text(value)]
        return [word for text in texts if text for word in option_words(self.flag, text)]


def declare_settings(
    model: type[BaseModel],
    *names: str,
    without: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    keywords: Mapping[str, str] | None = None,
) -> dict[str, Setting]:
    """The settings that a model's fields declare, by keyword; a field that holds settings is replaced by them.

    Args:
        names: these fields alone.
        without: leave these out.
        defaults: in place of the model's.
        keywords: field -> its name here, where that is not the field's.
    """
    settings: dict[str, Setting] = {}
    for path, field in _leaf_fields(model):
        if (names and path[0] not in names) or set(path) & {*without}:
            continue
        name = (keywords or {}).get(path[-1], path[-1])
        option = next((item for item in field.metadata if isinstance(item, Option)), Option())
        default = REQUIRED if field.is_required() else field.get_default()
        # A default in words depends on other settings: None leaves it to whoever knows them.
        default = None if option.default else (defaults or {}).get(path[-1], default)
        settings[name] = Setting(name, field, default, model, path)
    return settings


def _leaf_fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """All fields of a model and of its parts, with the way to them."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _leaf_fields(field.annotation, (*path, name))
        else:
            yield (*path, name), field


def read_settings(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> dict[str, Any]:
    """A value for every setting by keyword: what was given, checked, or the default."""
    return {
        name: setting.read_value(values[name]) if name in values else setting.default
        for name, setting in settings.items()
    }


def model_fields(settings: Mapping[str, Setting], values: Mapping[str, Any], owner: type[BaseModel]) -> dict[str, Any]:
    """The values of a model's settings as its fields, nested; what was left to other settings is left out."""
    fields: dict[str, Any] = {}
    for name, setting in settings.items():
        if setting.owner is owner and values.get(name) is not None:
            place = fields
            for name_of_part in setting.path[:-1]:
                place = place.setdefault(name_of_part, {})
            place[setting.path[-1]] = values[name]
    return fields


def option_pairs(options: Mapping[str, Any], name: str) -> list[str]:
    """`NAME=VALUE` for each option of a method; texts as they are, other values as JSON."""
    texts = []
    for option, value in options.items():
        try:
            texts.append(f"{option}={value if isinstance(value, str) else json.dumps(value)}")
        except (TypeError, ValueError, RecursionError):
            raise UserError(f"{name} has {option!r} {value_text(value)}; give text, a number or a bool") from None
    return texts


def _without_none(annotation: Any) -> Any:
    """`tuple[float, ...]` of `tuple[float, ...] | None`; what pydantic is told besides is left out."""
    branches = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kind = next(branch for branch in branches if branch is not NoneType)
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _without_numpy(value: Any) -> Any:
    """Numbers and arrays of NumPy and torch as Python's numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _plain_value(value: Any, kind: Any, name: str) -> Any:
    """Paths as text; bool, which is an int to Python, is no number."""
    value = _without_numpy(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        check_text(name, value)
    if isinstance(value, bool) and kind in (int, float):
        raise UserError(f"{name} {value} will not do: it must be a number")
    return value


def _range_words(field: FieldInfo, kind: Any) -> list[str]:
    """The choices of a Literal, or the ends of a range, in words."""
    if get_origin(kind) is Literal:
        return [f"one of {', '.join(map(str, get_args(kind)))}"]
    ends = {
        attribute: f"{end:,.10g}"
        for item in field.metadata
        for attribute in ("gt", "ge", "lt", "le")
        if (end := getattr(item, attribute, None)) is not None
    }
    if ends.keys() == {"ge", "le"}:
        return [f"{ends['ge']} to {ends['le']}"]
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    return [", ".join(f"{words[attribute]} {end}" for attribute, end in ends.items())] if ends else []
