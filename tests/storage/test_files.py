"""Files of the store: whole or not at all, private, or a group's where the root says so."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import rnet.storage.files
from rnet.data.download import alone_in
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.store import StageFolder, Store
from rnet.storage.checkpoint import Checkpoints
from rnet.storage.files import is_shared, locked, locked_if_free, make_folder, read_file, share_files, write_atomic
from rnet.training.monitor import Monitor
from rnet.training.signals import Preempted
from tests.tiny_runs import tiny

GROUP = 5431


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A disk in memory, mounted on the folder."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_write_atomic_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, b"a long first version")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rnet.storage.files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a disk of its own")
def test_a_full_disk_is_told_as_such_by_torch_save_too(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=40k"):
        with pytest.raises(OSError, match="No space left"):
            Checkpoints(tmp_path / "checkpoints", identity={}).save(1, {"w": torch.ones(100_000)})
        assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a disk of its own")
def test_a_stage_that_meets_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    config = tiny("train.epochs=2", "engine.checkpoint_steps=1")
    with small_disk(tmp_path, "size=60k"):
        with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free some space"):
            stages.train(config, Store(tmp_path))
        subprocess.run(["mount", "-o", "remount,size=20m", tmp_path], check=True)
        assert stages.train(config, Store(tmp_path)).result() is not None


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "see to the disk"),
        (errno.EROFS, "another --root"),
    ],
)
def test_a_disk_that_fails_while_a_stage_computes_is_named_with_the_way_out(
    number: int, remedy: str, tmp_path: Path
) -> None:
    folder = Store(tmp_path).folder({"stage": "train", "of": "a failing disk"})
    with pytest.raises(UserError, match=remedy) as caught, folder.building():
        raise OSError(number, os.strerror(number))  # errors of a write do not name the file
    assert str(folder.path) in str(caught.value)


def test_a_folder_in_the_way_of_a_file_of_the_stage_is_named_and_what_is_elsewhere_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    folder = Store(tmp_path).folder({"stage": "train", "of": "a folder in the way"})
    (folder.path / "config.yaml").mkdir(parents=True)
    with (
        pytest.raises(UserError, match=r"config\.yaml: Is a directory; it is in the way: delete it"),
        folder.building(),
    ):
        pass
    (folder.path / "config.yaml").rmdir()
    with pytest.raises(IsADirectoryError), folder.building():
        tmp_path.read_bytes()


def test_a_pipe_is_neither_read_for_ever_nor_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for other in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            read_file(other)
    with locked(pipe):
        pass


@pytest.mark.usefixtures("umask")
def test_a_store_is_private_by_itself(tmp_path: Path) -> None:
    make_folder(tmp_path / "runs" / "train" / "0123")
    assert [mode(tmp_path / name) for name in ("runs", "runs/train", "runs/train/0123")] == [0o700] * 3
    share_files(tmp_path / "runs")
    assert os.umask(0o022) == 0o022


@pytest.mark.parametrize("open_to", [0o1777, 0o775, 0o2755, 0o700])
def test_a_folder_open_for_another_reason_does_not_make_a_store_shared(tmp_path: Path, open_to: int) -> None:
    tmp_path.chmod(open_to)
    make_folder(tmp_path / "runs")
    assert not is_shared(tmp_path / "runs")
    assert mode(tmp_path / "runs") & 0o777 == 0o700


@pytest.mark.usefixtures("umask")
def test_what_is_made_in_a_shared_store_is_the_groups(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    share_files(tmp_path / "later")
    make_folder(tmp_path / "train" / "0123")
    write_atomic(tmp_path / "train" / "0123" / "result.json", b"{}")
    assert mode(tmp_path / "train") == mode(tmp_path / "train" / "0123") == 0o2770
    assert mode(tmp_path / "train" / "0123" / "result.json") & 0o060 == 0o060
    assert os.umask(0o022) == 0o002


@pytest.mark.parametrize("take", [locked, locked_if_free, lambda path: alone_in(path.parent)])
def test_a_lock_is_given_back_although_a_child_still_has_its_file(
    take: Callable[[Path], AbstractContextManager[object]], tmp_path: Path
) -> None:
    path = tmp_path / ".download.lock"
    with take(path):
        child = get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
    try:
        with locked_if_free(path) as free:
            assert free
    finally:
        child.kill()
        child.join()


def test_what_is_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(NotADirectoryError) as caught:
        make_folder(tmp_path / "runs" / "train")
    assert caught.value.filename == str(tmp_path / "runs")
    with pytest.raises(UserError, match="choose another --root"), locked(tmp_path / "runs" / "lock"):
        pass


def as_user(uid: int, work: Callable[[], None]) -> None:
    """Does the work in a process of another Unix user, who is in GROUP."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([GROUP])
            os.setgid(uid)
            os.setuid(uid)
            os.umask(0o022)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0, f"user {uid} failed; see above"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become two other users")
def test_two_people_of_a_group_go_on_with_each_others_stages() -> None:
    root = Path(tempfile.mkdtemp(prefix="rnet-shared-", dir="/tmp"))  # pytest's folders are closed to other users
    document = {"stage": "train", "of": "two people"}

    def folder() -> StageFolder:
        share_files(root)
        return Store(root).folder(document)

    def first() -> None:
        stage = folder()
        with suppress(Preempted), stage.building(), Monitor(stage.path, "first", 2, quiet=True) as monitor:
            monitor.scalars(0, {"loss": 1.0})
            Checkpoints(stage.path / "checkpoints", identity={}).save(1, {"w": torch.ones(2)})
            raise Preempted(15, 1, 2)

    def second() -> None:
        stage = folder()
        with stage.building():
            found = Checkpoints(stage.path / "checkpoints", identity={})
            step = found.latest() or 0
            state = found.load(step)
            assert (step, state["w"].tolist()) == (1, [1.0, 1.0])
            with Monitor(stage.path, "second", 2, step, quiet=True) as monitor:
                monitor.scalars(1, {"loss": 0.5})
            found.save(2, state)
            stage.commit({"loss": 0.5})

    with Monitor(root / "warm-up", "", 1, quiet=True):  # imports what a user without Python's own files could not
        pass
    shutil.rmtree(root / "warm-up")
    try:
        os.chown(root, 0, GROUP)
        root.chmod(0o2770)
        as_user(5432, first)
        as_user(5433, second)
        stage = Store(root).folder(document)
        assert stage.result() == {"loss": 0.5}
        assert len((stage.path / "log.jsonl").read_text().splitlines()) == 2
        assert stage.path.stat().st_gid == GROUP
    finally:
        shutil.rmtree(root)
