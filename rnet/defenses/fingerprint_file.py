"""A fingerprint on disk: fingerprint.safetensors for the tensors, fingerprint.json for the rest and their digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from rnet.defenses.base import Fingerprint
from rnet.errors import UserError
from rnet.storage.files import write_atomic
from rnet.storage.json_files import write_json


def save_fingerprint(folder: Path, fingerprint: Fingerprint, *, victim_id: str) -> None:
    """Writes both files atomically; the JSON file, written last, makes the fingerprint complete."""
    data = tensors_to_bytes({name: tensor.contiguous() for name, tensor in fingerprint.tensors.items()})
    write_atomic(folder / "fingerprint.safetensors", data)
    about = {"victim": victim_id, "sha256": hashlib.sha256(data).hexdigest(), "metadata": fingerprint.metadata}
    write_json(folder / "fingerprint.json", about, to_read=True)


def load_fingerprint(folder: Path, *, victim_id: str) -> Fingerprint:
    """The fingerprint of that victim. Raises UserError if a file is missing or damaged or belongs to another victim."""
    remedy = f"delete {folder} and run the command again"
    try:
        data = (folder / "fingerprint.safetensors").read_bytes()
        about = json.loads((folder / "fingerprint.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"the fingerprint in {folder} cannot be read ({error}); {remedy}") from None
    if about["victim"] != victim_id:
        raise UserError(
            f"the fingerprint in {folder} belongs to victim {about['victim']}, not to {victim_id}; {remedy}"
        )
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise UserError(f"{folder / 'fingerprint.safetensors'} is truncated or altered; {remedy}")
    return Fingerprint(tensors=tensors_from_bytes(data), metadata=about["metadata"])
