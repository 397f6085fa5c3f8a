"""A fingerprint on disk: fingerprint.safetensors for the tensors, fingerprint.json for the rest and their digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from rnet.defenses.base import Fingerprint
from rnet.errors import UserError, first_line
from rnet.storage.files import write_atomic
from rnet.storage.json_files import parse_json, write_json

TENSORS, ABOUT = "fingerprint.safetensors", "fingerprint.json"


def save_fingerprint(folder: Path, fingerprint: Fingerprint, *, victim_id: str) -> None:
    """Writes both files atomically; the JSON file, written last, makes the fingerprint complete."""
    data = tensors_to_bytes({name: tensor.contiguous() for name, tensor in fingerprint.tensors.items()})
    write_atomic(folder / TENSORS, data)
    about = {"victim": victim_id, "sha256": hashlib.sha256(data).hexdigest(), "metadata": fingerprint.metadata}
    write_json(folder / ABOUT, about, to_read=True)


def load_fingerprint(folder: Path, *, victim_id: str) -> Fingerprint:
    """The fingerprint of that victim. Raises UserError if a file is missing or damaged or belongs to another victim."""
    remedy = f"delete {folder} and run the command again"
    try:
        data = (folder / TENSORS).read_bytes()
        about = parse_json((folder / ABOUT).read_bytes())
        victim, sha256, metadata = str(about["victim"]), str(about["sha256"]), dict(about["metadata"])
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(f"{folder / TENSORS} is truncated or altered; {remedy}")
        tensors = tensors_from_bytes(data)
    except OSError as error:
        raise UserError(f"the fingerprint in {folder} cannot be read ({error}); {remedy}") from None
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"the fingerprint in {folder} is damaged ({first_line(error)}); {remedy}") from None
    if victim != victim_id:
        raise UserError(f"the fingerprint in {folder} belongs to victim {victim}, not to {victim_id}; {remedy}")
    return Fingerprint(tensors=tensors, metadata=metadata)
