"""Training a classifier from scratch on labelled images: the victim, and the independent models it is compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rnet.data.batches import TrainingBatches
from rnet.data.images import Part
from rnet.draws import derive_seed
from rnet.engines.averaging import WeightAverage
from rnet.engines.base import Engine
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.training.config import TrainConfig
from rnet.training.loop import Run, Step
from rnet.training.mixtures import mixed_cross_entropy, mixture_of
from rnet.training.recipes import optimizer_of, views_of


def train_classifier(run: Run, model: Classifier, part: Part, config: TrainConfig, *, flip: bool, seed: int) -> int:
    """Trains the model in place on the part's own labels, and says in how many steps.

    seed drives order, augmentation and dropout.
    """
    engine, step, num_steps, batches = prepare_training(run, model, part, config, flip=flip, seed=seed)
    run.optimise(engine, num_steps=num_steps, step=step, seed=derive_seed(seed, "global"), batches=batches)
    return num_steps


def prepare_training(
    run: Run, model: Classifier, part: Part, config: TrainConfig, *, flip: bool, seed: int
) -> tuple[Engine, Step, int, TrainingBatches]:
    """All but the steps: the engine, step(t) which takes the t-th step, how many there are, and their batches."""
    if len(part) == 0:
        raise UserError("the training part is empty; lower dataset.substitute_pool or raise dataset.train_size")
    num_steps = max(1, round(config.epochs * len(part) / config.batch_size))
    batches = run.batches(
        part, config.batch_size, derive_seed(seed, "batches"), flip=flip, crop_padding=config.crop_padding,
        views=views_of(config), pieces=config.accumulate,
    )  # fmt: skip
    optimizer, scheduler = optimizer_of(config, model, num_steps, len(part))
    mixture = mixture_of(config, seed)
    average = None if config.ema is None else WeightAverage(config.ema, every=config.ema_steps)
    engine = run.engine(
        model, optimizer, scheduler, clip_norm=config.clip_norm, pieces=config.accumulate, average=average
    )

    def step(t: int) -> dict[str, Tensor]:
        with engine.phases("data"):
            batch = batches(t)
            x_BCHW, mixed = batch.x_BCHW, None
            if mixture is not None:
                x_BCHW, *mixed = mixture.mix(batch, t)
        model.train()

        def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
            logits_BK, y_B = engine.forward(x_BCHW[rows]).float(), batch.labels_B[rows]
            accuracy = {"fidelity/accuracy_batch": (logits_BK.detach().argmax(1) == y_B).float().mean()}
            smoothing = config.label_smoothing
            if mixed is None:
                return F.cross_entropy(logits_BK, y_B, label_smoothing=smoothing), accuracy
            other_B, share_B = (values[rows] for values in mixed)
            return mixed_cross_entropy(logits_BK, y_B, other_B, share_B, label_smoothing=smoothing), accuracy

        return engine.descend(loss, len(batch.labels_B))

    return engine, step, num_steps, batches
