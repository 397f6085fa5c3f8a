"""What every op asks of its tensors, with errors that name the op, the tensor and the remedy."""

from __future__ import annotations

import torch
from torch import Tensor

from rnet.errors import UserError

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def check_floats(op: str, **tensors: Tensor) -> None:
    """Raises UserError unless all are bfloat16, float16, float32 or float64."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise UserError(
                f"{op}: {name} is {_type(tensor)}; give bfloat16, float16, float32 or float64 ({name}.float())"
            )


def check_indices(op: str, **tensors: Tensor) -> None:
    """Raises UserError unless all are int64."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int64:
            raise UserError(f"{op}: {name} is {_type(tensor)}; give int64 ({name}.long())")


def check_same_device(op: str, **tensors: Tensor) -> None:
    """Raises UserError unless all are on the device of the first."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != first.device:
            raise UserError(
                f"{op}: {name} is on {tensor.device} but {first_name} on {first.device}; "
                f"move it there ({name}.to({first_name}.device))"
            )


def check_shape(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Raises UserError unless the tensor has that shape; meaning says where the shape comes from."""
    if tuple(tensor.shape) != shape:
        raise UserError(f"{op}: {name} has shape {tuple(tensor.shape)}; give {shape} ({meaning})")


def check_scores(op: str, name: str, tensor: Tensor) -> None:
    """Raises UserError unless the tensor is a matrix with at least one row (a sample) and one column (a class)."""
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise UserError(
            f"{op}: {name} has shape {tuple(tensor.shape)}; give (samples, classes) with at least one of each"
        )


def check_range_on_cpu(op: str, name: str, indices: Tensor, size: int) -> None:
    """Raises UserError for an index outside [0, size), on CPUs only: reading a value from a GPU would wait for it."""
    if indices.device.type == "cpu":
        lowest, highest = (int(bound) for bound in indices.aminmax())
        if lowest < 0 or highest >= size:
            raise UserError(f"{op}: {name} has {lowest if lowest < 0 else highest}; give values from 0 to {size - 1}")


def arithmetic_type(*tensors: Tensor) -> torch.dtype:
    """float64 if one of the tensors is, else float32: the type that an op computes in."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
