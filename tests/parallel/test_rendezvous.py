"""How ranks find each other and nobody else: notices of live, dead and foreign runs, tokens, ports, and real processes
among strangers."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from rnet.errors import UserError
from rnet.parallel import rendezvous as meeting
from rnet.parallel.launch import Launch
from rnet.parallel.notice import Notice
from rnet.parallel.store import StoreServer
from tests.parallel.listening import listening
from tests.parallel.multiprocess import free_port, run_ranks

PATIENCE = 60.0


def rank(number: int, local_rank: int | None = None) -> Launch:
    local_rank = number if local_rank is None else local_rank
    return Launch(launcher="torchrun", rank=number, world_size=2, local_rank=local_rank, local_world_size=2)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(meeting, "START_SECONDS", PATIENCE)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    return tmp_path / "rnet"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(meeting, "START_SECONDS", 0.5)
    monkeypatch.setattr(meeting, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(meeting, "_REFUSED_SECONDS", 0.1)
    return


def meet(number: int) -> meeting.Meeting:
    return meeting._meet_on_one_machine(rank(number), Notice(["a launch"]))


def test_ranks_of_one_machine_find_each_other_by_a_file_that_only_their_user_can_read(own_folder: Path) -> None:
    with ThreadPoolExecutor() as pool:
        second = pool.submit(meet, 1)  # waits for the file
        first = meet(0)
        (file,) = own_folder.iterdir()
        assert (file.stat().st_mode & 0o777, own_folder.stat().st_mode & 0o777) == (0o600, 0o700)
        first.store.set("key", "value")
        assert second.result(PATIENCE).store.get("key") == b"value"
    assert [address for address, port in listening(os.getpid()) if port == first.store.port] == ["127.0.0.1"]
    first.settle()
    assert list(own_folder.iterdir()) == []
    assert Notice(["another launch"]).path.name != file.name


@pytest.mark.parametrize("left", ["dead", "foreign", "silent"])
def test_what_a_killed_run_left_confuses_nobody(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_ANSWER_SECONDS", 0.5)
    notice = Notice(["a launch"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        foreign = StoreServer("127.0.0.1", 0, b"the token of another run")
        port = {"dead": free_port(), "foreign": foreign.port, "silent": silent.getsockname()[1]}[left]
        assert notice.write(port, bytes(32))
        with ThreadPoolExecutor() as pool:
            second = pool.submit(meet, 1)
            time.sleep(0.2)
            first = meet(0)
            assert second.result(PATIENCE).store.port == first.store.port != port
        first.settle()
        foreign.close()


def test_two_runs_under_the_same_names_are_told(own_folder: Path) -> None:
    first = meet(0)
    with pytest.raises(UserError, match=r"another run is meeting on this machine.*give each run another MASTER_PORT"):
        meet(0)
    assert first.store.port in [port for _, port in listening(os.getpid())]
    assert len(list(own_folder.iterdir())) == 1
    first.settle()
    meet(0).settle()  # when all have met, the names are free again


def test_a_second_process_cannot_be_the_same_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    first = meeting.rendezvous(rank(0))
    meeting.rendezvous(rank(1))
    with pytest.raises(UserError, match=r"127.0.0.1:\d+ has a rank 1 already: two launches share"):
        meeting.rendezvous(rank(1, local_rank=0))
    first.settle()


def test_files_that_nobody_waits_for_are_taken_away(own_folder: Path) -> None:
    old, new = Notice(["old"]), Notice(["new"])
    for notice in (old, new):
        notice.write(1, b"")
    os.utime(old.path, (0, 0))
    meet(0).settle()
    assert list(own_folder.iterdir()) == [new.path]


@pytest.mark.parametrize("flaw", ["open to others", "a link", "a file"])
def test_a_folder_in_which_others_could_have_a_hand_is_refused(flaw: str, own_folder: Path, tmp_path: Path) -> None:
    if flaw == "a file":
        own_folder.touch()
    elif flaw == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        own_folder.symlink_to(tmp_path / "elsewhere")
    else:
        own_folder.mkdir()
        own_folder.chmod(0o770)
    with pytest.raises(UserError, match=rf"cannot meet in {own_folder}: it is not a folder that only you can use; rem"):
        meet(0)


def test_a_runtime_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert Notice(["a launch"]).path.parent == tmp_path / f"rnet-{os.getuid()}"


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    notice = Notice(["a launch"])
    (tmp_path / "theirs").write_text(json.dumps({"port": 1, "token": ""}))
    notice.path.symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic links"):
        notice.read()


@pytest.mark.usefixtures("quick")
def test_a_rank_that_finds_nobody_says_where_it_looked(own_folder: Path) -> None:
    with pytest.raises(UserError, match=rf"cannot reach rank 0 within 0 s through the file {own_folder}.*MASTER_ADDR"):
        meet(1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("there", ["nobody", "another token", "a silent stranger", "a web server"])
def test_where_the_token_is_not_known_the_address_and_the_remedy_are_told(
    there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNET_TOKEN", "x" * 32)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1] if there in ("a silent stranger", "a web server") else free_port()
        server = StoreServer("127.0.0.1", port, b"y" * 32) if there == "another token" else None
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        expected = {
            "nobody": rf"cannot reach rank 0 within 0 s at 127.0.0.1, port {port}: 127.0.0.1:{port}: .*refused",
            "another token": rf"store at 127.0.0.1:{port} refuses.*set RNET_TOKEN to the same in all processes",
        }.get(there, rf"cannot reach rank 0 within 0 s at 127.0.0.1, port {port}: 127.0.0.1:{port}: .*timed out")
        with pytest.raises(UserError, match=expected):
            meeting._meet_by_token(rank(1))
        if server is not None:
            server.close()


def test_ranks_of_several_machines_meet_by_the_token_at_the_first_port_that_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "_ANSWER_SECONDS", 0.5)
    for name, value in {
        "RNET_TOKEN": "x" * 32, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "a run",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    _, ports = meeting.address(rank(0), os.environ)
    with suppress(OSError), socket.create_server(("", ports[0])), ThreadPoolExecutor() as pool:
        second = pool.submit(meeting._meet_by_token, rank(1))
        first = meeting._meet_by_token(rank(0))
        assert second.result(PATIENCE).store.port == first.store.port
        assert first.store.port in ports[1:]


def test_a_port_in_use_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNET_TOKEN", "x" * 32)
    with socket.create_server(("", 0)) as other:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port := other.getsockname()[1]))
        with pytest.raises(UserError, match=rf"cannot hold the ranks' store at .*{port}: Address already.*MASTER_PORT"):
            meeting._meet_by_token(rank(0))


# The same training again and again while strangers are at work, until they are done. No rank may unpickle anything.
PROGRAM = """
import hashlib, os, sys
from pathlib import Path
import torch, torch.distributed as dist
from torch.distributed import distributed_c10d
from rnet.parallel.launch import launched
from rnet.parallel.processes import process_group

