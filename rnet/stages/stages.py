"""The stages as functions of (configuration, store): what a notebook, the command line or a cluster task runs.

Which stage needs which is in graph.py. Each returns its finished folder. Everything a user can get wrong is checked
before a parent is built or a folder is made; parents that are missing are built; what is finished is never computed
again, and no network is built to look it up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from rnet.attacks.base import Attack, AttackContext
from rnet.attacks.imported.attack import Import
from rnet.attacks.imported.origin import as_given, origin_report, suspect_origin
from rnet.attacks.registry import ATTACKS
from rnet.config.documents import content_id
from rnet.config.run import RunConfig
from rnet.data.files.digest import change_of, looked_at_once
from rnet.data.images import Dataset, Part
from rnet.data.inspection import write_found
from rnet.data.loading import load_dataset_once
from rnet.defenses.base import Defense
from rnet.defenses.fingerprint_file import ABOUT, TENSORS, load_fingerprint, save_fingerprint
from rnet.defenses.registry import DEFENSES
from rnet.draws import derive_seed
from rnet.engines.choice import check_batch, check_engine
from rnet.errors import UserError
from rnet.models.black_box import BlackBox
from rnet.models.classifier import Classifier
from rnet.models.importing import import_weights
from rnet.models.origin import ASSUMED, READ, as_imported, origin_of
from rnet.parallel.collectives import rank, same_on_all, world_size
from rnet.planning.choice import decided_engine
from rnet.stages.graph import GRAPH, check_settings, document, hyperparameters
from rnet.stages.models import (
    build,
    frozen_victim,
    is_like_victim,
    load_model,
    load_suspect,
    save_model,
    suspect_blueprint,
)  # fmt: skip
from rnet.stages.pairs import save_representation
from rnet.stages.probes import make_probe
from rnet.stages.store import StageFolder, Store
from rnet.stages.substitutes import about_images, attackers_dataset, changed_substitutes, check_size
from rnet.stages.texts import run_texts
from rnet.training.fidelity import fidelity, measure_on, predict, share_equal
from rnet.training.import_check import check_import
from rnet.training.import_report import import_report, report_text
from rnet.training.loop import Run, resolve_device
from rnet.training.monitor.progress import shown
from rnet.training.monitor.startup import startup
from rnet.training.signals import Preempted
from rnet.training.victim import train_classifier

logger = logging.getLogger(__name__)

Parents = Mapping[str, StageFolder]
"""The finished parents, under the names that graph.py gives them."""


def ensure(stage: str, config: RunConfig, store: Store) -> StageFolder:
    """The stage's finished folder: as found, or checked and computed now, after the parents it lacks."""
    check_settings(stage, config)
    config = as_imported(config)
    with looked_at_once(store.root, keep=rank() == 0):
        folder = store.folder(document(stage, config))
        if folder.result() is not None:
            return folder
        _CHECKS[stage](config)
        parents = {name: ensure(parent, config, store) for name, parent in GRAPH[stage].parents.items()}
        return folder.complete(lambda folder: _compute(stage, config, folder, parents))


def check(stage: str, config: RunConfig, store: Store, seen: set[str] | None = None) -> None:
    """Raises UserError if the stage or an ancestor that is not finished cannot work. Nothing is trained or written.

    seen: ids looked at already, to be passed where many configurations share ancestors; they are not checked again.
    """
    check_settings(stage, config)
    seen = set() if seen is None else seen
    config = as_imported(config)
    with looked_at_once(store.root, keep=rank() == 0):
        folder = store.folder(document(stage, config))
        if folder.id in seen or folder.result() is not None:
            return
        seen.add(folder.id)
        for parent in GRAPH[stage].parents.values():
            check(parent, config, store, seen)
        _CHECKS[stage](config)


def _compute(stage: str, config: RunConfig, folder: StageFolder, parents: Parents) -> dict[str, Any]:
    """The stage's result, unless the files of the data set changed meanwhile: then UserError, and nothing is kept."""
    startup.begin()
    write_found()  # the checks looked at the images before there was a store
    try:
        found = _COMPUTATIONS[stage](config, folder, parents)
    except Preempted:
        _require_same_files(stage, config, folder)
        raise
    _require_same_files(stage, config, folder)
    return found


