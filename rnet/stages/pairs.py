"""Independent models compared with each other: what verify stages keep of them, and the scores of all their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from rnet.defenses.base import Defense
from rnet.errors import UserError, first_line
from rnet.parallel.collectives import rank
from rnet.stages.store import StageFolder
from rnet.storage.files import write_atomic
from rnet.storage.manifest import again

FILE = "representation.safetensors"


def save_representation(folder: StageFolder, representation: dict[str, Tensor]) -> None:
    """Writes representation.safetensors."""
    data = tensors_to_bytes({name: tensor.contiguous() for name, tensor in representation.items()})
    if rank() == 0:
        write_atomic(folder.path / FILE, data)


def pair_scores(defense: Defense, folders: Sequence[StageFolder]) -> list[dict[str, float]]:
    """What `Defense.between` says of every two of these finished verify stages, in the order of itertools.combinations.

    It is nothing, {}, for a stage that keeps no representation: of a derived suspect, of a defence without any. Raises
    UserError for a representation that is missing or damaged.
    """
    kept = [_representation(folder) for folder in folders]
    return [defense.between(one, other) if one and other else {} for one, other in combinations(kept, 2)]


def _representation(folder: StageFolder) -> dict[str, Tensor]:
    if FILE not in folder.files():
        return {}
    path = folder.file(FILE)
    try:
        return tensors_from_bytes(path.read_bytes())
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}); {again(folder.path)}") from None
