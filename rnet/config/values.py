"""From what people write to the value of a setting, by the type of its field: text as it stands, YAML 1.2's numbers.

A value is a Word of a YAML file, the text after key= on the command line, or a Python value given by a program.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rnet.config.yaml_files import Word, parse_yaml, place_of
from rnet.errors import UserError, unknown_name

logger = logging.getLogger(__name__)

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_WANTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list, like [a, b]",
    dict: "a mapping, like {a: b}",
}


@lru_cache
def field_types(kind: type) -> dict[str, Any]:
    """The type of each field of a dataclass, annotations evaluated."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def typed_fields(place: str, kind: type, values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """The values as the fields of a dataclass have them.

    place, prefix: what errors call a key, and what stands before it ("attack."). Raises UserError for keys that are no
    fields, with the nearest, and for values of another type.
    """
    known = field_types(kind)
    for key in values:
        if key not in known:
            unknown = unknown_name(place, f"{prefix}{key}", [f"{prefix}{name}" for name in known])
            raise UserError(f"{place_of(key)}{unknown}")
    return {str(key): typed(f"{prefix}{key}", known[key], value) for key, value in values.items()}


def typed(setting: str, kind: Any, value: Any) -> Any:
    """The value as a setting of that type has it. Raises UserError, naming the place, the setting and what it takes."""
    options = _options(kind)
    text = str(value) if isinstance(value, str) else None
    if text is not None and (bad := _no_text(text)):
        raise UserError(f"{place_of(value)}{setting}={shown(value)} holds {bad}; take it out")
    if type(None) in options and _is_none(value, text, options):
        return None
    for option in (bool, int, float, list, dict, str, Any):
        if option in options or any(typing.get_origin(one) is option for one in options):
            found = _tried(setting, option, options, value)
            if found is not None:
                return found
    wanted = [_WANTED[typing.get_origin(option) or option] for option in options if option is not type(None)]
    wanted += ["null"] if type(None) in options else []
    if int in options and text and _INTEGER.fullmatch(text):
        wanted = ["a whole number of at most 64 bits"]
    raise UserError(f"{place_of(value)}{setting}={shown(value)} must be {' or '.join(wanted)}")


def shown(value: Any) -> str:
    """A value for a message: in one line, not too long, null as it is written."""
    if value is None or (isinstance(value, Word) and value.absent):
        return "null"
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _options(kind: Any) -> tuple[Any, ...]:
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return typing.get_args(kind) if union else (kind,)


def _is_none(value: Any, text: str | None, options: tuple[Any, ...]) -> bool:
    """null and nothing at all; on the command line, where text stays text, only nothing is none for text."""
    if value is None or text == "":
        return True
    if isinstance(value, Word):
        return value.absent
    return text in ("null", "~") and str not in options


def _tried(setting: str, option: Any, options: tuple[Any, ...], value: Any) -> Any:
    """The value as that type; None if it is none."""
    if option is bool:
        return _as_bool(value)
    if option is int:
        return _as_int(value)
    if option is float:
        return _as_float(value)
    if option is str:
        return _as_text(setting, value)
    if option is list:
        return _as_list(setting, next(one for one in options if typing.get_origin(one) is list), value)
    if option is dict:
        return _as_dict(setting, value)
    return value


def _as_text(setting: str, value: Any) -> str | None:
    if not isinstance(value, str) or (isinstance(value, Word) and value.absent):
        return None
    if not isinstance(value, Word) and value[:1] in ("'", '"') and value[1:].endswith(value[0]):
        logger.warning("%s=%s: the quotes are part of the value; leave them out if they are not meant", setting, value)
    return str(value)


def _as_bool(value: Any) -> bool | None:
    if isinstance(value, str):
        word = value.lower()
        return True if word in _TRUE else False if word in _FALSE else None
    return value if isinstance(value, bool) else None


def _as_int(value: Any) -> int | None:
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value):
            whole = _as_float(value)  # 1e3
            return int(whole) if whole is not None and whole.is_integer() and abs(whole) < 2**53 else None
        number = int(value[:40], 0 if value[:2] in ("0x", "0o") else 10)
        return number if -(2**63) <= number < 2**63 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _as_float(value: Any) -> float | None:
    if isinstance(value, str):
        if not _FLOAT.fullmatch(value):
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _as_list(setting: str, kind: Any, value: Any) -> list[Any] | None:
    """[a, b] as YAML has it; on the command line also a,b and a alone."""
    (element,) = typing.get_args(kind)
    if isinstance(value, str):
        if isinstance(value, Word):
            return [] if value.absent else None
        value = parse_yaml(value, setting) if value.startswith("[") else [one for one in value.split(",") if value]
        if not isinstance(value, list):
            return None
    if not isinstance(value, list | tuple):
        return None
    return [typed(setting, element, one) for one in value]


def _as_dict(setting: str, value: Any) -> dict[str, Any] | None:
    """A mapping whose values have no type: true and false, null, lists of text, else text."""
    if not isinstance(value, dict):
        return None
    return {str(key): _untyped(f"{setting}.{key}", item) for key, item in value.items()}


def _untyped(setting: str, value: Any) -> Any:
    if isinstance(value, Word) and value.absent:
        return None
    if isinstance(value, list):
        return [_untyped(setting, item) for item in value]
    if isinstance(value, dict):
        raise UserError(f"{place_of(value)}{setting} must be text, a number, true, false or a list")
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), str(value))
    return value


def _no_text(text: str) -> str | None:
    """What a text holds that no path and no file in UTF-8 can; None for most."""
    if "\0" in text:
        return "a NUL character"
    return "bytes that are no UTF-8" if any("\ud800" <= character <= "\udfff" for character in text) else None
