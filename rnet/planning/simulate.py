"""The steps of a stage on fake tensors, by the code that the stage itself runs: what is alive when most is.

Shapes: B samples of one process's share of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rnet.attacks.base import Attack, AttackContext
from rnet.attacks.registry import ATTACKS
from rnet.attacks.substitutes import SubstituteAttack
from rnet.config.run import RunConfig
from rnet.data.batches import Batch, evaluation_batch_size
from rnet.data.images import Dataset, Part, TensorSource
from rnet.data.pixels import images_at_once
from rnet.defenses.queries import logits_of, quick_copy, samples_per_chunk
from rnet.engines.averaging import WeightAverage
from rnet.engines.base import Engine
from rnet.engines.plain import PlainEngine
from rnet.models.classifier import Classifier
from rnet.models.zoo import build_model
from rnet.planning.fake import shapes_only
from rnet.planning.live import LiveBytes
from rnet.rewrites.memory_format import use_channels_last
from rnet.training.fidelity import predict
from rnet.training.loop import Run, resolve_device
from rnet.training.victim import prepare_training
from rnet.training.watching import PROBE_IMAGES

PARAMETERS, GRADIENTS, OPTIMIZER = "parameters", "gradients", "optimizer's state"
VICTIM, COPIES = "victim", "frozen copy"
STEPS = 2
"""The optimizer makes its state in the first; the second is like all others."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What one process alone would hold. moments: of each kind of moment, bytes by owner when most is alive.

    largest: bytes of the largest parameter; trained: of all that are trained.
    """

    moments: dict[str, dict[str, int]]
    largest: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of what a process computes: its samples of a batch, and whether parameters are divided, so that the lower level
    runs on the surrogate itself."""

    processes: int = 1
    divided: bool = False


def simulate(stage: str, config: RunConfig, dataset: Dataset, share: Share) -> Simulated:
    """The stage of one of the processes, up to what they divide. dataset: the real one; its images are not read."""
    with shapes_only() as live, live.during("loading"):
        model = _STAGES[stage](config, _without_images(dataset), share, live)
        sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
        del model
    return Simulated(
        moments=live.moments, largest=max(size for size, _ in sizes), trained=sum(size for size, own in sizes if own)
    )


def _train(config: RunConfig, dataset: Dataset, share: Share, live: LiveBytes) -> nn.Module:
    model = _model(config, dataset, live, PARAMETERS)
    if config.model.weights is None:
        run = _PlannedRun.of(config, share, live)
        engine, step, _, _ = prepare_training(run, model, dataset.train, config.train, flip=dataset.flip, seed=0)
        _take_steps(engine, step, live)
    _evaluate(model, dataset, live, "measuring")
    return model


def _attack(config: RunConfig, dataset: Dataset, share: Share, live: LiveBytes) -> nn.Module:
    victim = _model(config, dataset, live, VICTIM).requires_grad_(False)
    _evaluate(victim, dataset, live, "asking the victim")
    method: Attack = ATTACKS.build(_fewer_images(config.attack, dataset))
    if not isinstance(method, SubstituteAttack):
        model = _model(config, dataset, live, PARAMETERS)
        _evaluate(model, dataset, live, "measuring")
        return model

    def suspect(seed: int) -> Classifier:
        known = replace(dataset, num_classes=method.classes(dataset))
        own = replace(config, model=method.architecture(config.model))
        return _model(own, known, live, PARAMETERS)

    context = AttackContext(
        copy_of_victim=partial(_model, config, dataset, live, PARAMETERS), victim_forward=victim, train=config.train,
        default_layer=victim.cut_layer, run=_PlannedRun.of(config, share, live), build=suspect, seed=0,
    )  # fmt: skip
    with live.during("asking the victim"):
        training = method.prepare(dataset, context)
    live.the_rest_belongs(COPIES)
    if config.engine.probe_every and config.engine.victim == "replica":
        with live.during("evasion probes"):
            _probe(victim, dataset)
    _take_steps(training.engine, training.step, live)
    _evaluate(training.engine.unwrapped, dataset, live, "measuring")
    return training.engine.unwrapped


