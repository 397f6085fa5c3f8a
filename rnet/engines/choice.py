"""Which engine a run gets, and what is refused before anything starts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnet.engines.base import Engine
from rnet.engines.config import EngineConfig
from rnet.engines.registry import ENGINES
from rnet.errors import UserError

logger = logging.getLogger(__name__)


def check_engine(config: EngineConfig, precision: str, processes: int, device: torch.device) -> None:
    """Raises UserError for a combination that so many processes cannot run; needs no process group."""
    config.check()
    engine_class(config).check_config(config, precision, processes)
    if config.compile is True and config.activation_checkpointing:
        raise UserError("engine.compile=true and engine.activation_checkpointing=true exclude each other; choose one")
    if config.victim == "zero3" and processes == 1:
        raise UserError("engine.victim=zero3 divides the victim among processes, but there is one; use replica")
    if precision == "fp16" and device.type == "cpu" and not cpu_has_fp16():
        raise UserError("precision=fp16 needs a GPU or a CPU with AVX512-FP16; use precision=bf16 or fp32")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision=bf16 is not supported by this GPU; use precision=fp16 or fp32")
    if precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("precision=bf16 is emulated by this CPU, many times slower than precision=fp32")
    if config.backend == "nccl" and device.type == "cpu":
        raise UserError("engine.backend=nccl needs CUDA devices; use gloo or auto")


def engine_class(config: EngineConfig) -> type[Engine]:
    """The class of an engine; for `auto`, which is decided later, what all engines have in common."""
    ENGINES.check_class(config)
    return Engine if config.name == "auto" else ENGINES.load(config.name)


def cpu_has_fp16() -> bool:
    """Whether this CPU computes convolutions in float16."""
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def check_batch(
    config: EngineConfig, place: str, batch_size: int, model: nn.Module, processes: int, *, accumulate: int = 1
) -> None:
    """Raises UserError unless the processes and micro-batches can share the batch and it stays the same experiment.

    accumulate: the recipe's own micro-batches, which are a part of the experiment.
    """
    pieces = processes * config.accumulate * accumulate
    if batch_size % pieces:
        what = f"{processes} processes" if pieces == processes else f"{pieces} shares (processes x accumulate)"
        raise UserError(
            f"{place}={batch_size} cannot be divided into {what}; use a multiple of {pieces}, "
            f"e.g. {-(-batch_size // pieces) * pieces}"
        )
    if config.accumulate > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise UserError(
            f"engine.accumulate={config.accumulate} would change the statistics of this network's batch norm, so the "
            f"result; use engine.activation_checkpointing=true or more processes to save memory"
        )


def resolve_engine(config: EngineConfig, world_size: int) -> EngineConfig:
    """The configuration with `auto` (and ddp of one process) decided, where the stage has not: a plan of its memory
    says whether parameters are to be divided (rnet/planning/choice.py)."""
    if world_size == 1:
        return replace(config, name="plain") if config.name in ("auto", "ddp") else config
    return replace(config, name="ddp") if config.name == "auto" else config


def divides_parameters(config: EngineConfig) -> bool:
    """Whether the engine of a resolved configuration leaves each process a share of the parameters only."""
    return config.name == "deepspeed" and config.zero_stage == 3


def build_engine(
    config: EngineConfig, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, **settings: Any
) -> Engine:
    """The engine of a resolved configuration. settings: device, precision and clip_norm."""
    settings |= {"accumulate": config.accumulate, "activation_checkpointing": config.activation_checkpointing}
    settings |= {"compiled": config.compile, "cuda_graph": config.cuda_graph, "quicken": config.quicken}
    return engine_class(config)(model, optimizer, scheduler, config=config, **settings)
