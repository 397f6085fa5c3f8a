"""One mathematics on any number of processes: every engine ends with the parameters of the plain one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rnet.training.signals import Preempted
from tests.engines.cells import BASELINES, train_cell
from tests.parallel.multiprocess import run_ranks

ZERO = [f"zero{stage}" for stage in range(4)]
TABLE = [
    f"{task}-{kind}-{engine}"
    for task in ("train", "removalnet")
    for kind in ("norm", "flat")
    for engine in ("ddp", *ZERO)
]
FURTHER = [
    "removalnet-vit-ddp", "removalnet-vit-zero3", "train-vit-zero3", "finetune-norm-ddp", "finetune-norm-zero3",
    "removalnet-flat-ddp-accumulate", "removalnet-flat-zero2-accumulate", "train-norm-ddp-clip",
    "train-norm-zero2-clip", "removalnet-norm-ddp-cosine", "removalnet-norm-ddp-sharded", "removalnet-norm-offload",
    "train-norm-ddp-checkpointing", "removalnet-vit-zero3-checkpointing",
    *(f"{task}-{'flat' if task in ('knockoff', 'adaptive') else 'norm'}-ddp" for task in BASELINES),
    "labelled-norm-zero2", "prune-norm-zero1", "prune-norm-zero2",
    "prune-norm-zero3", "features-norm-zero3", "adaptive-flat-zero3", "distill-norm-ddp-sharded",
    "adversarial-norm-zero2", "adversarial-norm-zero3", "adversarial-vit-zero3", "cropped-norm-ddp-sharded",
    "train-norm-ddp-ema-adamw", "train-norm-zero2-ema-adamw", "train-vit-zero3-ema", "train-flat-ddp-pieces",
    "removalnet-wide-ddp", "removalnet-wide-zero2", "removalnet-attention-ddp", "removalnet-attention-zero3",
]  # fmt: skip
BF16 = ["removalnet-norm-ddp-bf16", "train-norm-ddp-bf16", "removalnet-norm-zero3-bf16", "train-flat-zero2-bf16"]
# Cells that go on where a plain engine stopped, and cells that stop where a plain engine goes on.
RESUMED = {
    "removalnet-norm-ddp-resumed": "a1", "train-norm-zero1-resumed": "a2", "removalnet-flat-zero3-resumed": "a3",
    "train-norm-zero3-ema-adamw-resumed": "a4",
}  # fmt: skip
STOPPED = {"removalnet-norm-ddp-stop": "b1", "train-norm-zero2-stop": "b2", "removalnet-flat-zero3-stop": "b3",
           "train-norm-zero1-ema-adamw-stop": "b4"}  # fmt: skip
PROBED = ["removalnet-norm-ddp", "removalnet-norm-zero3", "removalnet-attention-zero3"]
SAME_MATHEMATICS = ("accumulate", "pieces", "checkpointing", "sharded", "stop", "resumed")

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]


@cache
def plain(cell: str) -> dict[str, Tensor]:
    """What the cell's plain counterpart ends with, in this process."""
    name = plain_name(cell)
    return train_cell(name, _folder / name)[0]


def plain_name(cell: str) -> str:
    """The cell's plain counterpart, undisturbed."""
    task, kind, _, *extras = cell.split("-")
    return "-".join([task, kind, "plain", *[extra for extra in extras if extra not in SAME_MATHEMATICS]])


_folder = Path()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two processes made of all cells; made once, also where tests run side by side."""
    global _folder
    _folder = tmp_path_factory.mktemp("plain")
    folder = tmp_path_factory.mktemp("cells")
    for resumed, kept in RESUMED.items():
        with pytest.raises(Preempted):
            train_cell(f"{plain_name(resumed)}-stop", folder / kept)
    ends = run_ranks(
        "plain", "-m", "tests.engines.cells", folder, *TABLE, *FURTHER, *BF16,
        *(f"{cell}-probed" for cell in PROBED),
        *(f"{cell}:{kept}" for cell, kept in (RESUMED | STOPPED).items()), timeout=420,
    )  # fmt: skip
    assert all(end.returncode == 0 for end in ends), "\n".join(end.stderr[-3000:] for end in ends)
    return folder


def loaded(folder: Path, cell: str) -> dict[str, Any]:
    found = torch.load(folder / f"{cell}.pt", weights_only=True)
    assert found["processes"] == 2
    return found


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative l2 difference of a tensor, and its name."""
    assert found.keys() == expected.keys()
    return max(
        (float((found[name].double() - value.double()).norm() / value.double().norm().clamp_min(1e-6)), name)
        for name, value in expected.items()
    )