def _require_same_files(stage: str, config: RunConfig, folder: StageFolder) -> None:
    change = None
    if rank() == 0:
        try:
            change = change_of(config.dataset) or (changed_substitutes(config) if stage == "attack" else None)
        except UserError as error:
            change = str(error)
    if change := same_on_all(change):
        folder.discard()
        raise UserError(
            f"the images of dataset={config.dataset.name} changed while {stage} was computed from them: {change}; "
            f"nothing of it is kept, run the command again when they no longer change"
        )


def _train(config: RunConfig, folder: StageFolder, parents: Parents) -> dict[str, Any]:
    """The victim: trained on the dataset's training part, or imported from model.weights."""
    dataset = load_dataset_once(config.dataset)
    test = dataset.test.to(resolve_device(config.engine.device))
    seed = derive_seed(config.train.seed or 0, "victim")
    model = build(config.model, dataset, derive_seed(seed, "model"))
    if not config.model.weights:
        config = replace(config, engine=decided_engine("train", config, dataset, model))
    run = _run(config, folder, f"train {config.model.name}", test)
    if config.model.weights:
        return _import(config, folder, run, model, dataset, test)
    train_classifier(run, model, dataset.labelled_part(dataset.train), config.train, flip=dataset.flip, seed=seed)
    save_model(folder, model)
    found = fidelity(test.labels_N, predict(model, test, who="the victim"))
    return {**found, "training_samples": len(dataset.train), "test_samples": len(test), **_digest_of(folder)}


def _digest_of(folder: StageFolder) -> dict[str, str]:
    """How the data set's files are named in the id; nothing for a set without files."""
    about = folder.document["dataset"]
    return {"digest": about["digest"]} if "files_sha256" in about else {}


def _import(
    config: RunConfig, folder: StageFolder, run: Run, model: Classifier, dataset: Dataset, test: Part
) -> dict[str, Any]:
    """The victim of model.weights: what it is and how that is known, and whether the user's own images bear it out."""
    origin = origin_of(config)
    assert config.model.weights is not None
    done = import_weights(model, config.model.weights, config.model.weights_key)
    model.to(run.device)
    save_model(folder, model)
    about = import_report(origin, dataset, model, done)
    run.say(report_text(config.model.weights, about))
    predicted_N = predict(model, test, who=f"the model in {config.model.weights}")
    found = {
        **fidelity(test.labels_N, predicted_N), "test_samples": len(test), **_digest_of(folder), "import": about
    }  # fmt: skip
    if rank() > 0:
        return found
    other_stem = None
    if origin.fits_both_stems and origin.facts["stem"]["how"] != READ:
        stem = "small" if origin.facts["stem"]["value"] == "imagenet" else "imagenet"
        other_stem = build(replace(config.model, stem=stem), dataset, seed=0)
        other_stem.load_exported(model.export_state())
        other_stem.to(run.device)
    known = origin.facts["mean"]["how"] != ASSUMED
    checked = check_import(
        model, replace(dataset, test=test), predicted_N, other_stem=other_stem, normalisation_known=known
    )
    for warning in checked["warnings"]:
        logger.warning("%s: %s", config.model.weights, warning)
    return {**found, "check": checked}


