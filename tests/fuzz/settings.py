"""Targets: what people write. Overrides, YAML, options, profiles, sweep files and changes of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

from launch.sweep.clusters.arrays import Array
from launch.sweep.clusters.base import make_cluster
from launch.sweep.clusters.slurm import Slurm
from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.resources import Shape, load_profile
from rnet.config.components import GROUPS, TOP_LEVEL
from rnet.config.compose import config_folder
from rnet.config.documents import content_id, read_document, run_from_dict, run_to_dict, to_yaml
from rnet.config.overrides import expand_choices
from rnet.config.run import RunConfig, load_config
from rnet.config.yaml_files import parse_yaml, raw
from rnet.models.options import parse_options
from rnet.stages.graph import check_settings, document
from tests.fuzz.target import Target
from tests.tiny_runs import TINY, TINY_FINETUNE, TINY_IPGUARD, TINY_REMOVALNET

KEYS = [
    *TOP_LEVEL,
    *(f"{group}.{field.name}" for group in GROUPS for field in dataclasses.fields(getattr(load_config(), group))),
    *GROUPS,
]
WORDS = (
    *(b"null", b"true", b"~", b"[", b"]", b"{", b"}", b": ", b"- ", b"&a ", b"*a", b"<<: *a", b"!!int ", b"!x ", b"? "),
    *(b"\n", b"\t", b"\r\n", b"'", b'"', b"|\n", b">", b"#", b"---\n", b"...", b"%", b"\\", b"\x85", b"\xe2\x80\xa8"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\x1b", b"=", b",", b"..", b"/", b"${a}", b"inf", b"nan", b"1e3", b"0x10"),
)
TOKENS = (*WORDS, *(key.encode() for key in KEYS), *(f"{key}=".encode() for key in KEYS))
SHAPE = Shape()


def text_of(data: bytes) -> str:
    """As an argument of a command is."""
    return data.decode("utf-8", "surrogateescape")


def _accepted(run: RunConfig) -> None:
    """Ids, settings and the text that is kept can be made of a configuration that was accepted."""
    to_yaml(run_to_dict(run)).encode()
    assert run_from_dict(run_to_dict(run)) == run
    for stage in ("train", "attack", "verify"):
        check_settings(stage, run)
    if run.dataset.name == "digits" and run.model.weights is None and run.attack.name != "import":
        document("train", run)  # of others files would be looked for, wherever the text says


def overrides(data: bytes, folder: Path) -> None:
    lines = text_of(data).split("\n")
    for one in expand_choices(lines)[:3]:
        _accepted(load_config(one))


def yaml(data: bytes, folder: Path) -> None:
    raw(parse_yaml(data.decode("utf-8", "replace"), "f.yaml"))


def option(data: bytes, folder: Path) -> None:
    group = GROUPS[len(data) % len(GROUPS)]
    put(folder / group / "mine.yaml", data)
    _accepted(load_config([f"{group}=mine"], config_dir=folder))


def defense_profile(data: bytes, folder: Path) -> None:
    put(folder / "defense_profile" / "ipguard_mine.yaml", data)
    _accepted(load_config(["defense=ipguard", "defense.profile=mine"], config_dir=folder))


def cluster(data: bytes, folder: Path) -> None:
    put(folder / "cluster" / "mine.yaml", data)
    found = make_cluster(load_profile("mine", [config_folder(), folder]), "mine")
    script = found.script(folder, Array(stage="train", shape=SHAPE, tasks=[[0], [1]]))
    if isinstance(found, Slurm):
        end = len(script.partition("# setup")[0].splitlines())
        assert all(line.startswith("#") or not line for line in script.splitlines()[:end])


def sweep(data: bytes, folder: Path) -> None:
    put(folder / "sweep.yaml", data)
    make_plan(folder / "sweep.yaml", ["max_rows=40"])


def sweep_changes(data: bytes, folder: Path) -> None:
    put(folder / "sweep.yaml", SWEEPS[0])
    make_plan(folder / "sweep.yaml", ["max_rows=40", *text_of(data).split("\n")])


def stage_document(data: bytes, folder: Path) -> None:
    put(folder / "config.yaml", data)
    with contextlib.suppress(TypeError):  # dates; those who ask take it for another document
        content_id(read_document(folder / "config.yaml"))


def model_options(data: bytes, folder: Path) -> None:
    parse_options(text_of(data).split("\n"))


def put(path: Path, data: bytes) -> None:
    """Writes the input."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


