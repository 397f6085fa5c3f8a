"""The stages end to end on tiny digits: ids, bits, parents, resuming, and errors that leave nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rnet.config.run import RunConfig
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.graph import document
from rnet.stages.store import Store
from tests.tiny_runs import TINY, TINY_FINETUNE, TINY_IPGUARD, TINY_REMOVALNET, tiny


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def test_verify_builds_every_missing_parent_and_scores_the_victim_itself_perfectly(store: Store) -> None:
    folder = stages.verify(tiny("attack=identity", *TINY_IPGUARD), store)
    assert folder.result() == {"scores": {"ipguard/matching_rate": 1.0}}
    assert {path.name for path in store.root.iterdir()} == {"train", "attack", "fingerprint", "verify"}


def test_an_identity_suspect_is_the_victim_bit_for_bit(store: Store) -> None:
    config = tiny("attack=identity")
    victim, suspect = (
        load_file(f.path / "model.safetensors") for f in (stages.train(config, store), stages.attack(config, store))
    )
    assert victim.keys() == suspect.keys()
    assert all(torch.equal(victim[name], suspect[name]) for name in victim)


@pytest.mark.parametrize("attack", [TINY_REMOVALNET, TINY_FINETUNE, ["attack=independent", "attack.seed=5"]])
def test_the_same_command_twice_gives_the_same_id_and_the_same_bits(
    attack: list[str], store: Store, tmp_path: Path
) -> None:
    first, second = (stages.attack(tiny(*attack), s) for s in (store, Store(tmp_path)))
    assert first.id == second.id
    for name in ("model.safetensors", "result.json", "config.yaml"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


@pytest.mark.parametrize("attack", [TINY_REMOVALNET, TINY_FINETUNE, ["attack=independent"]])
def test_another_seed_of_the_attack_gives_another_id_and_other_weights(attack: list[str], store: Store) -> None:
    first, second = (stages.attack(tiny(*attack, f"attack.seed={seed}"), store) for seed in (5, 6))
    assert first.id != second.id
    a, b = (load_file(folder.path / "model.safetensors") for folder in (first, second))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_a_finished_stage_is_never_computed_again(store: Store) -> None:
    folder = stages.attack(tiny(*TINY_FINETUNE), store)
    before = (folder.path / "status.json").read_text(), os.stat(folder.path / "model.safetensors").st_mtime_ns
    stages.attack(tiny(*TINY_FINETUNE), store)
    assert ((folder.path / "status.json").read_text(), os.stat(folder.path / "model.safetensors").st_mtime_ns) == before


def test_an_attack_leaves_the_victims_files_and_weights_alone(store: Store) -> None:
    victim = stages.train(tiny(), store)
    before = (victim.path / "model.safetensors").read_bytes()
    stages.attack(tiny(*TINY_REMOVALNET, "attack.seed=9"), store)
    assert (victim.path / "model.safetensors").read_bytes() == before


def test_a_run_leaves_curves_log_lines_and_no_checkpoints(store: Store) -> None:
    folder = stages.attack(tiny(*TINY_REMOVALNET), store)
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    names = set().union(*lines)
    assert {
        "loss/total",
        "loss/kl",
        "loss/mse",
        "loss/ce",
        "latent/distance",
        "loss/learning_rate",
        "fidelity/accuracy",
        "fidelity/agreement",
        "evasion/matching_rate",
        "evasion/ddv",
        "evasion/agreement",
        "latent/to_victim",
        "speed/images_per_second",
        "system/memory_mib",
    } <= names
    (events,) = (folder.path / "tensorboard").glob("events*")
    assert b"removalnet" in events.read_bytes()  # HPARAMS says which attack the id stands for
    assert not (folder.path / "checkpoints").exists()
    assert (folder.path.stat().st_mode & 0o777) == 0o700


def _command(root: Path, attack: list[str]) -> list[str]:
    return [
        sys.executable,
        "-m",
        "rnet",
        "attack",
        "--root",
        str(root),
        "--json",
        *TINY,
        *attack,
        "engine.checkpoint_steps=4",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "attack"])
def test_a_run_killed_by_sigkill_resumes_and_ends_with_the_same_bits(stage: str, store: Store, tmp_path: Path) -> None:
    attack = [*TINY_REMOVALNET, "attack.iterations=80"]
    if stage == "train":
        attack = ["attack=identity", "train.epochs=20"]
    config = tiny(*attack)
    folder = Store(tmp_path).folder(document(stage, config))
    with subprocess.Popen(_command(tmp_path, attack), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 90
        while folder.status().get("step", 0) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    interrupted_at = folder.status()["step"]
    assert 8 <= interrupted_at < 80
    assert folder.result() is None
    subprocess.run(_command(tmp_path, attack), check=True, capture_output=True)
    assert folder.status()["attempt"] == 2
    threads = torch.get_num_threads()
    uninterrupted = _uninterrupted(stage, config, store)
    assert torch.get_num_threads() == threads
    for name in ("model.safetensors", "result.json"):
        assert (folder.path / name).read_bytes() == (uninterrupted / name).read_bytes()
    steps = [
        [json.loads(line)["step"] for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (folder.path, uninterrupted)
    ]
    assert steps[0] == steps[1]


def _uninterrupted(stage: str, config: RunConfig, store: Store) -> Path:
    return stages.STAGES[stage](config, store).path


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["attack=removalnet", "attack.layer=layer9"], ["attack.layer='layer9'", "layer3"]),
        (["attack=removalnet", "attack.layer=layer2.0.conv1"], ["layer2.0"]),
        (["attack=removalnet", "attack.substitute_size=65"], ["65", "64"]),
        (["attack=removalnet", "attack.rho=1.5"], ["attack.rho=1.5"]),
        (["attack=removalnet", "attack.target=oficial"], ["attack.target", "official"]),
        (["attack=finetune", "attack.fraction=0"], ["attack.fraction=0"]),
        (["attack=finetune", "attack.iterations=0"], ["attack.iterations=0"]),
        (["attack=independent", "attack.portion=third"], ["attack.portion='third'", "first_half"]),
        (["model=torchvision", "model.name=resnet19"], ["resnet19", "resnet18"]),
        (["model.weights=/nowhere/w.safetensors"], ["model.weights", "/nowhere/w.safetensors"]),
        (["dataset=fashion_mnist", "dataset.folder=/nowhere"], ["/nowhere"]),
        (["engine.device=tpu"], ["engine.device='tpu'"]),
        (["defense.k=-1"], ["defense.k=-1"]),
    ],
)
def test_a_wrong_input_is_refused_before_anything_is_written(
    overrides: list[str], words: list[str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(UserError) as caught:
        stages.verify(tiny(*overrides), store)
    for word in words:
        assert word in str(caught.value)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("engine.device=tpu", r"engine\.device='tpu' is no device"),
        ("engine.device=cuda:128", r"engine\.device='cuda:128' is no device"),
        ("engine.device=cuda:99999999999", r"engine\.device='cuda:99999999999' is no device"),
        ("engine.device=cuda:01", r"engine\.device='cuda:01' is no device"),
        ("engine.compile=maybe", r"engine\.compile='maybe' must be true, false or auto"),
        ("engine.checkpoint_steps=-1", r"engine\.checkpoint_steps=-1 must be at least 0"),
        ("engine.checkpoint_seconds=-1", r"engine\.checkpoint_seconds=-1\.0 must be 0 or more"),
        ("engine.eval_samples=0", r"engine\.eval_samples=0 must be at least 1"),
        ("engine.workers=-1", r"engine\.workers=-1 must be at least 0"),
    ],
)
def test_a_wrong_setting_of_the_engine_is_refused_where_the_stage_is_finished(
    store: Store, line: str, message: str
) -> None:
    stages.train(tiny(), store)
    with pytest.raises(UserError, match=message):
        stages.train(tiny(line), store)


def test_imported_weights_make_the_same_victim(store: Store) -> None:
    trained = stages.train(tiny(), store)
    imported = stages.train(tiny(f"model.weights={trained.path / 'model.safetensors'}"), store)
    assert imported.id != trained.id
    assert (imported.path / "model.safetensors").read_bytes() == (trained.path / "model.safetensors").read_bytes()
    assert (imported.result() or {})["accuracy"] == (trained.result() or {})["accuracy"]


def test_weights_of_another_architecture_are_refused_and_leave_nothing(store: Store, tmp_path: Path) -> None:
    trained = stages.train(tiny(), store)
    other = Store(tmp_path / "store")
    with pytest.raises(UserError, match="do not fit"):
        stages.train(tiny(f"model.weights={trained.path / 'model.safetensors'}", "model.width=5"), other)
    assert not other.root.exists()


def test_truncated_weights_are_refused(store: Store, tmp_path: Path) -> None:
    data = (stages.train(tiny(), store).path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        stages.train(tiny(f"model.weights={tmp_path / 'cut.safetensors'}"), Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_a_damaged_result_names_the_folder_to_delete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = stages.train(tiny(), store)
    (folder.path / "result.json").write_text('{"accuracy": 0.')
    with pytest.raises(UserError, match=folder.id):
        stages.train(tiny(), store)


def test_a_fingerprint_of_another_victim_is_refused(store: Store) -> None:
    from rnet.defenses.fingerprint_file import load_fingerprint

    folder = stages.fingerprint(tiny(*TINY_IPGUARD), store)
    with pytest.raises(UserError, match="belongs to victim"):
        load_fingerprint(folder.path, victim_id="0" * 16)


def test_a_truncated_fingerprint_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    config = tiny("attack=identity", *TINY_IPGUARD)
    folder = stages.fingerprint(config, store)
    path = folder.path / "fingerprint.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="truncated"):
        stages.verify(config, store)


def test_a_second_process_waits_for_the_first_and_takes_its_result(tmp_path: Path) -> None:
    command = _command(tmp_path, TINY_FINETUNE)
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    outputs = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert outputs[0] == outputs[1]
    assert Store(tmp_path).folder(document("train", tiny())).status()["attempt"] == 1


def test_a_pickle_bomb_given_as_a_victim_runs_no_code_and_leaves_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"bomb\.pt was refused"):
        stages.train(tiny(f"model.weights={tmp_path / 'bomb.pt'}"), Store(tmp_path / "store"))
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.pt"]
