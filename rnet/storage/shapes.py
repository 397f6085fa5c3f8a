"""What a JSON document must look like, as plain data, so that one of another origin is refused before it is used."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

NUMBER = (int, float)
TEXT_OR_NONE = (str, type(None))


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has the shape.

    A shape: a type, or several (True and False are no numbers); [shape], a list of such; {str: shape}, an object of
    such; {"name": shape, ...}, an object with at least these keys.
    """
    if isinstance(shape, type):
        return isinstance(value, shape) and (value.__class__ is not bool or shape in (bool, object))
    if isinstance(shape, list):
        return isinstance(value, list) and _all_fit(value, shape[0])
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return _all_fit(value.values(), shape[str])
        return all(key in value and fits(value[key], inner) for key, inner in shape.items())
    return isinstance(value, shape) and (value.__class__ is not bool or bool in shape or object in shape)


def _all_fit(values: Collection[Any], shape: Any) -> bool:
    """Whether each of the values has the shape; at once where they are just of the type, as plans of thousands are."""
    if isinstance(shape, type) and all(kind is shape for kind in set(map(type, values))):
        return True
    return all(fits(value, shape) for value in values)
