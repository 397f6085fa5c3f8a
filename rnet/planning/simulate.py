"""The steps of a stage on fake tensors, by the code that the stage itself runs: what is alive when most is.

Shapes: B samples of one process's share of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from rnet.attacks.base import Attack, AttackContext
from rnet.attacks.independent.attack import Independent
from rnet.attacks.registry import ATTACKS
from rnet.attacks.substitutes import SubstituteAttack
from rnet.config.run import RunConfig
from rnet.data.batches import evaluation_batch_size
from rnet.data.images import Dataset, Part, TensorSource
from rnet.data.pixels import images_at_once
from rnet.defenses.queries import logits_of, quick_copy, samples_per_chunk
from rnet.engines.base import Engine
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.zoo import build_model
from rnet.planning.fake import shapes_only
from rnet.planning.live import LiveBytes
from rnet.planning.planned_run import PlannedRun, Share, take_steps
from rnet.rewrites.memory_format import use_channels_last
from rnet.training.fidelity import predict
from rnet.training.loop import Run, Step, resolve_device
from rnet.training.victim import prepare_training
from rnet.training.watching import PROBE_IMAGES

PARAMETERS, VICTIM, COPIES = "parameters", "victim", "frozen copy"


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What one process alone would hold. moments: of each kind of moment, bytes by owner when most is alive.

    largest: bytes of the largest parameter; trained: of all that are trained.
    """

    moments: dict[str, dict[str, int]]
    largest: int
    trained: int


def simulate(stage: str, config: RunConfig, dataset: Dataset, share: Share) -> Simulated:
    """The stage of one of the processes, up to what they divide. dataset: the real one; its images are not read.

    Raises UserError for an attack whose steps depend on more than shapes.
    """
    with shapes_only() as live, live.during("loading"):
        try:
            model = _STAGES[stage](config, _without_images(dataset), share, live)
        except (DataDependentOutputException, DynamicOutputShapeException):
            what = f"attack={config.attack.name}" if stage == "attack" else f"stage={stage}"
            raise UserError(
                f"the memory of {what} cannot be planned, as what it does depends on the images; "
                f"plan attack=knockoff attack.strategy=random in its place"
            ) from None
        sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
        del model
    return Simulated(
        moments=live.moments, largest=max(size for size, _ in sizes), trained=sum(size for size, own in sizes if own)
    )


def _train(config: RunConfig, dataset: Dataset, share: Share, live: LiveBytes) -> nn.Module:
    model = _model(config, dataset, live, PARAMETERS, loaded=config.model.weights is not None)
    if config.model.weights is None:
        take_steps(*_as_victim(PlannedRun.of(config, share, live), model, config, dataset))
    _evaluate(model, dataset, live, "measuring")
    return model


def _as_victim(run: Run, model: Classifier, config: RunConfig, dataset: Dataset) -> tuple[Engine, Step]:
    engine, step, _, _ = prepare_training(run, model, dataset.train, config.train, flip=dataset.flip, seed=0)
    return engine, step


def _attack(config: RunConfig, dataset: Dataset, share: Share, live: LiveBytes) -> nn.Module:
    victim = _model(config, dataset, live, VICTIM, loaded=True).requires_grad_(False)
    _evaluate(victim, dataset, live, "asking the victim")
    method: Attack = ATTACKS.build(_fewer_images(config.attack, dataset))
    if not isinstance(method, SubstituteAttack | Independent):
        model = _model(config, dataset, live, PARAMETERS, loaded=True)
        _evaluate(model, dataset, live, "measuring")
        return model

    def suspect(seed: int) -> Classifier:
        known = replace(dataset, num_classes=method.classes(dataset))
        own = replace(config, model=method.architecture(config.model))
        return _model(own, known, live, PARAMETERS)

    run = PlannedRun.of(config, share, live)
    if isinstance(method, Independent):
        model = suspect(0)
        engine, step = _as_victim(run, model, config, dataset)
    else:
        context = AttackContext(
            copy_of_victim=partial(_model, config, dataset, live, PARAMETERS, loaded=True), victim_forward=victim,
            train=config.train, default_layer=victim.cut_layer, run=run, build=suspect, seed=0,
        )  # fmt: skip
        with live.during("asking the victim"):
            training = method.prepare(dataset, context)
        live.the_rest_belongs(COPIES)
        engine, step = training.engine, training.step
    if config.engine.probe_every and config.engine.victim == "replica":
        with live.during("evasion probes"):
            _probe(victim, dataset)
    take_steps(engine, step)
    _evaluate(engine.unwrapped, dataset, live, "measuring")
    return engine.unwrapped


