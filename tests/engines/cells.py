"""The cells of the equivalence table: small victims and attacks, trained for a few steps by any engine.

Run as a program by each of several processes (`python -m tests.engines.cells FOLDER CELL...`), it trains the cells and
the first process saves what came out; imported, it trains them in this process. A cell is a name such as
`removalnet-norm-zero3`: task, network, engine, and further settings; `stop` among them ends it half way, as a signal
to one process does, and `probed` looks at it on the way. `CELL:NAME` keeps its checkpoints under NAME, so that another
cell can go on with them.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torchvision.models import VisionTransformer

from rnet.attacks.base import AttackContext
from rnet.attacks.finetune.attack import FineTune
from rnet.attacks.finetune.config import FineTuneConfig
from rnet.attacks.registry import ATTACKS
from rnet.attacks.removalnet.attack import RemovalNet
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.command.guarded import leave_at_once
from rnet.config.run import load_config
from rnet.data.loading import load_dataset
from rnet.engines.base import Engine
from rnet.engines.config import EngineConfig
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.stem import fit_channels
from rnet.parallel.collectives import gather_rows, rank, world_size
from rnet.parallel.launch import launched
from rnet.parallel.processes import process_group
from rnet.rewrites.attention import project_in_place
from rnet.stages import stages
from rnet.stages.probes import make_probe
from rnet.training.config import TrainConfig
from rnet.training.loop import Run
from rnet.training.signals import Preempted
from rnet.training.victim import train_classifier
from rnet.training.watching import Probe, Seen
from tests.attacks.table import TABLE
from tests.tiny_runs import tiny

STEPS = 6
ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"name": "plain"},
    "ddp": {"name": "ddp"},
    **{f"zero{stage}": {"name": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "offload": {"name": "deepspeed", "zero_stage": 2, "offload": True},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "accumulate": {"accumulate": 2},
    "checkpointing": {"activation_checkpointing": True},
    "sharded": {"victim": "zero3"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "ema": {"ema": 0.6, "mixup": 0.2, "cutmix": 1.0},
    "adamw": {"optimizer": "adamw"},
    "pieces": {"accumulate": 2},
}
"""What a cell of the task train changes of its recipe."""
STOP_AT = 3
BASELINES = {
    "labelled": "finetune_labelled", "retrain": "retrain_layers", "prune": "prune", "distill": "distill",
    "features": "feature_distill", "knockoff": "knockoff", "adaptive": "knockoff_adaptive",
    "adversarial": "adversarial_training", "cropped": "distill_cropped",
}  # fmt: skip
"""Task -> the case of tests/attacks/table.py that it runs."""


class WithoutNorm(nn.Module):
    """Convolutions and no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 32, 3, padding=1))
        self.layer2 = nn.Sequential(nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.Tanh())
        self.fc = nn.Linear(64 * 16, 10)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x_BCHW)).flatten(1))