def refuse(*_, **__):
    raise AssertionError("a rank unpickles")

distributed_c10d._tensor_to_object = refuse
folder = Path(sys.argv[1])
me = launched()

def trained():
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(me.rank))
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return hashlib.sha256(model.module.weight.detach().numpy().tobytes()).hexdigest()

with process_group(me, "cpu"):
    undisturbed, rounds = trained(), 0
    (folder / f"met{me.rank}").write_text(f"{os.getpid()} {os.environ['MASTER_PORT']}")
    done = False
    while not done:
        assert trained() == undisturbed
        rounds += 1
        over = torch.tensor((folder / "done").exists())
        dist.broadcast(over, src=0)
        done = bool(over)
print("undisturbed" if rounds else "not tried", flush=True)
"""


def _disturb(ports: list[int], store: int) -> None:
    """What strangers can do who know all addresses."""
    held = []
    for port in ports:
        for data in (b"", b"\0", b"\0" * 8, b"\1" + b"\0" * 7, os.urandom(5000), b"GET / HTTP/1.0\r\n\r\n"):
            for keep in (True, False):
                with suppress(OSError):
                    stranger = socket.create_connection(("127.0.0.1", port), timeout=5)
                    stranger.sendall(data)
                    held.append(stranger) if keep else stranger.close()
    for _ in range(1000):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", store), timeout=5).close()
    failure = json.dumps({"rank": 1, "reason": "outsider"})
    with suppress(RuntimeError):
        torchs = TCPStore(
            "127.0.0.1", store, is_master=False, timeout=timedelta(seconds=0.5), wait_for_workers=False
        )  # fmt: skip
        torchs.set("group/0/watch/failure", failure)
        torchs.delete_key("group/0/watch/beat/1")
    for stranger in held:
        stranger.close()


def test_strangers_on_this_machine_neither_end_nor_change_a_run(tmp_path: Path, own_folder: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    met = [tmp_path / f"met{number}" for number in range(2)]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_ranks, "plain", program, tmp_path)
        while not all(path.exists() and path.read_text() for path in met) and not running.done():
            time.sleep(0.05)
        try:
            assert not running.done(), running.result()
            assert list(own_folder.iterdir()) == [], "all have met"
            (first, port), (second, _) = ([int(word) for word in path.read_text().split()] for path in met)
            found = listening(first) + listening(second)
            assert {address for address, _ in found} == {"127.0.0.1"}
            assert port in [port for _, port in found]
            _disturb([port for _, port in found], port)
        finally:
            (tmp_path / "done").touch()
        outcomes = running.result()
    assert [(outcome.returncode, outcome.stdout, outcome.stderr) for outcome in outcomes] == 2 * [
        (0, "undisturbed\n", "")
    ]