def _fingerprint(config: RunConfig, dataset: Dataset, share: Share, live: LiveBytes) -> nn.Module:
    """A search from images across the victim's decision boundary, as IPGuard's, in the defence's own chunks."""
    victim = _model(config, dataset, live, VICTIM, loaded=True).requires_grad_(False)
    count = _queries(config)
    with live.during("asking the victim"):
        x_NCHW = _pixels(dataset, count)
        live.belongs("queries", [x_NCHW])
        logits_of(victim, x_NCHW)
    searched = quick_copy(victim)
    live.the_rest_belongs(COPIES)
    with live.during("the search"):
        chunk = samples_per_chunk(victim, x_NCHW, getattr(config.defense, "memory_mb", 512))
        x_NCHW = _pixels(dataset, min(count, chunk))
        kept = [x_NCHW.clone() for _ in range(4)]  # where queries are, and two moments of Adam, before and after
        leaf_NCHW = x_NCHW.detach().requires_grad_(True)
        torch.autograd.grad(searched(leaf_NCHW).float().sum(), leaf_NCHW)
        del kept
    return victim


def _verify(config: RunConfig, dataset: Dataset, share: Share, live: LiveBytes) -> nn.Module:
    suspect = _model(config, dataset, live, PARAMETERS, loaded=True).requires_grad_(False)
    with live.during("asking the suspect"):
        x_NCHW = _pixels(dataset, _queries(config))
        live.belongs("queries", [x_NCHW])
        logits_of(suspect, x_NCHW)
    return suspect


_STAGES: dict[str, Any] = {"train": _train, "attack": _attack, "fingerprint": _fingerprint, "verify": _verify}


def _model(config: RunConfig, dataset: Dataset, live: LiveBytes, owner: str, *, loaded: bool = False) -> Classifier:
    """loaded: from a file, whose weights are in the host's memory beside the network's until they are in it."""
    model = build_model(config.model, **dataset.blueprint, seed=0)
    device = resolve_device(config.engine.device)
    if loaded and device.type == "cpu":
        with live.during("loading a network"):
            live.belongs("weights read", [value.clone() for value in model.export_state().values()])
    if device.type != "cpu":
        model.to(device)
    use_channels_last(model)
    live.belongs(owner, [*model.parameters(), *model.buffers()])
    return model.eval()


def _probe(victim: Classifier, dataset: Dataset) -> None:
    """What rnet/stages/probes.py asks of the victim."""
    with torch.no_grad():
        victim(_pixels(dataset, 2 * PROBE_IMAGES))
    leaf_NCHW = _pixels(dataset, images_at_once(dataset.image_size, 2 * PROBE_IMAGES)).requires_grad_(True)
    torch.autograd.grad(victim(leaf_NCHW[:PROBE_IMAGES]).float().sum(), leaf_NCHW)


def _evaluate(model: nn.Module, dataset: Dataset, live: LiveBytes, moment: str) -> None:
    with live.during(moment):
        predict(model, dataset.test)


def _queries(config: RunConfig) -> int:
    return int(getattr(config.defense, "num_queries", 100))


def _pixels(dataset: Dataset, count: int) -> Tensor:
    return torch.empty(count, dataset.channels, dataset.image_size, dataset.image_size)


def _without_images(dataset: Dataset) -> Dataset:
    """The data set with as many images as are looked at together, in parts without memory."""
    at_once = evaluation_batch_size(dataset.train)

    def part(of: Part) -> Part:
        count = max(1, min(len(of), at_once))
        shape = (count, dataset.channels, dataset.image_size, dataset.image_size)
        source = TensorSource(torch.empty(shape, dtype=torch.uint8, device="meta"))
        return Part(source=source, positions_N=torch.arange(count), labels_N=torch.zeros(count, dtype=torch.int64))

    return replace(dataset, train=part(dataset.train), substitute=part(dataset.substitute), test=part(dataset.test))


def _fewer_images(attack: Any, dataset: Dataset) -> Any:
    fewest = min(getattr(attack, "substitute_size", 0) or 0, len(dataset.substitute))
    return replace(attack, substitute_size=fewest) if fewest else attack
