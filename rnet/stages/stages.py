"""The four stages as functions of (configuration, store): what a notebook, the command line or a cluster task runs.

    train -> attack -> verify
    train -> fingerprint -> verify

Each returns its finished folder. Everything a user can get wrong is checked before a parent is built or a folder is
made; parents that are missing are built; what is finished is never computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from rnet.attacks.base import Attack, AttackContext
from rnet.attacks.registry import ATTACKS
from rnet.config.run import RunConfig
from rnet.data.config import DatasetConfig
from rnet.data.images import Dataset
from rnet.data.registry import load_dataset
from rnet.defenses.base import Defense
from rnet.defenses.fingerprint_file import load_fingerprint, save_fingerprint
from rnet.defenses.registry import DEFENSES
from rnet.draws import derive_seed
from rnet.engines.choice import check_batch, check_engine, resolve_engine
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.registry import build_model, default_cut_layer
from rnet.models.weights import load_weights
from rnet.parallel.collectives import rank, world_size
from rnet.parallel.processes import launched
from rnet.rewrites.memory_format import use_channels_last
from rnet.stages.documents import (
    attack_document,
    fingerprint_document,
    hyperparameters,
    train_document,
    verify_document,
)
from rnet.stages.store import StageFolder, Store, ensure
from rnet.storage.files import write_atomic
from rnet.training.fidelity import fidelity, measure_on, predict
from rnet.training.loop import Run, resolve_device
from rnet.training.victim import train_classifier


def train(config: RunConfig, store: Store) -> StageFolder:
    """The victim: trained on the dataset's training part, or imported from model.weights."""

    def compute(folder: StageFolder) -> dict[str, Any]:
        dataset = _dataset(config.dataset)
        run = _run(config, folder, f"train {config.model.name}", dataset)
        seed = derive_seed(config.train.seed or 0, "victim")
        model = build(config.model, dataset, derive_seed(seed, "model"))
        if config.model.weights:
            model.load_exported(load_weights(Path(config.model.weights)))
        if config.model.weights:
            model.to(run.device)
        else:
            train_classifier(run, model, dataset.train, config.train, flip=dataset.flip, seed=seed)
        save_model(folder, model)
        found = fidelity(dataset.test.labels_N, predict(model, dataset.test))
        return {**found, "training_samples": len(dataset.train), "test_samples": len(dataset.test)}

    if (folder := store.folder(train_document(config))).result() is not None:
        return folder
    model = _check_model(config)
    if not config.model.weights:
        check_batch(config.engine, "train.batch_size", config.train.batch_size, model, launched())
    return ensure(store, train_document(config), compute)


def attack(config: RunConfig, store: Store) -> StageFolder:
    """A suspect: what the attack makes of the victim, with its fidelity on the test part."""
    method: Attack = ATTACKS.build(config.attack)
    default_layer = default_cut_layer(config.model)

    def compute(folder: StageFolder) -> dict[str, Any]:
        dataset = _dataset(config.dataset)
        device = resolve_device(config.engine.device)
        victim_forward = frozen_victim(config, load_model(config, victim_folder), device)
        victim_N = predict(victim_forward, dataset.test)
        run = _run(config, folder, f"attack {config.attack.name}", dataset, victim_N)
        context = AttackContext(
            copy_of_victim=lambda: load_model(config, victim_folder), victim_forward=victim_forward,
            train=config.train, default_layer=default_layer, run=run,
            build=lambda seed: build(config.model, dataset, seed), seed=getattr(config.attack, "seed", 0) or 0,
        )  # fmt: skip
        suspect = method.run(dataset, context)
        save_model(folder, suspect.model)
        found = fidelity(dataset.test.labels_N, predict(suspect.model, dataset.test), victim_N)
        return {**found, "derived": suspect.derived, "cost": suspect.cost}

    folder = store.folder(attack_document(config))
    if folder.result() is not None:
        return folder
    check_attack(config)
    victim_folder = train(config, store)
    return ensure(store, attack_document(config), compute)


def fingerprint(config: RunConfig, store: Store) -> StageFolder:
    """The victim's fingerprint under the defence: made once, reused for every suspect."""
    defense: Defense = DEFENSES.build(config.defense)

    def compute(folder: StageFolder) -> dict[str, Any]:
        dataset = _dataset(config.dataset)
        victim = load_model(config, victim_folder).to(resolve_device(config.engine.device))
        made = defense.extract(victim, dataset, seed=derive_seed(config.seed, "fingerprint"))
        if rank() == 0:
            save_fingerprint(folder.path, made, victim_id=victim_folder.id)
        return {"metadata": made.metadata}

    _check_model(config)
    victim_folder = train(config, store)
    return ensure(store, fingerprint_document(config), compute)


