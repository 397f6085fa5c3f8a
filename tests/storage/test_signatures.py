"""Signatures of manifests: made with a private key, checked with the public one, by rnet and by OpenSSL."""

from __future__ import annotations

import builtins
import random
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from rnet.errors import UserError
from rnet.storage.manifest import problems_of, write_manifest
from rnet.storage.signatures import make_keys, read_private_key, read_public_key, sign, signature_problem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "train" / "0123"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    write_manifest(folder, {})
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "key")
    return tmp_path / "key"


def test_a_signature_is_that_of_one_key_over_one_manifest(folder: Path, key: Path) -> None:
    mine = read_public_key(key.with_name("key.pub"))
    assert "is missing" in str(signature_problem(folder, mine))
    sign(folder, read_private_key(key))
    assert signature_problem(folder, mine) is None
    assert problems_of(folder) == []
    other = read_public_key(make_keys(key.with_name("other")))
    assert "another key" in str(signature_problem(folder, other))


def test_every_flipped_bit_of_manifest_and_signature_is_seen(folder: Path, key: Path) -> None:
    sign(folder, read_private_key(key))
    public, draw = read_public_key(key.with_name("key.pub")), random.Random(3)
    for path in (folder / "manifest.json", folder / "manifest.json.sig"):
        kept = path.read_bytes()
        for bit in draw.sample(range(8 * len(kept)), 100):
            changed = bytearray(kept)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            assert signature_problem(folder, public) is not None
        path.write_bytes(kept)
    for content in (b"", b"x" * 1000, (folder / "manifest.json.sig").read_bytes() + b"\n"):
        (folder / "manifest.json.sig").write_bytes(content)
        assert signature_problem(folder, public) is not None


def test_the_private_key_is_its_owners_and_is_not_overwritten(key: Path) -> None:
    before = key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(UserError, match="never overwritten"):
        make_keys(key)
    key.rename(key.with_name("moved"))
    with pytest.raises(UserError, match=r"key\.pub exists"):
        make_keys(key)
    assert key.with_name("moved").read_bytes() == before
    key.with_name("moved").chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        read_private_key(key.with_name("moved"))


def test_files_that_are_no_keys_are_refused(key: Path, tmp_path: Path) -> None:
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = load_pem_private_key(key.read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    cases: dict[str, tuple[bytes, str]] = {
        "public": (key.with_name("key.pub").read_bytes(), "no private key"),
        "text": (b"hello", "no private key"),
        "rsa": (rsa, "another kind"),
        "locked": (locked, "password"),
        "large": (b"x" * 1_000_000, "no private key"),
    }
    for name, (content, said) in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(UserError, match=said):
            read_private_key(file)
    for path in (key, tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="rnet store keygen"):
            read_public_key(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_checks_a_signature_without_rnet(folder: Path, key: Path) -> None:
    sign(folder, read_private_key(key))
    public, manifest = str(key.with_name("key.pub")), folder / "manifest.json"
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", str(manifest)]
    command += ["-sigfile", str(manifest.with_name("manifest.json.sig"))]
    assert subprocess.run(command, capture_output=True).returncode == 0
    manifest.write_bytes(manifest.read_bytes() + b" ")
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_without_the_package_it_is_said_how_to_install_it(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'rnet\[sign\]'"):
        read_public_key(key)