def _attack(config: RunConfig, folder: StageFolder, parents: Parents) -> dict[str, Any]:
    """A suspect: what the attack makes of the victim, with its fidelity on the test part.

    A suspect with other classes than the data set's has no accuracy, drop and agreement; the result says so. Of a black
    box it also says what it answers and how many images it was asked about.
    """
    asked, config = config, as_given(config)
    method: Attack = ATTACKS.build(config.attack)
    dataset = load_dataset_once(config.dataset)
    device = resolve_device(config.engine.device)
    test = dataset.test.to(device)
    victim = load_model(config, parents["victim"])
    default_layer = victim.cut_layer
    if method.trains:
        config = replace(config, engine=decided_engine("attack", config, dataset, victim))
    victim_forward = frozen_victim(config, victim, device)
    victim_N = predict(victim_forward, test, who="the victim")
    run = _run(config, folder, f"attack {config.attack.name}", test, victim_N)
    layer = getattr(config.attack, "layer", None) or default_layer
    if victim_forward is not victim and config.engine.probe_every:
        run.say("without evasion probes, for which every process needs the whole victim (engine.victim=replica)")
    else:
        made = cache(lambda: make_probe(victim, test, layer, device))  # once a model is trained that it looks at
        run = replace(run, probe=lambda model: made()(model))
    context = AttackContext(
        copy_of_victim=lambda: load_model(config, parents["victim"]), victim_forward=victim_forward,
        train=config.train, default_layer=default_layer, run=run,
        build=partial(suspect_blueprint, config, method, dataset), seed=config.attack.seed or 0,
    )  # fmt: skip
    theirs = attackers_dataset(config, dataset)
    images = about_images(config, theirs, run.say)
    suspect = method.run(theirs, context)
    model = suspect.model
    about: dict[str, Any] = {"derived": suspect.derived, "cost": suspect.cost, **images, **suspect.about}
    if isinstance(model, BlackBox):
        found = _fidelity(test, model, model.num_classes, victim_N, dataset)
        return {
            **found,
            **about,
            "answers": model.kind,
            "num_classes": model.num_classes,
            "cost": {"queries": model.asked},
        }
    save_model(folder, model)
    if isinstance(method, Import):
        about["import"] = origin_report(suspect_origin(asked), model)
        run.say(report_text(str(method.config.weights), about["import"]))
    found = {**_fidelity(test, model, method.classes(dataset), victim_N, dataset), **about}
    if config.engine.pictures and rank() == 0 and method.classes(dataset) == dataset.num_classes:
        from rnet.stages.shown import show_suspect  # imports matplotlib

        show_suspect(run, folder, load_model(config, parents["victim"]), model, dataset)
    return found


def _fidelity(
    test: Part, model: torch.nn.Module, classes: int, victim_N: torch.Tensor, dataset: Dataset
) -> dict[str, Any]:
    if classes == dataset.num_classes:
        predicted_N = predict(model, test, who="the suspect")
        if len(test) > 1 and len(predicted_N.unique()) == 1:
            logger.warning("the suspect gives every test image class %d", int(predicted_N[0]))
        return fidelity(test.labels_N, predicted_N, victim_N)
    missing: dict[str, Any] = dict.fromkeys(("accuracy", "drop", "agreement"))
    victim = {"victim_accuracy": share_equal(victim_N, test.labels_N)}
    return missing | victim | {"not_measured": f"the suspect tells {classes} classes apart, not {dataset.num_classes}"}


def _fingerprint(config: RunConfig, folder: StageFolder, parents: Parents) -> dict[str, Any]:
    """The victim's fingerprint under the defence: made once, reused for every suspect."""
    defense: Defense = DEFENSES.build(config.defense)
    dataset = load_dataset_once(config.dataset)
    victim = load_model(config, parents["victim"]).to(resolve_device(config.engine.device))
    with shown(f"fingerprint {defense.name}", quiet=rank() > 0):
        made = defense.extract(victim, dataset, seed=derive_seed(config.seed, "fingerprint"))
    if rank() == 0:
        save_fingerprint(folder.path, made, victim_id=parents["victim"].id)
    return {"metadata": made.metadata}