def verify(config: RunConfig, store: Store) -> StageFolder:
    """The defence's scores for the suspect, named defence/metric."""
    defense: Defense = DEFENSES.build(config.defense)

    def compute(folder: StageFolder) -> dict[str, Any]:
        made = load_fingerprint(fingerprint_folder.path, victim_id=store.folder(train_document(config)).id)
        suspect = load_model(config, suspect_folder).to(resolve_device(config.engine.device))
        scores = defense.verify(made, suspect)
        return {"scores": {f"{defense.name}/{name}": score for name, score in scores.items()}}

    suspect_folder = attack(config, store)
    fingerprint_folder = fingerprint(config, store)
    return ensure(store, verify_document(config), compute)


STAGES: dict[str, Callable[[RunConfig, Store], StageFolder]] = {
    "train": train,
    "attack": attack,
    "fingerprint": fingerprint,
    "verify": verify,
}


def build(config: ModelConfig, dataset: Dataset, seed: int) -> Classifier:
    """A freshly initialised classifier for a dataset."""
    return build_model(
        config, num_classes=dataset.num_classes, channels=dataset.channels, image_size=dataset.image_size,
        mean_C=dataset.mean_C, std_C=dataset.std_C, seed=seed,
    )  # fmt: skip


def save_model(folder: StageFolder, model: Classifier) -> None:
    """Writes model.safetensors: the backbone's own state dict, so that other tools can load it."""
    if rank() > 0:
        return
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.export_state().items()}
    write_atomic(folder.path / "model.safetensors", safetensors_bytes(state))


def load_model(config: RunConfig, folder: StageFolder) -> Classifier:
    """The finished stage's model, in eval mode on the CPU. Raises UserError if the file is damaged or does not fit."""
    model = build(config.model, _dataset(config.dataset), seed=0)
    model.load_exported(load_weights(folder.path / "model.safetensors"))
    use_channels_last(model)
    return model.eval()


_datasets: dict[DatasetConfig, Dataset] = {}


def _dataset(config: DatasetConfig) -> Dataset:
    """The dataset, read once per process (the latest one is kept)."""
    if config not in _datasets:
        _datasets.clear()
        _datasets[config] = load_dataset(config)
    return _datasets[config]


def _check_model(config: RunConfig) -> Classifier:
    """An untrained model as configured; raises UserError if it cannot be built, or its weights cannot be loaded."""
    check_engine(config.engine, config.precision, launched(), resolve_device(config.engine.device))
    model = build(config.model, _dataset(config.dataset), seed=0)
    if config.model.weights:
        model.load_exported(load_weights(Path(config.model.weights)))
    return model


def check_attack(config: RunConfig) -> None:
    """Raises UserError if the attack cannot run on such a model and dataset; nothing is trained or written."""
    method: Attack = ATTACKS.build(config.attack)
    model = _check_model(config)
    if (batch_size := getattr(config.attack, "batch_size", None)) is not None:
        check_batch(config.engine, "attack.batch_size", batch_size, model, launched())
    method.check(model, _dataset(config.dataset), default_cut_layer(config.model))


def frozen_victim(config: RunConfig, victim: Classifier, device: torch.device) -> torch.nn.Module:
    """The victim, frozen and on the device, whole or divided among the processes; what it was before is gone."""
    victim.requires_grad_(False)
    if resolve_engine(config.engine, victim, device, world_size()).victim == "replica":
        return victim.to(device)
    from rnet.engines.deepspeed import sharded_inference

    return sharded_inference(victim, device)


def _run(
    config: RunConfig, folder: StageFolder, label: str, dataset: Dataset, victim_N: torch.Tensor | None = None
) -> Run:
    sample = torch.arange(min(len(dataset.test), config.engine.eval_samples))
    return Run(
        folder=folder.path,
        label=label,
        config=config.engine,
        device=resolve_device(config.engine.device),
        precision=config.precision,
        identity=folder.id,
        measure=measure_on(dataset.test.subset(sample), None if victim_N is None else victim_N[sample]),
        settings=hyperparameters(folder.document),
        on_checkpoint=lambda step, total: folder.write_status("running", step=step, total=total),
    )
