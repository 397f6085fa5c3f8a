"""Names to components: rnet's own, those of installed packages, and whatever `package.module:Name` leads to.

A component is a class or a function. Its configuration is the dataclass that annotates its `config`: the attribute of a
class, or the parameter of a function. rnet's own are listed beside theirs, so that planning imports none of them.
A package offers components by the entry points "rnet.plugins", each named by its group and what to write after it:

    [project.entry-points."rnet.plugins"]
    "attack.lab_prune" = "mylab.prune:Prune"        # attack=lab_prune
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from rnet.errors import UserError, first_line, unknown_name

ENTRY_POINTS = "rnet.plugins"
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Registry:
    """The components of one group (attack, defense, ...), imported only when they are used.

    base: the configuration class of components that annotate none, and a base of all others. table: rnet's own, name ->
    (configuration class, "module:Name"). kind: "module:Class" that plugins derive from; None for anything callable.
    open_ended: other names are known elsewhere (the architectures of torchvision and timm). offered_as: what the
    group is called in entry points.
    """

    def __init__(
        self,
        group: str,
        base: type,
        table: Mapping[str, tuple[type, str]],
        *,
        kind: str | None = None,
        open_ended: bool = False,
        offered_as: str | None = None,
    ) -> None:
        self.group = group
        self.base = base
        self._table = dict(table)
        self._kind = kind
        self._open_ended = open_ended
        self._offered_as = offered_as or group

    def with_more(self, group: str, table: Mapping[str, tuple[type, str]], *, base: type) -> Registry:
        """The components of this group, plugins too, and more of their kind, as another group."""
        return Registry(group, base, {**self._table, **table}, kind=self._kind, offered_as=self.group)

    def own(self) -> list[str]:
        """rnet's own components, sorted."""
        return sorted(self._table)

    def installed(self) -> dict[str, EntryPoint]:
        """What installed packages offer to this group, by name; rnet's own names go before."""
        prefix = f"{self._offered_as}."
        found = {point.name: point for point in _entry_points(tuple(sys.path)) if point.name.startswith(prefix)}
        named = {name.removeprefix(prefix): found[name] for name in sorted(found)}
        return {name: point for name, point in named.items() if name not in self._table}

    def names(self) -> list[str]:
        """Every name that needs no colon, sorted."""
        return sorted({*self._table, *self.installed()})

    def full_name(self, name: str) -> str:
        """What configurations and ids call the component: a name of rnet's own, or package.module:Name.

        Raises UserError for a name that leads nowhere.
        """
        if name in self._table:
            return name
        if ":" in name:
            if not _REFERENCE.fullmatch(name):
                raise UserError(f"{self.group}={name!r} must read package.module:Name, like mylab.ours:Ours")
            return name
        if point := self.installed().get(name):
            return point.value
        if self._open_ended:
            return name
        remedy = f"A component of your own is written {self.group}=package.module:Name."
        raise unknown_name(self.group, name, self.names(), remedy=remedy)

    def reference(self, name: str) -> str | None:
        """ "module:Name" of a component, which is not imported; None for a name that is known elsewhere."""
        name = self.full_name(name)
        return self._table[name][1] if name in self._table else name if ":" in name else None

    def config_class(self, name: str) -> type:
        """The configuration dataclass of a component. Imports it unless it is rnet's own."""
        name = self.full_name(name)
        if name in self._table:
            return self._table[name][0]
        if ":" not in name:
            return self.base
        found = annotated_config(self.load(name)) or self.base
        if not issubclass(found, self.base):
            raise UserError(
                f"{self.group}={name!r}: its configuration {found.__name__} must derive from "
                f"{self.base.__module__}.{self.base.__name__}"
            )
        return found

    def load(self, name: str) -> Any:
        """The class or function itself. Raises UserError for what cannot be imported or is none of this group."""
        name = self.full_name(name)
        if name in self._table:
            return _imported(self._table[name][1])
        if ":" not in name:
            raise unknown_name(self.group, name, self.names())
        found = self._plugin(name)
        self._check_kind(name, found)
        return found

    def build(self, config: Any) -> Any:
        """What the component makes of its configuration (config.name says which component)."""
        self.check_class(config)
        return self.load(config.name)(config)

    def check_class(self, config: Any) -> None:
        """Raises UserError for the configuration of another component."""
        expected = self.config_class(config.name)
        if not isinstance(config, expected):
            raise UserError(
                f"{self.group}={config.name!r} is configured by {expected.__module__}.{expected.__name__}, "
                f"not by {type(config).__name__}"
            )

    def provenance(self, name: str) -> dict[str, str]:
        """What an id says of the code: nothing for rnet's own, a plugin's `version`, or its file's digest without one.

        An edited plugin makes other ids, unless it declares a version; only its own file is looked at.
        """
        name = self.full_name(name)
        return {} if name in self._table or ":" not in name else _code_of(self.load(name), name)

    def _plugin(self, name: str) -> Any:
        module_name, _, attribute = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except (ImportError, SyntaxError) as error:
            raise UserError(
                f"{self.group}={name!r} cannot be imported: {error}; run rnet in its folder, or put that on PYTHONPATH"
            ) from error
        except Exception as error:  # code that runs at import may raise anything
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{self.group}={name!r} cannot be imported: {type(error).__name__}: {first_line(error)} "
                f"({last.filename}, line {last.lineno})"
            ) from error
        if not hasattr(module, attribute):
            known = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
            near = difflib.get_close_matches(attribute, known, n=3, cutoff=0.5)
            raise unknown_name(f"{self.group}={name!r}: name", attribute, near or known[:8])
        return getattr(module, attribute)

    def _check_kind(self, name: str, found: Any) -> None:
        if self._kind is None:
            if not callable(found):
                raise UserError(f"{self.group}={name!r} is a {type(found).__name__}, not a function or a class")
            return
        kind = _imported(self._kind)
        if not (isinstance(found, type) and issubclass(found, kind)):
            raise UserError(f"{self.group}={name!r} must be a class that derives from {self._kind.replace(':', '.')}")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise UserError(f"{self.group}={name!r} lacks the methods {', '.join(missing)}")


@lru_cache(maxsize=4)
def _entry_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What the packages on the path offer; they are read once, not for each of a sweep's rows."""
    return tuple(entry_points(group=ENTRY_POINTS))


def annotated_config(component: Callable[..., Any]) -> type | None:
    """The class that annotates `config` of a class (its attribute, or its constructor's) or function; None without."""
    owners = [base for base in getattr(component, "__mro__", ()) if "config" in inspect.get_annotations(base)]
    if owners:
        return _evaluated(inspect.get_annotations(owners[0])["config"], owners[0])
    parameter = inspect.signature(component).parameters.get("config")
    if parameter is None or parameter.annotation is parameter.empty:
        return None
    return _evaluated(parameter.annotation, component)


def _evaluated(annotation: Any, owner: Any) -> type:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[owner.__module__]))
    except NameError as error:
        raise UserError(
            f"{owner.__module__}:{owner.__name__}: the annotation {annotation!r} of config leads nowhere ({error}); "
            f"import it outside of TYPE_CHECKING"
        ) from None


def _imported(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@lru_cache
def _code_of(component: Any, name: str) -> dict[str, str]:
    """As it was when it was first asked for in this process, where edits to the file have no effect any more."""
    version = getattr(component, "version", None)
    if version is not None:
        return {"plugin_version": str(version)}
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(component)) or "")  # not a decorator's, such as no_grad's
        return {"plugin_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    except (TypeError, OSError):
        raise UserError(f"{name!r} has no source file for ids to name; give it an attribute version = '1'") from None