class Wide(nn.Module):
    """Convolutions wide enough to be rewritten in a frozen copy, on 4x4 and 2x2 maps, and no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 128, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2))
        convolutions = (nn.Conv2d(128, 256, 3, stride=2, padding=1), nn.Conv2d(256, 256, 3, padding=1))
        self.layer2 = nn.Sequential(convolutions[0], nn.Tanh(), convolutions[1], nn.Tanh())
        self.fc = nn.Linear(256 * 4, 10)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x_BCHW)).flatten(1))


def network(name: str, seed: int) -> tuple[Classifier, str]:
    """The network in eval mode and its cut layer."""
    dataset = load_dataset(tiny().dataset)
    torch.manual_seed(seed)
    if name == "norm":
        model, layer = stages.build(ModelConfig(width=16), dataset, seed), "layer1"
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    elif name in ("flat", "wide"):
        backbone = WithoutNorm() if name == "flat" else Wide()
        model, layer = Classifier(backbone, dataset.mean_C, dataset.std_C), "layer1"
    elif name == "attention":
        vit = VisionTransformer(8, 2, num_layers=2, num_heads=2, hidden_dim=48, mlp_dim=96, num_classes=10)
        fit_channels(vit, 1)
        nn.init.normal_(vit.heads.head.weight, std=0.1)  # zeros would hide the tail from the latent level
        assert project_in_place(vit) == 2
        model, layer = Classifier(vit, dataset.mean_C, dataset.std_C), "encoder.layers.encoder_layer_0"
    else:
        vit = timm.create_model(
            "vit_tiny_patch16_224", img_size=8, patch_size=2, embed_dim=48, depth=2, num_heads=2, num_classes=10,
            in_chans=1,
        )  # fmt: skip
        model, layer = Classifier(vit, dataset.mean_C, dataset.std_C), "blocks.0"
    return model.eval(), layer


def train_cell(cell: str, folder: Path, **changes: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What the cell's task makes of its network, and what was seen on the way; called by all processes."""
    task, kind, engine_name, *extras = cell.split("-")
    settings = ENGINES[engine_name] | {
        key: v for extra in extras if extra in SETTINGS for key, v in SETTINGS[extra].items()
    }
    dataset = load_dataset(tiny().dataset)
    seen: dict[str, float] = {}

    class Watched(Run):
        """Looks at the engine between steps."""

        def engine(self, *args: Any, **kwargs: Any) -> Engine:
            engine = super().engine(*args, **kwargs)
            if "stop" in extras:
                _signal_after(engine, STOP_AT)
            if hasattr(engine, "held_bytes"):
                seen["held_bytes"] = engine.held_bytes()
            seen["whole_bytes"] = sum(4 * getattr(p, "ds_numel", p.numel()) for p in engine.unwrapped.parameters())
            return engine

    run = Watched(
        folder=folder, label=cell, config=EngineConfig(**{"device": "cpu", "log_every": 1, **settings, **changes}),
        device=torch.device("cpu"), precision="bf16" if "bf16" in extras else "fp32", identity="cell",
        measure=lambda model: {}, on_checkpoint=lambda step, total: None, quiet=True,
    )  # fmt: skip
    if "probed" in extras:
        frozen, cut = network(kind, seed=3)
        probe = make_probe(frozen.requires_grad_(False), dataset.test, cut, torch.device("cpu"))
        run = replace(run, probe=seeing(probe, seen), config=replace(run.config, probe_every=2))
    clip_norm = 0.5 if "clip" in extras else None
    model, layer = network(kind, seed=3)
    if task == "train":
        recipe = {key: value for extra in extras for key, value in RECIPES.get(extra, {}).items()}
        common = {"epochs": 1, "batch_size": 32, "learning_rate": 0.02, "clip_norm": clip_norm, "crop_padding": 1}
        config = TrainConfig(**common | recipe)
        train_classifier(run, model, dataset.train.subset(torch.arange(32 * STEPS)), config, flip=True, seed=5)
    else:
        model.requires_grad_(False)
        victim_forward = model
        if "sharded" in extras:
            from rnet.engines.deepspeed import sharded_inference

            victim_forward = sharded_inference(network(kind, seed=3)[0].requires_grad_(False), torch.device("cpu"))
        context = AttackContext(
            copy_of_victim=lambda: copy.deepcopy(model), victim_forward=victim_forward, train=TrainConfig(),
            default_layer=layer, run=run, seed=1,
            build=lambda seed: network(kind, seed)[0],
        )  # fmt: skip
        common: dict[str, Any] = {"seed": 1, "substitute_size": 48, "iterations": STEPS, "batch_size": 16}
        if task == "finetune":
            attack: Any = FineTune(FineTuneConfig(**common, fraction=0.5, clip_norm=clip_norm))
        elif task in BASELINES:
            attack = ATTACKS.build(load_config([*TABLE[BASELINES[task]], "attack.batch_size=16"]).attack)
        else:
            distance = "cosine" if "cosine" in extras else "l2"
            attack = RemovalNet(
                RemovalNetConfig(**common, num_poison_steps=4, rho=0.3, clip_norm=clip_norm, distance=distance)
            )
        model = attack.run(dataset, context).model
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name, value in state.items():
        copies = gather_rows(value.reshape(1, -1))
        assert (copies == copies[:1]).all(), f"{cell}: {name} differs between processes"
    assert all(type(p) is nn.Parameter for p in model.parameters()), "the engine left its own parameters behind"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()), "the engine left hooks behind"
    return state, seen


def seeing(probe: Probe, seen: dict[str, float]) -> Probe:
    """The probe, which also keeps the last numbers it found in `seen`."""

    def look(model: nn.Module) -> Seen:
        found = probe(model)
        seen.update(found.scalars)
        return found

    return look


def _signal_after(engine: Engine, steps: int) -> None:
    """The last process gets SIGUSR2 in that step."""
    descend, done = engine.descend, 0

    def counted(*args: Any) -> Any:
        nonlocal done
        done += 1
        if done == steps and engine.rank + 1 == engine.world_size:
            os.kill(os.getpid(), signal.SIGUSR2)
        return descend(*args)

    engine.descend = counted  # type: ignore[method-assign]


def _refuse(*_: Any) -> None:
    """In place of what torch unpickles with: neither rnet, nor torch or DeepSpeed on its behalf, may need it."""
    raise AssertionError("a rank unpickles what another one sent")


def main() -> None:
    """Trains the named cells with the processes that were started."""
    folder, cells = Path(sys.argv[1]), sys.argv[2:]
    distributed_c10d._tensor_to_object = _refuse  # type: ignore[assignment]
    with process_group(launched(), "cpu"):
        for cell in cells:
            name, _, kept = cell.partition(":")
            try:
                state, seen = train_cell(name, folder / (kept or name))
            except Preempted:
                continue
            if rank() == 0:
                torch.save({"state": state, "seen": seen, "processes": world_size()}, folder / f"{name}.pt")
    leave_at_once(0)


if __name__ == "__main__":
    main()
