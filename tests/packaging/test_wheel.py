"""Wheel and source hold what users need, and what is installed from them works in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import rnet
from tests.packaging.distributions import EXTRAS, ROOT, pulled_in, required


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source, and the wheel that is built from it, as `python -m build` makes both."""
    place = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    (source,), (wheel,) = place.glob("*.tar.gz"), place.glob("*.whl")
    return {"source": source, "wheel": wheel}


def tree(folder: str, to: str | None = None) -> set[str]:
    """The files below a folder of the tree, as if it were called otherwise."""
    paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"{to or folder}/{path.relative_to(ROOT / folder)}" for path in paths}


def test_the_wheel_has_both_packages_the_configurations_and_the_licence(built: dict[str, Path]) -> None:
    about = f"rnet-{rnet.__version__}.dist-info"
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())
        metadata = message_from_bytes(wheel.read(f"{about}/METADATA"))
        assert wheel.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert b"rnet = launch.cli:main" in wheel.read(f"{about}/entry_points.txt")
    code = {name for name in names if not name.startswith(about)}
    assert code == tree("rnet") | tree("launch") | tree("configs", "rnet/configs")
    assert "rnet/py.typed" in code
    assert (metadata["Version"], metadata["License-Expression"]) == (rnet.__version__, "MIT")
    assert set(metadata.get_all("Provides-Extra") or ()) == set(EXTRAS)


def test_the_source_has_what_building_and_testing_need(built: dict[str, Path]) -> None:
    with tarfile.open(built["source"]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    folders = ("rnet", "launch", "slurm", "configs", "tests", "docs", "requirements")
    left_out = {name for folder in folders for name in tree(folder)} - names
    assert not {name for name in left_out if not name.startswith("slurm/state/")}
    assert {"README.md", "LICENSE", "CITATION.cff", "SECURITY.md", "Makefile", "pyproject.toml"} <= names


def test_what_is_installed_works_in_any_folder(built: dict[str, Path], tmp_path: Path) -> None:
    installed, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*command, str(built["wheel"])], check=True, capture_output=True)
    sweep = {"name": "s", "cluster": "local", "axes": {"dataset": ["digits"], "attack": ["removalnet", "prune"]}}
    (away / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    script = (
        "import rnet, launch.cli as cli; print(rnet.__file__); "
        "[cli.app(words.split(), standalone_mode=False) for words in ("
        "'explain attack=removalnet', 'explain train_preset=imagenet_torchvision', 'sweep plan sweep.yaml')]"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    found = subprocess.run([sys.executable, "-c", script], cwd=away, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(installed))
    assert "attack.rho" in found.stdout
    assert "cluster=local" in found.stdout


def test_versions_agree() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == rnet.__version__


@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra != "fuzz"])  # atheris has no tests in CI
def test_what_an_extra_asks_for_can_be_had_together(extra: str) -> None:
    found = pulled_in(extra)
    for requirement in required(extra):
        assert requirement.specifier.contains(found[requirement.name.lower()].version, prereleases=True), requirement


def test_every_extra_is_explained() -> None:
    page = (ROOT / "docs" / "installing.md").read_text()
    assert [extra for extra in EXTRAS if f"| `{extra}` |" not in page] == []
    assert {one.name for extra in EXTRAS.values() for one in map(Requirement, extra)}
