"""What a JSON document must look like, as plain data, so that one of another origin is refused before it is used."""

from __future__ import annotations

from typing import Any

NUMBER = (int, float)
TEXT_OR_NONE = (str, type(None))


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has the shape.

    A shape: a type, or several (True and False are no numbers); [shape], a list of such; {str: shape}, an object of
    such; {"name": shape, ...}, an object with at least these keys.
    """
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(fits(item, shape[str]) for item in value.values())
        return all(key in value and fits(value[key], inner) for key, inner in shape.items())
    kinds = shape if isinstance(shape, tuple) else (shape,)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds or object in kinds)
