"""model.options: further arguments of an architecture's constructor, as name=value."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from rnet.config.yaml_files import Word, parse_yaml
from rnet.errors import UserError, first_line, unknown_name

NOT_OPTIONS = {
    "num_classes": "the data set decides it",
    "in_chans": "write model.in_channels",
    "in_channels": "write model.in_channels",
    "config": "it is rnet's own",
    "image_size": "write model.input_size",
    "img_size": "write model.input_size",
    "patch_size": "write model.patch_size",
    "aux_logits": "auxiliary heads are left out",
    "features_only": "a victim gives logits",
    **dict.fromkeys(("weights", "progress", "init_weights"), "weights are model.weights"),
    **dict.fromkeys(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay"), "weights are model.weights"),
    **dict.fromkeys(("checkpoint_path", "cache_dir"), "weights are model.weights"),
    **dict.fromkeys(("scriptable", "exportable", "no_jit"), "it makes another module of the same function"),
}
"""Arguments that rnet sets itself, and what to do instead."""

_CONSTANTS = {"true": True, "false": False, "null": None, "~": None}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def parse_options(lines: Sequence[str]) -> dict[str, Any]:
    """Arguments by name, their values read as YAML 1.2. Raises UserError for what is no name=value, or not for here."""
    found: dict[str, Any] = {}
    for line in lines:
        name, equals, text = str(line).partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise UserError(f"model.options={line!r} must read name=value, e.g. model.options=[transform_input=true]")
        if name in NOT_OPTIONS:
            raise UserError(f"model.options: {name} is no option ({NOT_OPTIONS[name]}); take it out")
        if name in found:
            raise UserError(f"model.options sets {name} twice; take one out")
        found[name] = _value(line, parse_yaml(text, f"model.options={line!r}")) if text.strip() else None
    return found


def build_with_options(what: str, make: Callable[..., Any], options: dict[str, Any], sizes: dict[str, Any]) -> Any:
    """make(**sizes, **options). Raises UserError for an option that the constructor does not have or take, in one line.

    what: the architecture's name. An option that a constructor would swallow without a word is refused, too.
    """
    if not options:
        return make(**sizes)
    try:
        made = make(**{**sizes, **options})
    except TypeError as error:
        known, unexpected = known_options(make, sizes), re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected and unexpected[1] in options:
            raise _unknown(what, unexpected[1], known) from None
        raise _refused(what, options, error) from error
    except Exception as error:  # a constructor may raise anything for a value that it does not know
        raise _refused(what, options, error) from error
    for name in options:
        if _swallows(type(made)) and name not in _named_nearby(type(made)):
            raise _unknown(what, name, _parameters(type(made)))
    return made


def known_options(make: Callable[..., Any], sizes: dict[str, Any]) -> list[str]:
    """The options that a constructor names, as far as they can be known: those of the class that it makes."""
    return [name for name in _parameters(type(make(**sizes))) if name not in NOT_OPTIONS]


def _value(line: str, written: Any) -> Any:
    """What a word of YAML is: a constant, a number or text; of a list, its items'."""
    if isinstance(written, list):
        return [_value(line, item) for item in written]
    if not isinstance(written, Word):
        raise UserError(f"model.options={line!r}: give a word, a number or a list of them")
    text = str(written)
    if not written.plain:
        return text
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text[:40])
    return float(text) if _FLOAT.fullmatch(text) else text


def _constructors(kind: type) -> list[inspect.Signature]:
    """The constructor, and those of the bases to which arguments of any name are handed on."""
    found = []
    for base in kind.__mro__:
        if base is nn.Module or "__init__" not in vars(base):
            continue
        found.append(inspect.signature(vars(base)["__init__"]))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in found[-1].parameters.values()):
            break
    return found


def _parameters(kind: type) -> list[str]:
    found = [p for signature in _constructors(kind) for p in list(signature.parameters.values())[1:]]
    return list(dict.fromkeys(p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)))


def _swallows(kind: type) -> bool:
    """Whether arguments of any name are taken, so that those that are not known go by without a word."""
    last = _constructors(kind)[-1].parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in last)


def _named_nearby(kind: type) -> set[str]:
    """Arguments of the class and of the functions of its module, which build it."""
    functions = inspect.getmembers(sys.modules[kind.__module__], inspect.isfunction)
    return {*_parameters(kind), *(name for _, function in functions for name in inspect.signature(function).parameters)}


def _unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    return unknown_name(f"model.options of {what}: option", name, [one for one in known if one not in NOT_OPTIONS])


def _refused(what: str, options: dict[str, Any], error: Exception) -> UserError:
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return UserError(f"model.options: {what} cannot be built with {given}: {first_line(error)}; change or take it out")
