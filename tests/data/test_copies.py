"""Shards from a web server and copies on this machine: whole, once, and never of two versions."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from rnet.data.datasets.config import WebDatasetConfig
from rnet.data.files import copies
from rnet.data.files.copies import expanded
from rnet.data.files.digest import look_at
from rnet.data.loading import load_dataset
from rnet.errors import UserError
from tests.data.test_shards import photograph, write_shard

NAMES = ("train-000.tar", "train-001.tar", "val-000.tar")


class Server(ThreadingHTTPServer):
    """Serves files of a folder, and of a file only so many bytes an answer while it has breaks left."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []
        self.breaks: dict[str, int] = {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}/set"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked.append((name, self.headers["Range"]))
        if not (file := self.server.folder / name).is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        start = 0
        if (wanted := self.headers["Range"]) and self.headers["If-Range"] == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", "Thu, 05 Nov 2026 10:00:00 GMT")
        self.end_headers()
        rest = content[start:]
        if self.server.breaks.get(name, 0):
            self.server.breaks[name] -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *about: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for place, name in enumerate(NAMES):
        files: dict[str, bytes] = {}
        for number in range(6 * place, 6 * place + 6):
            files |= {f"{number}.jpg": photograph(number, ".jpg"), f"{number}.cls": b"%d" % (number % 3)}
        write_shard(tmp_path / "served" / name, files)
    monkeypatch.setattr(copies, "CACHE", str(tmp_path / "usual"))
    monkeypatch.setattr(copies, "_PAUSE", 0)
    server = Server(tmp_path / "served")
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def config(folder: str, **changes: Any) -> WebDatasetConfig:
    return WebDatasetConfig(folder=folder, image_size=16, substitute_pool=2, **changes)


def same(one: Any, other: Any) -> bool:
    return all(
        torch.equal(a.pixels(), b.pixels()) and torch.equal(a.labels_N, b.labels_N)
        for a, b in ((one.train, other.train), (one.substitute, other.substitute))
    )


def test_shards_from_a_server_that_breaks_off_are_those_of_the_folder_and_fetched_once(
    server: Server, tmp_path: Path
) -> None:
    (server.folder / "classes.txt").write_text("heron\nowl\nwren\n")
    server.breaks = {"train-000.tar": 2, "train-001.tar": 1}
    found = load_dataset(config(f"{server.address}/train-{{000..001}}.tar", cache=str(tmp_path / "cache")))
    assert sorted(name for name, wanted in server.asked if wanted) == ["train-000.tar"] * 2 + ["train-001.tar"]
    (server.folder / "val-000.tar").unlink()
    assert same(found, load_dataset(config(str(server.folder))))
    assert found.class_names == ("heron", "owl", "wren")
    asked = len(server.asked)
    load_dataset(config(f"{server.address}/train-{{000..001}}.tar", cache=str(tmp_path / "cache")))
    assert len(server.asked) == asked
    assert not list(tmp_path.rglob("cache/**/*.part*"))


def test_two_machines_have_one_id_even_where_it_is_of_names_sizes_and_times(server: Server, tmp_path: Path) -> None:
    address = f"{server.address}/train-{{000..001}}.tar"
    looks = [look_at(config(address, cache=str(tmp_path / node), digest="listing")) for node in ("a", "b")]
    assert looks[0] is not None
    assert looks[1] is not None
    assert looks[0].sha256 == looks[1].sha256
    assert looks[0].folder != looks[1].folder


def test_what_cannot_be_fetched_whole_is_named_and_gone_on_with(server: Server) -> None:
    server.breaks = {"train-001.tar": 5}
    address = f"{server.address}/train-{{000..001}}.tar"
    with pytest.raises(UserError, match=r"train-001\.tar cannot be fetched whole: the connection ended after .* again"):
        load_dataset(config(address))
    server.asked.clear()
    load_dataset(config(address))
    assert [name for name, _ in server.asked if name.startswith("train")] == ["train-001.tar"]
    assert all(wanted for name, wanted in server.asked if name == "train-001.tar")


def test_a_shard_that_changes_on_the_server_is_fetched_anew(server: Server) -> None:
    server.breaks = {"train-000.tar": 5}
    address = f"{server.address}/train-000.tar"
    with pytest.raises(UserError, match="cannot be fetched whole"):
        load_dataset(config(address))
    changed = (server.folder / "train-001.tar").read_bytes()
    (server.folder / "train-000.tar").write_bytes(changed)
    look = look_at(config(address))
    assert look is not None
    assert (look.folder / "train-000.tar").read_bytes() == changed


def test_what_the_server_lacks_and_what_has_another_checksum_is_named(server: Server) -> None:
    with pytest.raises(UserError, match=r"train-002\.tar cannot be fetched: the server answers 404"):
        load_dataset(config(f"{server.address}/train-{{000..002}}.tar"))
    (server.folder / "classes.txt").write_text("heron\nowl\nwren\n")
    for name in ("classes.txt", "val-000.tar"):
        (server.folder / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
        with pytest.raises(UserError, match=rf"{name} cannot be fetched whole: its SHA-256 is not that of SHA256SUMS"):
            load_dataset(config(f"{server.address}/val-000.tar"))


def test_copies_of_a_folder_have_its_id_and_follow_its_changes(server: Server, tmp_path: Path) -> None:
    cached = config(str(server.folder), cache=str(tmp_path / "node"), digest="listing")
    look, original = look_at(cached), look_at(config(str(server.folder), digest="listing"))
    assert look is not None
    assert original is not None
    assert look.sha256 == original.sha256
    assert look.folder.is_relative_to(tmp_path / "node")
    assert same(load_dataset(cached), load_dataset(config(str(server.folder))))
    changed = server.folder / "train-000.tar"
    changed.write_bytes((server.folder / "train-001.tar").read_bytes())
    os.utime(changed, (5, 5))
    again = look_at(cached)
    assert again is not None
    assert (again.folder / "train-000.tar").read_bytes() == changed.read_bytes()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{0..1}/x{1..2}", ["0/x1", "0/x2", "1/x1", "1/x2"]),
        ("{9..11}", ["9", "10", "11"]),
        ("plain.tar", ["plain.tar"]),
        ("a{3..1}", r"{3\.\.1} in a{3\.\.1} must count upwards"),
        ("a{0..999999999}", "must count upwards, to at most 100,000"),
        ("a{x,y}", "braces that are no range"),
    ],
)
def test_ranges_are_written_out_as_a_shell_does(text: str, found: list[str] | str) -> None:
    if isinstance(found, list):
        assert expanded(text) == found
        return
    with pytest.raises(UserError, match=found):
        expanded(text)


def test_several_addresses_name_each_shard_once(server: Server) -> None:
    parts = ("train-{000..001}", "val-000", "train-001")
    found = load_dataset(config("::".join(f"{server.address}/{part}.tar" for part in parts)))
    expected = load_dataset(config(str(server.folder)))
    for name in ("train", "substitute", "test"):
        assert len(getattr(found, name)) == len(getattr(expected, name))


@pytest.mark.parametrize(
    "address", ["ftp://host/a.tar", "http://host/a.tar::b.tar", "http://host/a.zip", "http://host/{0..1}/a.tar"]
)
def test_addresses_that_name_no_shards_of_one_folder_are_refused(address: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"dataset.folder={address!r} must be a folder, or")):
        load_dataset(config(address))
