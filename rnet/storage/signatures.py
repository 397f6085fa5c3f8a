"""Signatures of manifests: who vouches for a finished stage, for results that leave the house.

Ed25519 over the bytes of manifest.json; the 64 bytes of the signature are in manifest.json.sig beside it. Keys are PEM
files as OpenSSL has them, the public one under the name of the private one with .pub.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnet.errors import UserError
from rnet.storage.files import replace_file, unwritable
from rnet.storage.manifest import MANIFEST, SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_LARGEST = 100_000
"""Bytes of a key file; a key has about a hundred."""


def make_keys(file: Path) -> Path:
    """Writes a new private key, for its owner alone (mode 0600), and the public one, whose path it returns.

    Raises UserError if one of the files exists or cannot be written.
    """
    _, ed25519 = _cryptography()
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = file.with_name(f"{file.name}.pub")
    for path in (file, beside):
        if path.exists():
            raise UserError(f"{path} exists, and a key is never overwritten; choose another name")
    for path, data, mode in ((file, private, 0o600), (beside, public, 0o644)):
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
                opened.write(data)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another place for the key") from None
    return beside


def read_private_key(file: Path) -> Ed25519PrivateKey:
    """The key to sign with. Raises UserError for a file that is none, or that others than its owner may read."""
    _cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _read(file, "private", lambda data: load_pem_private_key(data, password=None))
    mode = stat.S_IMODE(file.expanduser().stat().st_mode)
    if mode & 0o077:
        raise UserError(f"{file} may be read by others (mode {mode:04o}); chmod 600 {file}, or make another key")
    return key


def read_public_key(file: Path) -> Ed25519PublicKey:
    """The key to check with. Raises UserError for a file that is none."""
    _cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _read(file, "public", load_pem_public_key)


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Signs the folder's manifest as it is, in place of a signature that is there. Raises UserError."""
    path = folder / SIGNATURE
    try:
        signature = key.sign((folder / MANIFEST).read_bytes())
        replace_file(path, lambda file: file.write(signature))
    except OSError as error:
        raise unwritable(path, error) from None


def signature_problem(folder: Path, key: Ed25519PublicKey) -> str | None:
    """Why the folder's manifest does not count as signed with the key, in words; None if it does."""
    exceptions, _ = _cryptography()
    path = folder / SIGNATURE
    try:
        signature = path.read_bytes() if path.stat().st_size < _LARGEST else b""
        key.verify(signature, (folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"{path} is missing: nobody has signed this stage"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except exceptions.InvalidSignature:
        return f"{path} does not fit: another key has signed this stage, or its {MANIFEST} was changed afterwards"
    return None


def _read(file: Path, kind: str, load: Any) -> Any:
    exceptions, ed25519 = _cryptography()
    wanted = ed25519.Ed25519PrivateKey if kind == "private" else ed25519.Ed25519PublicKey
    remedy = "make one with `rnet store keygen FILE`, which writes FILE (private) and FILE.pub (public)"
    try:
        path = file.expanduser()
        fits = path.is_file() and path.stat().st_size < _LARGEST
        key = load(path.read_bytes() if fits else b"")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; check its owner") from None
    except (ValueError, exceptions.UnsupportedAlgorithm):
        raise UserError(f"{file} holds no {kind} key; {remedy}") from None
    except TypeError:
        raise UserError(f"{file} is protected by a password, which rnet cannot ask for; {remedy}") from None
    if not isinstance(key, wanted):
        raise UserError(f"{file} holds a key of another kind than Ed25519; {remedy}")
    return key


def _cryptography() -> tuple[Any, Any]:
    """The parts of the package that every function needs. Raises UserError where it is not installed."""
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise UserError("signatures need the package cryptography: pip install 'rnet[sign]'") from None
    return exceptions, ed25519
