"""The plan of the house: which room may import which, and a few things that only some rooms may name.

FLOORS is the rule, from the ground up: a module may import its own room and every lower floor, and nothing else.
docs/architecture.md shows the same plan, and a test here compares the two. Imports are read from the syntax tree, so
those inside functions and under TYPE_CHECKING count like all others.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"ground": ("rnet.errors", "rnet.registry", "rnet.durations")},
    {"settings": ("rnet.config", "rnet.*.config", "rnet.*.registry", "rnet.defenses.sizes")},
    {room: (f"rnet.{room}",) for room in ("storage", "kernels", "parallel", "cutting")},
    {"draws": ("rnet.draws",)},
    {"data": ("rnet.data",)},
    {"rewrites": ("rnet.rewrites",)},
    {"models": ("rnet.models",)},
    {room: (f"rnet.{room}",) for room in ("engines", "figures")},
    {"training": ("rnet.training",)},
    {room: (f"rnet.{room}",) for room in ("attacks", "defenses")},
    {"planning": ("rnet.planning",)},
    {"stages": ("rnet.stages",)},
    {"verdicts": ("rnet.verdicts",)},
    {"report": ("rnet.report",)},
    {"command": ("rnet.command", "rnet.__main__")},
    {"api": ("rnet",), "bench": ("rnet.bench",)},
    {"plan": ("launch.sweep.plan",)},
    {"records": ("launch.sweep.records",)},
    {"work": ("launch.sweep.work",)},
    {"clusters": ("launch.sweep.clusters",)},
    {"states": ("launch.sweep.states",), "clean": ("launch.sweep.clean",)},
    {"submit": ("launch.sweep.submit",), "show": ("launch.sweep.show",)},
    {"cli": ("launch",)},
)
"""Rooms by floor, the ground first. A module is in the room whose pattern fits it, or else fits a package of it."""

NEVER = {"attacks": ("engines", "parallel")}
"""Rooms that a room may not import, but for types, although they are lower: an attack says what a step is, an engine
how it runs."""

CIRCLES: dict[tuple[str, str], str] = {}
"""Imports that may close a circle of modules: (importing, imported) -> the reason."""

HOMES = {
    "deepspeed": "rnet.engines rnet.rewrites",
    "yaml": "rnet.config",
    "mpi4py": "rnet.parallel launch.sweep.clusters",
    "submitit": "launch.sweep.clusters",
    "triton": "rnet.kernels",
    "typer": "rnet.command launch",
    "cryptography": "rnet.storage",
    "datasets": "rnet.data",
}
"""Libraries that only some modules may import."""

LAUNCHERS = ("SLURM", "OMPI_", "PMI_", "PMIX_", "MPI_LOCAL")
"""How the environment variables of launchers begin: known to rnet.parallel, and to those who submit."""
WHO_KNOWS_LAUNCHERS = ("rnet.parallel", "launch.sweep.clusters")

NOT_IN_ATTACKS = {
    "names": {"world_size", "rank", "launched", "is_cuda", "cuda", "mps", "xpu"},
    "words": {
        *("plain", "ddp", "deepspeed", "zero0", "zero1", "zero2", "zero3"), *("cpu", "cuda", "mps", "gloo", "nccl")
    },
}  # fmt: skip
"""What an attack may not say: names in the code, and strings that are the name of an engine or a device."""


@dataclass(frozen=True)
class Import:
    """One import of a module of ours or of a library. place: file and line. typing: for the type checker alone."""

    importer: str
    imported: str
    place: str
    typing: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of rnet and launch by name."""
    found = {}
    for package in ("rnet", "launch"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def place(module: str, node: ast.AST) -> str:
    """File and line, as editors and terminals follow it."""
    return f"{modules()[module].relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]


@cache
def imports() -> list[Import]:
    """Every import statement of rnet and launch, wherever it stands. `from rnet import __version__` is none."""
    found = []
    for module in modules():
        nodes = list(ast.walk(tree(module)))
        checks = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        typing = {id(inner) for check in checks for statement in check.body for inner in ast.walk(statement)}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = imported_names(module, node)
                found += [Import(module, name, place(module, node), id(node) in typing) for name in names]
    return found


def imported_names(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that a statement imports: those of `from package import module`, too."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    base = ".".join(part for part in ((package if node.level else ""), node.module or "") if part)
    for alias in node.names:
        if (base, alias.name) != ("rnet", "__version__"):
            inner = f"{base}.{alias.name}"
            yield inner if inner in modules() else base


def room_of(module: str) -> tuple[int, str]:
    """Floor and room of a module."""
    fitting = [
        (fnmatchcase(module, pattern), len(pattern), floor, room)
        for floor, rooms in enumerate(FLOORS)
        for room, patterns in rooms.items()
        for pattern in patterns
        if fnmatchcase(module, pattern) or ("*" not in pattern and module.startswith(f"{pattern}."))
    ]
    return max(fitting)[2:]


def plan_of_the_house() -> str:
    """FLOORS as text, the roof first, each package named where it begins."""
    packages = [next(iter(rooms.values()))[0].split(".")[0] for rooms in reversed(FLOORS)]
    lines = zip(["", *packages], packages, reversed(FLOORS), strict=False)
    return "\n".join(f"{'' if above == package else package:8} {'   '.join(rooms)}" for above, package, rooms in lines)


def test_a_module_imports_its_own_room_and_lower_floors_only() -> None:
    crossed = []
    for one in imports():
        if one.imported in modules():
            (floor, room), (other_floor, other) = room_of(one.importer), room_of(one.imported)
            kept_out = other in NEVER.get(room, ()) and not one.typing
            if (room != other and other_floor >= floor) or kept_out:
                crossed.append(f"{one.place}: {room} must not import {one.imported} ({other})")
    assert not crossed, listed(crossed)


def test_every_pattern_of_the_plan_fits_a_module() -> None:
    """A room that was renamed would otherwise fall into a wider one without a word."""
    unused = [
        pattern
        for rooms in FLOORS
        for room, patterns in rooms.items()
        for pattern in patterns
        if not any(fnmatchcase(module, pattern) and room_of(module)[1] == room for module in modules())
    ]
    assert not unused


def test_no_circle_among_modules() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    places: dict[tuple[str, str], str] = {}
    for one in imports():
        edge = (one.importer, one.imported)
        if one.imported in graph and one.imported != one.importer and edge not in CIRCLES:
            graph[one.importer].add(one.imported)
            places.setdefault(edge, one.place)
    shown = ["\n".join(f"{places[a, b]}: {a} imports {b}" for a, b in circle) for circle in circles(graph)]
    assert not shown, "\n\n".join(shown)


def circles(graph: dict[str, set[str]]) -> list[list[tuple[str, str]]]:
    """One circle, as its edges, through each module that can reach itself; each set of modules once."""
    found: dict[frozenset[str], list[tuple[str, str]]] = {}
    for start in graph:
        came_from: dict[str, str] = {}
        queue = [start]
        while queue and start not in came_from:
            module = queue.pop(0)
            for target in graph[module] - came_from.keys():
                came_from[target] = module
                queue.append(target)
        if start in came_from:
            edges, module = [], start
            while not edges or module != start:
                edges.append((came_from[module], module))
                module = came_from[module]
            found.setdefault(frozenset(b for _, b in edges), edges[::-1])
    return list(found.values())


def test_the_root_of_rnet_holds_at_most_eight_files() -> None:
    files = sorted(path.name for path in (ROOT / "rnet").iterdir() if path.is_file())
    assert len(files) <= 8, files


@pytest.mark.parametrize("library", HOMES)
def test_a_library_stays_in_its_home(library: str) -> None:
    strays = [
        one.place
        for one in imports()
        if one.imported.split(".")[0] == library and not within(one.importer, HOMES[library].split())
    ]
    assert not strays, f"{library} belongs to {HOMES[library]}:\n{listed(strays)}"


def test_variables_of_launchers_are_read_in_few_places() -> None:
    strays = [
        f"{place(module, node)}: {node.value.strip().splitlines()[0]}"
        for module in modules()
        if not within(module, WHO_KNOWS_LAUNCHERS)
        for node in strings(module)
        if any(part.startswith(LAUNCHERS) for part in node.value.replace("$", " ").replace("{", " ").split())
    ]
    assert not strays, listed(strays)


def test_attacks_name_no_engine_no_device_and_no_launcher() -> None:
    said = []
    for module in (name for name in modules() if room_of(name)[1] == "attacks"):
        for node in ast.walk(tree(module)):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            of = getattr(node, "value", None)
            owner = getattr(of, "attr", None) or getattr(of, "id", None)
            own = getattr(getattr(of, "value", None), "id", None) == "self"  # an attack's configuration has a name
            asked = [("type", "device")] if own else [("type", "device"), ("name", "config")]
            if name in NOT_IN_ATTACKS["names"] or (name, owner) in asked:
                said.append(f"{place(module, node)}: {f'{owner}.' if owner else ''}{name}")
        said += [f"{place(module, n)}: {n.value!r}" for n in strings(module) if n.value in NOT_IN_ATTACKS["words"]]
    assert not said, listed(said)


def strings(module: str) -> Iterator[ast.Constant]:
    """Every string of a module's code; docstrings are no code."""
    nodes = list(ast.walk(tree(module)))
    texts = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    yield from (n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in texts)


def listed(found: list[str]) -> str:
    return "\n".join(sorted(set(found)))


def within(module: str, packages: tuple[str, ...] | list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_planning_a_sweep_does_not_import_torch() -> None:
    """Thousands of runs are planned in seconds, and `rnet --help` answers at once."""
    planning = [module for module in modules() if room_of(module)[1] in ("settings", "plan")]
    code = f"import sys, launch.cli, {', '.join(planning)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0, "torch is imported"


def test_the_architecture_page_shows_this_plan() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    shown = page.partition("<!-- floors -->\n```\n")[2].partition("\n```")[0]
    assert shown == plan_of_the_house()