SWEEPS = [
    b"""name: s
until: train
set: [dataset=digits, dataset.image_size=8, model.width=4]
axes: {attack: [identity, finetune], seed: [0, 1], defense: [ipguard, random]}
exclude: [{attack: identity, seed: 1}]
cases: [{when: {attack: finetune}, set: [attack.iterations=4], resources: {attack: {gpus: 1}}}]
resources: {default: {cpus: 2, minutes: 1-00:00:00}, verify: {pack: 5}}
""",
    b"cluster: slurm\nuntil: verify\nset: [negatives=2, &x seed=3]\naxes:\n  dataset: digits\n  defense: all\n"
    b"  attack.seed: [1, 2]\nresources: &r {train: {nodes: 2, processes: 4, gpus: 1, memory_gb: 2.5}}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\naxes: {seed: *a, precision: [fp32, bf16]}\n",
]
OPTIONS: list[bytes] = [
    b"name: digits\nimage_size: 16\nfolder: null\n",
    b"name: removalnet\niterations: 10\nrho: 0.5\n",
]
CLUSTERS = [
    b"kind: slurm\npartition: gpu\nsetup: [module load cuda, 'export A=1']\nsbatch: {mail-type: END, mem: 4G}\n",
    b"kind: local\nworkers: 2\ncrash_requeues: 1\n",
    b"kind: mpi\nmpiexec: [srun, -n, '{ranks}']\nworkers: 4\n",
]
LINES = [
    "\n".join([*TINY, *TINY_REMOVALNET]).encode(),
    "\n".join([*TINY, *TINY_FINETUNE, *TINY_IPGUARD]).encode(),
    b"attack=finetune,removalnet\nseed=1,2\ndefense=all\nnegatives=3\nnegative_kinds=[seeds, halves]",
    b"substitute=lfw\nsubstitute.image_size=3\nattack.augment=[flip]\nmodel.mean=[0.5,0.5]\nmodel.options=[a=[1, 2]]",
]


def _files(pattern: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in sorted(config_folder().glob(pattern))]


TARGETS = [
    Target(name="overrides", weight=5, run=overrides, seeds=lambda: LINES, tokens=TOKENS),
    Target(name="YAML", weight=14, run=yaml, seeds=lambda: [*SWEEPS, *CLUSTERS, *OPTIONS], tokens=TOKENS),
    Target(name="option files", weight=3, run=option, seeds=lambda: [*OPTIONS, *_files("*/*.yaml")()], tokens=TOKENS),
    Target(
        name="defence profiles",
        weight=0.5,
        run=defense_profile,
        seeds=_files("defense_profile/ipguard*.yaml"),
        tokens=TOKENS,
    ),
    Target(name="cluster profiles", weight=4, run=cluster, seeds=lambda: CLUSTERS, tokens=TOKENS),
    Target(
        name="sweep files", weight=2.5, run=sweep, seeds=lambda: [*SWEEPS, *_files("sweep/*.yaml")()], tokens=TOKENS
    ),
    Target(
        name="sweep changes",
        weight=1,
        run=sweep_changes,
        tokens=TOKENS,
        seeds=lambda: [
            b"cluster=slurm\naxes.seed=[0, 1, 2]\nresources.train.gpus=1\nuntil=attack",
            b"set=[seed=2]\naxes.model={a: 1}",
        ],
    ),
    Target(
        name="stage documents",
        weight=1.5,
        run=stage_document,
        tokens=TOKENS,
        seeds=lambda: [to_yaml(document("verify", load_config(TINY))).encode()],
    ),
    Target(
        name="model options",
        weight=2,
        run=model_options,
        seeds=lambda: [b"a=1\nb=[x, 2]\nc=null\nd='e'"],
        tokens=TOKENS,
    ),
]