@pytest.mark.parametrize("cell", [*TABLE, *FURTHER, *RESUMED])
def test_two_processes_end_with_the_parameters_of_one(cell: str, trained: Path) -> None:
    """fp32, all tensors within 1e-5, so also within the 1e-4 that a few flipped signs of the latent level may cost."""
    difference, name = worst(loaded(trained, cell)["state"], plain(cell))
    assert difference < 1e-5, name


@pytest.mark.parametrize("cell", BF16)
def test_two_processes_in_bf16_stay_near_one(cell: str, trained: Path) -> None:
    """Within 5 %: bfloat16 keeps 8 bits, batches of another size are rounded differently, and signs of it flip."""
    found, expected = loaded(trained, cell)["state"], plain(cell)
    moved = torch.cat([(found[name].double() - value.double()).flatten() for name, value in expected.items()])
    whole = torch.cat([value.double().flatten() for value in expected.values()])
    assert moved.norm() / whole.norm() < 0.05


@pytest.mark.parametrize(("cell", "kept"), STOPPED.items())
def test_one_process_goes_on_where_two_stopped(cell: str, kept: str, trained: Path) -> None:
    assert list((trained / kept / "checkpoints").glob("step-3.pt")), "a signal to the second process stops both"
    state, _ = train_cell(plain_name(cell), trained / kept)
    assert worst(state, plain(cell))[0] < 1e-5


def test_four_processes_that_stopped_end_with_the_bits_of_four_that_did_not(tmp_path: Path) -> None:
    """A sum of two numbers is the same in any order; one of four is not, so their order must not change on resuming."""
    cells = ["train-norm-ddp", "train-norm-ddp-stop:kept", "train-norm-ddp-resumed:kept"]
    ends = run_ranks("plain", "-m", "tests.engines.cells", tmp_path, *cells, ranks=4, timeout=300)
    assert all(end.returncode == 0 for end in ends), "\n".join(end.stderr[-3000:] for end in ends)
    once, again = (torch.load(tmp_path / f"{cells[n].partition(':')[0]}.pt")["state"] for n in (0, 2))
    assert [name for name in once if not torch.equal(once[name], again[name])] == []


@pytest.mark.parametrize("cell", [name for name in (*TABLE, *FURTHER) if "zero3" in name])
def test_zero3_really_divides_the_parameters(cell: str, trained: Path) -> None:
    seen = loaded(trained, cell)["seen"]
    assert 0.45 < seen["held_bytes"] / seen["whole_bytes"] < 0.6


@pytest.mark.parametrize("cell", PROBED)
def test_evasion_probes_change_no_bit(cell: str, trained: Path) -> None:
    without, probed = loaded(trained, cell), loaded(trained, f"{cell}-probed")
    seen = {"evasion/matching_rate", "evasion/ddv", "evasion/agreement", "latent/to_victim"}
    assert seen <= probed["seen"].keys() - without["seen"].keys()
    assert all(torch.equal(value, probed["state"][name]) for name, value in without["state"].items())


@pytest.mark.parametrize("kind", ["norm", "flat"])
def test_the_steps_change_what_they_should(kind: str, trained: Path) -> None:
    """Equal parameters mean something only if training moved them."""
    from tests.engines.cells import network

    start = network(kind, seed=3)[0].state_dict()
    for task in ("train", "removalnet"):
        assert worst(plain(f"{task}-{kind}-plain"), start)[0] > 1e-3
