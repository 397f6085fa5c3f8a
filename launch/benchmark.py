"""`rnet bench SUBJECT`: measures on this machine and shows the ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from rnet.command.run import Options, console, require_one_process, show_json
from rnet.errors import UserError, unknown_name

Document = dict[str, Any]
ALL = "all"
"""What launch/benchmark_all.py runs."""


def run_bench(subject: str, overrides: Sequence[str], options: Options) -> None:
    """Runs one benchmark; with --json {"title", "device", "threads", "torch", "rows": [...]} on standard output."""
    if subject not in SUBJECTS:
        raise unknown_name("bench", subject, [*SUBJECTS, ALL])
    require_one_process("rnet bench")
    measure, show = SUBJECTS[subject]
    document = measure(overrides, options)
    if options.as_json:
        show_json(document)
    else:
        show(document)


def whole_number(key: str, lines: Sequence[str], *, default: int) -> int:
    """The last of the lines KEY=N as a number, the default without one. Raises UserError unless it is 1 or more."""
    if not lines:
        return default
    text = lines[-1].partition("=")[2]
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{key}={text!r} must be a whole number of at least 1")
    return int(text)


def _about(title: str, device: Any, rows: list[dict[str, Any]], *, threads: int | None = None) -> Document:
    """threads: of this process, unless given."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    threads = threads or torch.get_num_threads()
    return {
        "title": f"{title}{name}, {threads} threads", "device": name, "threads": threads, "torch": torch.__version__,
        "rows": rows,
    }  # fmt: skip


def _number(key: str, overrides: Sequence[str], *, default: int) -> tuple[int, list[str]]:
    """What KEY=N asks for, the default without it, and the other overrides."""
    rest = [line for line in overrides if not line.startswith(f"{key}=")]
    return whole_number(key, [line for line in overrides if line not in rest], default=default), rest


def _measure_fingerprint(overrides: Sequence[str], options: Options) -> Document:
    """Trains or finds the configured victim first."""
    from rnet.bench.fingerprint import bench_fingerprint
    from rnet.config.run import load_config
    from rnet.data.loading import load_dataset
    from rnet.stages.models import load_model
    from rnet.stages.stages import train
    from rnet.stages.store import Store
    from rnet.training.loop import resolve_device

    rounds, rest = _number("rounds", overrides, default=5)
    config = load_config(rest, config_dir=options.config_dir)
    device = resolve_device(config.engine.device)
    victim = load_model(config, train(config, Store(options.root))).to(device)
    layer = victim.cut_layer or victim.layer_names()[0]
    rows = bench_fingerprint(victim, load_dataset(config.dataset), layer, rounds=rounds)
    return _about(f"{config.model.name} on {config.dataset.name}, ", device, rows)


def _show_fingerprint(document: Document) -> None:
    table = Table(title=document["title"], title_justify="left")
    for name in ("measured", "work", "one at a time", "batched", "ratio", "memory / budget"):
        table.add_column(name, justify="left" if name in ("measured", "work") else "right")
    for row in document["rows"]:
        memory = f"{row['memory_mb']:.0f} / {row['budget_mb']} MiB"
        slow = f"{row['sequential_seconds']:.1f} s"
        quick = f"{row['batched_seconds']:.2f} s ({row['batched_low']:.2f} to {row['batched_high']:.2f})"
        if row["sequential_measured_on"] != row["work"]:
            slow += "*"
        table.add_row(row["name"], row["work"], slow, quick, f"{row['ratio']:.1f}x", memory)
    console().print(table)
    scaled = [row["sequential_measured_on"] for row in document["rows"] if row["sequential_measured_on"] != row["work"]]
    if scaled:
        console().print(f"* measured on {', '.join(scaled)}, scaled.")


def _measure_attack(overrides: Sequence[str], options: Options) -> Document:
    """On an untrained network: what it has learned does not change what a step costs."""
    from rnet.bench.attack import bench_attack
    from rnet.bench.steps import require_removalnet
    from rnet.config.run import load_config
    from rnet.data.loading import load_dataset
    from rnet.stages.models import build
    from rnet.training.loop import resolve_device

    rounds, rest = _number("rounds", overrides, default=5)
    profile, rest = _number("profile", rest, default=0)
    config = load_config(rest, config_dir=options.config_dir)
    attack = require_removalnet(config.attack, "rnet bench attack")
    device, dataset = resolve_device(config.engine.device), load_dataset(config.dataset)
    victim = build(config.model, dataset, seed=0).to(device).eval().requires_grad_(False)
    rows = bench_attack(
        victim,
        dataset,
        attack,
        layer=victim.cut_layer,
        precision=config.precision,
        engine=config.engine,
        rounds=rounds,
        profile=profile,
    )
    title = f"{config.model.name}, {dataset.image_size} px, batch {attack.batch_size}, {config.precision}, "
    return _about(title, device, rows)


