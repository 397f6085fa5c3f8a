"""`rnet bench SUBJECT`: trains or finds the configured victim, measures on it, and shows the ratios."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from rnet.command import Options, console, require_one_process, show_json
from rnet.errors import unknown_name

SUBJECTS = ("fingerprint",)


def run_bench(subject: str, overrides: Sequence[str], options: Options) -> None:
    """Runs one benchmark; with --json {"device", "threads", "torch", "rows": [...]} on standard output."""
    require_one_process("rnet bench")
    if subject not in SUBJECTS:
        raise unknown_name("bench", subject, SUBJECTS)
    import torch

    from rnet.bench.fingerprint import bench_fingerprint
    from rnet.config import load_config
    from rnet.data.registry import load_dataset
    from rnet.models.registry import default_cut_layer
    from rnet.stages import load_model, train
    from rnet.store import Store
    from rnet.training import resolve_device

    config = load_config(overrides, config_dir=options.config_dir)
    device = resolve_device(config.engine.device)
    victim = load_model(config, train(config, Store(options.root))).to(device)
    layer = default_cut_layer(config.model) or victim.layer_names()[0]
    rows = bench_fingerprint(victim, load_dataset(config.dataset), layer)
    about = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    document = {"device": about, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
    if options.as_json:
        show_json(document)
        return
    title = f"{config.model.name} on {config.dataset.name}, {about}, {torch.get_num_threads()} threads"
    table = Table(title=title, title_justify="left")
    for name in ("measured", "work", "one at a time", "batched", "ratio", "memory / budget"):
        table.add_column(name, justify="left" if name in ("measured", "work") else "right")
    for row in rows:
        memory = f"{row['memory_mb']:.0f} / {row['budget_mb']} MiB"
        slow = f"{row['sequential_seconds']:.1f} s*"
        table.add_row(row["name"], row["work"], slow, f"{row['batched_seconds']:.2f} s", f"{row['ratio']:.1f}x", memory)
    console().print(table)
    console().print("* measured on " + ", ".join(row["sequential_measured_on"] for row in rows) + ", and scaled.")
