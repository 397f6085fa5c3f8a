"""Weight files that come from outside: what is read, what is refused."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from rnet.errors import UserError, first_line


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a weight file by parameter name, on the CPU: .safetensors, or .pt, .pth, .bin of `torch.save`.

    Accepts {"state_dict": ...} and {"model": ...} around them and removes the prefix "module." of DataParallel. Raises
    UserError if the file is missing, unreadable or holds anything but tensors. Never executes code from the file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"weight file {path} {what}; give the path of a .safetensors, .pt, .pth or .bin file")
    content = _read_weights(path)
    if not isinstance(content, Mapping):
        raise _not_weights(path, f"a {type(content).__name__} and not a dictionary")
    for wrapper in ("state_dict", "model"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not content:
        raise _not_weights(path, "no tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _not_weights(path, f"a {type(value).__name__} under {name!r}")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value.detach() for name, value in content.items()}


def _read_weights(path: Path) -> Any:
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise UserError(f"weight file {path} ends in {path.suffix!r}; give a .safetensors, .pt, .pth or .bin file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"weight file {path} was refused: it is no file of tensors, or it holds Python objects"
            f"{f' ({culprit[1]})' if culprit else ''}, which could run code; if you trust it, write it again with "
            "torch.save(model.state_dict(), path) or as .safetensors"
        ) from error
    except Exception as error:  # arbitrary bytes make these readers raise almost anything, struct.error for one
        raise UserError(
            f"weight file {path} ({path.stat().st_size} bytes) cannot be read, it may be truncated or not be what its "
            f"name says: {first_line(error)}; copy or download it again and compare its size with the original"
        ) from error


def _not_weights(path: Path, holds: str) -> UserError:
    return UserError(
        f"weight file {path} holds {holds}; expected tensors by parameter name, as from torch.save(model.state_dict(), "
        'path), alone or under "state_dict" or "model"'
    )