def _show_attack(document: Document) -> None:
    table = Table(title=document["title"], title_justify="left")
    for name in ("a step", "median", "spread", "times rnet's", "memory", "GFLOP/s", "of the ceiling"):
        table.add_column(name, justify="left" if name == "a step" else "right")
    *rows, ceiling = document["rows"]
    for row in rows:
        if "gflops" not in row:
            share = f"{100 * row['ratio']:.2f} % ({100 * row['ratio_low']:.2f} to {100 * row['ratio_high']:.2f})"
            table.add_row(row["name"], f"{row['median_ms']:.2f} ms", f"{row['spread_ms']:.2f} ms", share, "", "", "")
            continue
        ratio = f"{row['ratio']:.2f}x"
        if row is not rows[0]:
            ratio += f" ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        table.add_row(
            row["name"], f"{row['median_ms']:.1f} ms", f"{row['spread_ms']:.1f} ms", ratio,
            f"{row['memory_mb']:.0f} MiB", f"{row['gflops']:.0f}", f"{100 * row['gflops'] / ceiling['gflops']:.0f} %",
        )  # fmt: skip
    floor = f"{ceiling['floor_ms']:.1f} ms"
    table.add_row("as a matrix product (floor)", floor, "", "", "", f"{ceiling['gflops']:.0f}", "")
    console().print(table)
    for row in rows:
        if "operators" in row:
            _show_operators(row)


def _show_operators(row: Document) -> None:
    table = Table(title=f"where {row['name']} spends its time, watched", title_justify="left")
    for name in ("operator", "calls", "time", "share"):
        table.add_column(name, justify="left" if name == "operator" else "right", no_wrap=name != "operator")
    for found in row["operators"]:
        shown = (str(found["calls"]), f"{found['ms']:.1f} ms", f"{100 * found['share']:.1f} %")
        table.add_row(escape(found["name"]), *shown)
    console().print(table)
    kinds = Table(title="all of it, by kind", title_justify="left")
    for name in ("kind", "time", "share"):
        kinds.add_column(name, justify="left" if name == "kind" else "right")
    for found in row["kinds"]:
        kinds.add_row(found["kind"], f"{found['ms']:.1f} ms", f"{100 * found['share']:.1f} %")
    console().print(kinds)


def _measure_data(overrides: Sequence[str], options: Options) -> Document:
    """Of the images below dataset.folder, class by class, or of photographs that are written for it."""
    import tempfile
    from pathlib import Path

    from rnet.bench.data import bench_data, write_photographs
    from rnet.config.run import load_config
    from rnet.data.files.tree import read_tree
    from rnet.data.workers import workers_for
    from rnet.training.loop import resolve_device

    rounds, overrides = _number("rounds", overrides, default=3)
    images, overrides = _number("images", overrides, default=1200)
    usual = ["dataset=image_folder", "dataset.image_size=224"]
    config = load_config([*usual, *overrides], config_dir=options.config_dir)
    if config.dataset.name != "image_folder":
        raise UserError(f"rnet bench data reads image files in class folders, not dataset={config.dataset.name}; "
                        f"set dataset.folder alone, or neither, for photographs that are written for it")  # fmt: skip
    workers = workers_for(config.engine.workers, 1)
    if not workers:
        raise UserError("engine.workers=0 leaves no worker processes to measure; set 1 or more")
    size, batch_size = config.dataset.image_size, config.train.batch_size
    with tempfile.TemporaryDirectory(prefix="rnet-bench-") as scratch:
        folder = Path(config.dataset.folder or scratch)
        if config.dataset.folder is None:
            paths = write_photographs(folder, images)
        else:
            tree = read_tree(folder, (".jpg", ".jpeg", ".png"))
            paths = [str(folder / name) for files in tree.by_class.values() for name in files][:images]
        if len(paths) < batch_size:
            raise UserError(f"{folder} has {len(paths)} images, fewer than train.batch_size={batch_size}; lower it")
        device = resolve_device(config.engine.device)
        rows = bench_data(
            folder, paths, image_size=size, batch_size=batch_size, workers=workers, rounds=rounds, device=device
        )
    title = f"{len(paths)} image files to views of {size}x{size} pixels, {workers} worker processes, "
    return _about(title, device, rows)


