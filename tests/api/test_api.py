"""`import rnet`: quick, without torch, every name where it says, and errors like those of the command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rnet

IMAGES, LABELS = torch.rand(60, 1, 8, 8), torch.arange(60) % 3


def test_importing_rnet_brings_neither_torch_nor_numpy() -> None:
    code = "import sys, rnet; dir(rnet); sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(rnet.__file__).parents[1]).returncode == 0


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    tree = ast.parse(Path(rnet.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(rnet.__all__)
    assert all(getattr(rnet, name) is not None for name in rnet.__all__)
    assert set(rnet.__all__) <= set(dir(rnet))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'atack'"):
        rnet.atack  # type: ignore[attr-defined]  # noqa: B018


def test_options_and_settings_make_components_without_presets() -> None:
    attack = rnet.make_attack("removalnet", layer="2", rho=0.5)
    assert (attack.config.layer, attack.config.rho, attack.config.batch_size) == ("2", 0.5, 128)  # type: ignore[attr-defined]
    assert rnet.make_attack("finetune_last").config.fraction == 0.5  # type: ignore[attr-defined]
    assert rnet.make_defense("tests.plugins.defense:OutputDistance").name == "tests.plugins.defense:OutputDistance"


@pytest.mark.parametrize(
    ("option", "settings", "message"),
    [
        ("removalnett", {}, "did you mean removalnet"),
        ("removalnet", {"alfa": 1}, "did you mean attack.alpha"),
        ("removalnet", {"iterations": "many"}, "attack.iterations=.many. must be a whole number"),
        ("removalnet", {"rho": 2}, "attack.rho=2.0 must be above 0"),
    ],
)
def test_wrong_settings_are_refused_as_on_the_command_line(option: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(rnet.UserError, match=message):
        rnet.make_attack(option, **settings)


def test_tensors_become_a_dataset_of_three_disjoint_parts() -> None:
    dataset = rnet.dataset_of(IMAGES, LABELS, substitute_pool=20, name="mine")
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (28, 20, 12)
    assert (dataset.name, dataset.num_classes, dataset.image_size, dataset.flip) == ("mine", 3, 8, False)
    positions = [part.positions_N for part in (dataset.train, dataset.substitute, dataset.test)]
    assert torch.equal(torch.cat(positions).sort().values, torch.arange(60))
    for part in (dataset.train, dataset.test):
        assert torch.equal(part.labels_N, part.positions_N % 3)
        assert float((part.pixels() - IMAGES[part.positions_N]).abs().max()) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (IMAGES[:, 0], {}, r"shape \(60, 8, 8\); give \(N, C, H, W\)"),
        (2 * IMAGES, {}, r"give pixels in \[0, 1\]"),
        (IMAGES[:50], {}, "50 train images but 60 labels"),
        (IMAGES, {"substitute_pol": 3}, "did you mean dataset.substitute_pool"),
        (IMAGES, {"image_size": -1}, "dataset.image_size=-1 must be 0 or more"),
    ],
)
def test_tensors_that_are_no_dataset_are_refused(images: torch.Tensor, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(rnet.UserError, match=message):
        rnet.dataset_of(images, LABELS, **settings)


def tiny_net(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    return torch.nn.Sequential(*layers).eval()


def test_a_part_of_a_dataset_is_as_good_as_its_images_and_watching_changes_no_bit(tmp_path: Path) -> None:
    dataset, victim = rnet.dataset_of(IMAGES, LABELS, substitute_pool=20), tiny_net(0)
    attack = rnet.make_attack("finetune", iterations=4, batch_size=10)
    by_images = attack(victim, dataset.substitute.fetch(torch.arange(20)))  # type: ignore[operator]
    run = rnet.watch(tmp_path, victim, dataset, layer="1", every=2, quiet=True)
    by_part = attack(victim, dataset.substitute, run=run)  # type: ignore[operator]
    assert all(torch.equal(value, by_part.state_dict()[name]) for name, value in by_images.state_dict().items())
    found = rnet.curves(tmp_path)
    assert found["loss/total"][0] == [0, 2, 3]
    assert found["fidelity/accuracy"][0] == [0, 2, 4]
    assert found["fidelity/agreement"][1][0] == 1
    assert not (tmp_path / "checkpoints").exists()
    attack(victim, dataset.substitute, run=run)  # type: ignore[operator]
    assert rnet.curves(tmp_path)["loss/total"][0] == [0, 2, 3], "the curves begin anew"
    with pytest.raises(rnet.UserError, match="name the folder that an attack wrote curves to"):
        rnet.curves(tmp_path / "elsewhere")


def test_judging_compares_with_independent_models() -> None:
    dataset, victim = rnet.dataset_of(IMAGES, LABELS, substitute_pool=20), tiny_net(0)
    defense = rnet.make_defense("random", num_queries=10)
    suspects = {"copy": tiny_net(0), "other": tiny_net(1)}
    found = rnet.judge(defense, dataset, victim, suspects, [tiny_net(seed) for seed in (2, 3, 4)])
    assert found["copy"].score == 1.0
    assert found["copy"].score > found["other"].score
    assert {name: type(judged.reason) for name, judged in found.items()} == {"copy": str, "other": str}
    with pytest.raises(rnet.UserError, match="give at least one"):
        rnet.judge(defense, dataset, victim, suspects, [])