def _verify(config: RunConfig, folder: StageFolder, parents: Parents) -> dict[str, Any]:
    """The defence's scores for the suspect, named defence/metric; what is left out and why; a black box's cost.

    Of a suspect that is known to be independent the defence's representation is kept, for pair_scores.
    """
    defense: Defense = DEFENSES.build(config.defense)
    victim_id = content_id(parents["fingerprint"].document["victim"])
    for name in (TENSORS, ABOUT):
        parents["fingerprint"].file(name)
    made = load_fingerprint(parents["fingerprint"].path, victim_id=victim_id)
    suspect = load_suspect(config, parents["suspect"]).to(resolve_device(config.engine.device))
    with shown(f"verify {defense.name}", quiet=rank() > 0):
        measured = defense.test(made, suspect)
    found: dict[str, Any] = {"scores": {f"{defense.name}/{name}": score for name, score in measured.scores.items()}}
    if measured.left_out:
        found["left_out"] = {f"{defense.name}/{name}": reason for name, reason in measured.left_out.items()}
    if measured.representation and (parents["suspect"].result() or {}).get("derived") is False:
        save_representation(folder, measured.representation)
    if isinstance(suspect, BlackBox):
        found["cost"] = {"queries": suspect.asked}
    return found


def check_victim(config: RunConfig) -> None:
    """Raises UserError if the victim cannot be trained, or imported."""
    model = _blueprint(config)
    if not config.model.weights:
        check_batch(
            config.engine, "train.batch_size", config.train.batch_size, model, world_size(),
            accumulate=config.train.accumulate,
        )  # fmt: skip


def check_attack(config: RunConfig) -> None:
    """Raises UserError if the attack cannot run on such a model and dataset; nothing is trained or written."""
    check_settings("attack", config)
    config = as_given(as_imported(config))
    method: Attack = ATTACKS.build(config.attack)
    model, dataset = _blueprint(config), attackers_dataset(config, load_dataset_once(config.dataset))
    check_size(config, dataset)
    if method.trains and config.attack.batch_size is not None:
        check_batch(config.engine, "attack.batch_size", config.attack.batch_size, model, world_size())
    if is_like_victim(config, method, dataset):
        method.check(model, dataset, model.cut_layer)
    else:
        method.check(suspect_blueprint(config, method, dataset, seed=0), dataset, model.cut_layer)


def _blueprint(config: RunConfig) -> Classifier:
    """An untrained model as configured; raises UserError if it cannot be built, or its weights cannot be loaded."""
    check_engine(config.engine, config.precision, world_size(), resolve_device(config.engine.device))
    with startup.part("reading data"):
        dataset = load_dataset_once(config.dataset)
    model = build(config.model, dataset, seed=0)
    if config.model.weights:
        import_weights(model, config.model.weights, config.model.weights_key)
    return model


_CHECKS: Mapping[str, Callable[[RunConfig], object]] = {
    "train": check_victim,
    "attack": check_attack,
    "fingerprint": lambda config: DEFENSES.build(config.defense),
    "verify": lambda config: DEFENSES.build(config.defense),
}
_COMPUTATIONS: Mapping[str, Callable[[RunConfig, StageFolder, Parents], dict[str, Any]]] = {
    "train": _train,
    "attack": _attack,
    "fingerprint": _fingerprint,
    "verify": _verify,
}
STAGES: dict[str, Callable[[RunConfig, Store], StageFolder]] = {stage: partial(ensure, stage) for stage in GRAPH}
train, attack, fingerprint, verify = (STAGES[stage] for stage in ("train", "attack", "fingerprint", "verify"))


def _run(config: RunConfig, folder: StageFolder, label: str, test: Part, victim_N: torch.Tensor | None = None) -> Run:
    sample = torch.arange(min(len(test), config.engine.eval_samples))
    return Run(
        folder=folder.path,
        label=label,
        config=config.engine,
        device=resolve_device(config.engine.device),
        precision=config.precision,
        identity=folder.id,
        measure=measure_on(test.subset(sample), None if victim_N is None else victim_N[sample]),
        settings=hyperparameters(folder.document),
        texts=run_texts(folder),
        on_start=partial(_started, folder),
        on_checkpoint=lambda step, total: folder.write_status("running", step=step, total=total),
    )


def _started(folder: StageFolder, step: int, total: int, parts: dict[str, float]) -> None:
    """From now on the state says how many steps there are, and how long it took to take the first one."""
    folder.startup = parts
    folder.write_status("running", step=step, total=total)