def _show_data(document: Document) -> None:
    table = Table(title=document["title"], title_justify="left")
    for name in ("way", "images/s", "spread", "rnet's share of it"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for row in document["rows"]:
        rate, spread = f"{row['images_per_second']:.0f}", f"{row['spread']:.0f}"
        share = f"{row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        table.add_row(row["name"], rate, spread, share)
    console().print(table)


def _measure_kernels(overrides: Sequence[str], options: Options) -> Document:
    from rnet.bench.kernels import bench_kernels
    from rnet.config.run import load_config
    from rnet.training.loop import resolve_device

    device = resolve_device(load_config(overrides, config_dir=options.config_dir).engine.device)
    return _about("fused operations, ", device, bench_kernels(device))


def _show_kernels(document: Document) -> None:
    table = Table(title=document["title"], title_justify="left")
    for name in ("operation", "work", "fused", "eager", "compiled", "to eager", "to compiled"):
        table.add_column(name, justify="left" if name in ("operation", "work") else "right")
    for row in document["rows"]:
        times = [f"{row[f'{way}_ms']:.3f} ms" for way in ("kernel", "eager", "compiled")]
        table.add_row(row["name"], row["work"], *times, f"{row['ratio_eager']:.2f}x", f"{row['ratio_compiled']:.2f}x")
    console().print(table)


def _measure_memory(overrides: Sequence[str], options: Options) -> Document:
    import torch

    from rnet.bench.planned import bench_memory

    rows = bench_memory(overrides, config_dir=options.config_dir, threads=torch.get_num_threads())
    return _about("memory of a stage, planned and measured, ", torch.device("cpu"), rows)


def _show_memory(document: Document) -> None:
    table = Table(title=document["title"], title_justify="left")
    for name in ("stage", "run", "when", "planned", "allocated", "planned / allocated", "resident"):
        table.add_column(name, justify="left" if name in ("stage", "run", "when") else "right")
    for row in document["rows"]:
        sizes = [f"{row[name] / 2**20:.1f} MiB" for name in ("planned", "allocated", "resident")]
        table.add_row(row["stage"], row["run"], row["moment"], *sizes[:2], f"{row['ratio']:.3f}", sizes[2])
    console().print(table)
    console().print("Above what the process held before the stage; resident: with all that libraries keep for later.")


def _measure_scaling(overrides: Sequence[str], options: Options) -> Document:
    from rnet.bench.scaling import bench_scaling, plan_scaling

    plan = plan_scaling(overrides, config_dir=options.config_dir)
    rows, config = bench_scaling(plan), plan.config
    title = f"{config.model.name} on {config.dataset.name}, {config.precision}, "
    return _about(title, plan.device, rows, threads=plan.threads(1))


def _show_scaling(document: Document) -> None:
    rows = document["rows"]
    for step in dict.fromkeys(row["step"] for row in rows):
        table = Table(title=f"{step} step: {document['title']} divided among the processes", title_justify="left")
        for name in ("scaling", "engine", "processes", "batch", "median", "samples/s", "speed-up",
                     "efficiency", "memory", "held", "sent"):  # fmt: skip
            table.add_column(name, justify="left" if name in ("scaling", "engine") else "right")
        shown = [row for row in rows if row["step"] == step]
        for row, following in zip(shown, [*shown[1:], None], strict=True):
            table.add_row(
                row["mode"], row["engine"], str(row["processes"]), str(row["batch_size"]),
                f"{row['median_ms']:.1f} ms ±{row['spread_ms']:.0f}", f"{row['samples_per_second']:.0f}",
                f"{row['speed_up']:.2f}x", f"{100 * row['efficiency']:.0f} %", f"{row['memory_mb']:.0f} MiB",
                f"{row['held_mb']:.1f} MiB", f"{row['sent_mb']:.2f} MiB",
                end_section=following is not None and following["processes"] == 1,
            )  # fmt: skip
        console().print(table)
    console().print("Of each step the slowest process counts; speed-up: over one process of the same engine.")
    console().print(
        "Memory: the largest peak of a process; held: its parameters between steps; sent: by it, in a step."
    )


SUBJECTS: dict[str, tuple[Callable[[Sequence[str], Options], Document], Callable[[Document], None]]] = {
    "attack": (_measure_attack, _show_attack),
    "data": (_measure_data, _show_data),
    "fingerprint": (_measure_fingerprint, _show_fingerprint),
    "kernels": (_measure_kernels, _show_kernels),
    "memory": (_measure_memory, _show_memory),
    "scaling": (_measure_scaling, _show_scaling),
}