def _fingerprint(config: RunConfig, dataset: Dataset, share: Share, live: LiveBytes) -> nn.Module:
    """A search from images across the victim's decision boundary, as IPGuard's, in the defence's own chunks."""
    victim = _model(config, dataset, live, VICTIM).requires_grad_(False)
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
    suspect = _model(config, dataset, live, PARAMETERS).requires_grad_(False)
    with live.during("asking the suspect"):
        x_NCHW = _pixels(dataset, _queries(config))
        live.belongs("queries", [x_NCHW])
        logits_of(suspect, x_NCHW)
    return suspect


_STAGES: dict[str, Any] = {"train": _train, "attack": _attack, "fingerprint": _fingerprint, "verify": _verify}


def _model(config: RunConfig, dataset: Dataset, live: LiveBytes, owner: str) -> Classifier:
    model = build_model(config.model, **dataset.blueprint, seed=0)
    device = resolve_device(config.engine.device)
    if device.type != "cpu":
        model.to(device)
    use_channels_last(model)
    live.belongs(owner, [*model.parameters(), *model.buffers()])
    return model.eval()


def _take_steps(engine: Engine, step: Any, live: LiveBytes) -> None:
    optimizer = engine._optimizer
    for _, parameter in engine._trained():
        parameter.register_post_accumulate_grad_hook(lambda grown: live.belongs(GRADIENTS, [grown.grad]))
    with live.during("between phases"):
        for t in range(STEPS):
            step(t)
            states = [value for state in optimizer.state.values() for value in state.values()]
            live.belongs(OPTIMIZER, [value for value in states if isinstance(value, Tensor) and value.dim()])


def _probe(victim: Classifier, dataset: Dataset) -> None:
    """What rnet/stages/probes.py asks of the victim."""
    with torch.no_grad():
        victim(_pixels(dataset, 2 * PROBE_IMAGES))
    leaf_NCHW = _pixels(dataset, images_at_once(2 * PROBE_IMAGES, dataset.image_size)).requires_grad_(True)
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


class _PlannedEngine(PlainEngine):
    """Ordinary training, of which the count knows what it is doing."""

    def __init__(self, *args: Any, live: LiveBytes, divided: bool, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._divided = divided
        self.phases: Any = _Phases(live)

    @property
    def whole(self) -> bool:
        return not self._divided


class _Phases:
    """What a step says that it is doing."""

    def __init__(self, live: LiveBytes) -> None:
        self._live = live

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._live.during(name.replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class _PlannedRun(Run):
    """A run of which no step is more than planned."""

    live: Any
    share: Share

    @classmethod
    def of(cls, config: RunConfig, share: Share, live: LiveBytes) -> _PlannedRun:
        """For one of the processes."""
        return cls(
            label="plan", device=resolve_device(config.engine.device), config=config.engine,
            precision=config.precision, live=live, share=share, quiet=True,
        )  # fmt: skip

    def batches(self, part: Part, batch_size: int, seed: int, **how: Any) -> Any:
        """Batches of fake pixels."""
        size, local = part.source.fetch(torch.arange(1)).shape[1:], batch_size // self.share.processes

        def batch(step: int) -> Batch:
            ids_B = torch.arange(local)
            return Batch(
                indices_B=ids_B % len(part), x_BCHW=torch.empty(local, *size, device=self.device),
                labels_B=torch.zeros(local, dtype=torch.int64, device=self.device),
                flipped_B=torch.zeros(local, dtype=torch.bool, device=self.device), stream_ids_B=ids_B,
            )  # fmt: skip

        return batch

    def engine(
        self, model: nn.Module, optimizer: Any, scheduler: Any, *, clip_norm: float | None = None, pieces: int = 1,
        average: WeightAverage | None = None,
    ) -> Engine:  # fmt: skip
        """One process's, with the settings that change what it keeps."""
        model.to(self.device)
        use_channels_last(model)
        return _PlannedEngine(
            model, optimizer, scheduler, device=self.device, precision=self.precision, clip_norm=clip_norm,
            accumulate=self.config.accumulate * pieces, average=average,
            activation_checkpointing=self.config.activation_checkpointing, compiled=False, cuda_graph=False,
            quicken=self.config.quicken, live=self.live, divided=self.share.divided,
        )  # fmt: skip
