"""Names to components: what a plugin may look like, how packages offer theirs, what ids say of their code."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rnet.config.component import ComponentConfig
from rnet.config.components import REGISTRIES
from rnet.config.documents import content_id
from rnet.config.run import load_config
from rnet.errors import UserError
from rnet.registry import Registry, annotated_config
from rnet.stages.graph import document

HERE = "tests.test_registry"


@dataclass(frozen=True, kw_only=True)
class OursConfig(ComponentConfig):
    size: int = 1


class Ours:
    config: OursConfig

    def __init__(self, config: OursConfig) -> None:
        self.config = config


class Bare:
    def __init__(self, config: ComponentConfig) -> None:
        self.config = config


class Stranger:
    config: int


class Lost:
    config: Nowhere  # type: ignore[name-defined]  # noqa: F821


def ours(config: OursConfig) -> int:
    return config.size


THINGS = Registry("thing", ComponentConfig, {"ours": (OursConfig, f"{HERE}:Ours")})


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_component_of_rnet_is_configured_by_what_annotates_its_config(group: str) -> None:
    registry = REGISTRIES[group]
    for name in registry.own():
        annotated = annotated_config(registry.load(name))  # a shared loader has a common base
        assert annotated is not None, name
        assert issubclass(registry.config_class(name), annotated), name


@pytest.mark.parametrize(("name", "expected"), [("Ours", OursConfig), ("ours", OursConfig), ("Bare", ComponentConfig)])
def test_a_class_or_function_is_configured_by_what_annotates_its_config(name: str, expected: type) -> None:
    assert THINGS.config_class(f"{HERE}:{name}") is expected


def test_what_is_built_depends_on_the_name_in_the_configuration() -> None:
    assert isinstance(THINGS.build(OursConfig(name="ours", size=3)), Ours)
    assert THINGS.build(OursConfig(name=f"{HERE}:ours", size=3)) == 3


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("attack", "removalnett", "did you mean removalnet.*of your own is written attack=package.module:Name"),
        ("attack", "tests.test_registry:", "must read package.module:Name"),
        ("attack", "tests.nowhere:Ours", "cannot be imported: No module named 'tests.nowhere'"),
        ("attack", f"{HERE}:Our", "did you mean Ours"),
        ("attack", f"{HERE}:Ours", r"must be a class that derives from rnet\.attacks\.base\.Attack"),
        ("attack", "rnet.attacks.base:Attack", "lacks the methods run"),
        ("dataset", f"{HERE}:HERE", "is a str, not a function or a class"),
        ("dataset", f"{HERE}:Ours", r"must derive from rnet\.data\.config\.DatasetConfig"),
        ("dataset", f"{HERE}:Stranger", "its configuration int must derive from"),
        ("dataset", f"{HERE}:Lost", "the annotation 'Nowhere' of config leads nowhere"),
    ],
)
def test_what_is_no_component_is_refused_with_the_reason(group: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        REGISTRIES[group].config_class(name)


ATTACK = '''
from rnet import Attack
class Mine(Attack):
    """Leaves the victim alone. And more."""
    def run(self, dataset, context):
        raise NotImplementedError
'''
SHOW_ID = """
import sys
from rnet.config.documents import content_id
from rnet.config.run import load_config
from rnet.stages.graph import document
config = load_config([f"attack={sys.argv[1]}"])
print(config.attack.name, content_id(document("attack", config)))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package that offers attack=mine, and mine.py."""
    about = tmp_path / "mylab-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[rnet.plugins]\nattack.mine = mine:Mine\ndefense.other = mine:Mine\n")
    (tmp_path / "mine.py").write_text(ATTACK)
    return tmp_path


def python(folder: Path, *arguments: str) -> list[str]:
    """The words that a Python program prints, with the folder on its path."""
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_an_installed_packages_names_are_used_and_listed(package: Path) -> None:
    assert python(package, "-c", SHOW_ID, "mine") == python(package, "-c", SHOW_ID, "mine:Mine")
    listed = python(package, "-m", "rnet", "list", "attacks", "--json")
    assert "mylab 1.2" in " ".join(listed)
    assert "Leaves the victim alone" in " ".join(listed)


def test_errors_list_the_names_of_installed_packages(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    with pytest.raises(UserError, match="did you mean mine"):
        load_config(["attack=mie"])
    assert "other" not in REGISTRIES["attack"].names()
    assert "other" in REGISTRIES["defense"].names()


@pytest.mark.slow
def test_an_edited_plugin_makes_another_id_unless_it_declares_a_version(package: Path) -> None:
    name, before = python(package, "-c", SHOW_ID, "mine:Mine")
    assert name == "mine:Mine"
    (package / "mine.py").write_text(ATTACK + "# edited\n")
    assert python(package, "-c", SHOW_ID, "mine:Mine") != [name, before]
    versioned = ATTACK.replace("    def run", "    version = 3\n    def run")
    ids = []
    for text in (versioned, versioned + "# edited\n", versioned.replace("3", "4")):
        (package / "mine.py").write_text(text)
        ids += python(package, "-c", SHOW_ID, "mine:Mine")[1:]
    assert ids[0] == ids[1] != ids[2]


def test_ids_of_rnets_own_components_say_nothing_of_their_code() -> None:
    found = document("verify", load_config([]))
    assert "plugin" not in str(found)
    assert content_id(found)


def test_a_plugin_that_fails_while_it_is_imported_is_named_with_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halfway.py").write_text("import math\n\nLIMIT = math.sqrt(-1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"halfway:Ours.* ValueError: .* \(.*halfway\.py, line 3\)"):
        REGISTRIES["attack"].load("halfway:Ours")
