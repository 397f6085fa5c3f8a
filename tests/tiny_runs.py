"""The smallest configuration that goes through every stage: 8-pixel digits, a network of width 4, a few steps."""

from __future__ import annotations

from rnet.config.run import RunConfig, load_config

TINY = [
    "dataset=digits", "dataset.image_size=8", "dataset.train_size=200", "dataset.test_size=60",
    "dataset.substitute_pool=64", "model=resnet8", "model.width=4", "train.epochs=2", "train.batch_size=50",
    "engine.device=cpu", "engine.eval_every=10", "engine.log_every=2",
]  # fmt: skip
TINY_REMOVALNET = [
    "attack=removalnet", "attack.substitute_size=48", "attack.iterations=6", "attack.batch_size=16",
    "attack.num_poison_steps=2", "attack.rho=0.5",
]  # fmt: skip
TINY_FINETUNE = ["attack=finetune", "attack.substitute_size=48", "attack.iterations=4", "attack.batch_size=16"]
TINY_IPGUARD = ["defense=ipguard", "defense.num_queries=8", "defense.steps=20"]


def tiny(*overrides: str) -> RunConfig:
    """The tiny run with overrides."""
    return load_config([*TINY, *overrides])
