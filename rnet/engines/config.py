"""How a stage is executed: engine, processes, device, checkpoints and curves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rnet.config.component import ComponentConfig
from rnet.errors import UserError, unknown_name

_WORDS = {"backend": ("auto", "gloo", "nccl"), "victim": ("replica", "zero3")}
_LEAST = {"accumulate": 1, "log_every": 1, "eval_every": 1, "eval_samples": 1, "workers": 0, "checkpoint_steps": 0}
_DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?")  # torch takes cuda:128 for cuda:-128


@dataclass(frozen=True, kw_only=True)
class EngineConfig(ComponentConfig):
    """How a stage is executed. Nothing here changes a result, and nothing here is part of an id."""

    name: str = "auto"
    """plain (one process), ddp, deepspeed, auto (plain on one process, ddp on several, ZeRO-3 if that is too big), or
    your own, package.module:Class."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda (each process its own) or cuda:N."""
    backend: str = "auto"
    """What processes talk through: auto (nccl on CUDA, gloo on CPUs), nccl or gloo."""
    zero_stage: int = 2
    """engine=deepspeed: divide nothing (0), optimizer state (1), also gradients (2), also parameters (3)."""
    offload: bool = False
    """engine=deepspeed: keep optimizer state, and parameters at stage 3, in the host's memory."""
    victim: str = "replica"
    """The frozen victim in an attack: a replica on each process, or zero3 to divide its parameters among them."""
    accumulate: int = 1
    """Micro-batches of a step; 2 halves the memory for activations. Not for networks with batch norm."""
    activation_checkpointing: bool = False
    """Recompute the activations of repeated blocks in the backward pass rather than keep them."""
    cuda_graph: bool = True
    """On CUDA and in one process, record the lower level of an attack once as a CUDA graph and replay it."""
    quicken: bool = True
    """Rewrite convolutions of small maps to take less work, in the frozen copy on which a lower level runs and, those
    of 2x2 pixels on CPUs, in training; have a linear layer after the cut read once what a pool would repeat for it."""
    compile: bool | str = "auto"
    """torch.compile: true (every forward pass of training too; slow to start), false, or auto: on CUDA the part of an
    attack's lower level that is repeated many times."""
    checkpoint_seconds: float = 30.0
    """A checkpoint is written at the first step boundary after this many seconds."""
    checkpoint_steps: int = 0
    """If above 0, also after every so many steps."""
    workers: int | None = None
    """Processes that read images ahead, for each process that trains, where the images do not fit in memory; 0 reads in
    threads, None is one for each core that is there, 16 at most."""
    log_every: int = 10
    """Steps between two points of the TensorBoard curves; several processes agree on checkpoints as often."""
    eval_every: int = 100
    """Steps between two measurements of accuracy and agreement while training."""
    eval_samples: int = 1000
    """Test images (at most) used for those measurements; final results always use all."""
    probe_every: int = 20
    """Steps between two looks at how an attack evades: a few fixed queries whose answers are compared with the victim's
    (docs/monitoring.md); 0 switches them off."""
    pictures: bool = False
    """When an attack ends, show victim and suspect side by side in TensorBoard: saliency, decision boundaries, latents.
    Needs captum (pip install 'rnet[pictures]'); takes a second or two on small images."""

    def check(self) -> None:
        """Raises UserError for values out of range, whatever the machine and the number of processes."""
        for key, valid in _WORDS.items():
            if getattr(self, key) not in valid:
                raise unknown_name(f"engine.{key}", getattr(self, key), valid)
        check_device(self.device)
        if self.zero_stage not in range(4):
            raise UserError(f"engine.zero_stage={self.zero_stage} must be 0, 1, 2 or 3")
        if self.compile not in (True, False, "auto"):
            raise UserError(f"engine.compile={self.compile!r} must be true, false or auto")
        for key, least in _LEAST.items():
            if (value := getattr(self, key)) is not None and value < least:
                raise UserError(f"engine.{key}={value} must be at least {least}")
        if not self.checkpoint_seconds >= 0:
            raise UserError(f"engine.checkpoint_seconds={self.checkpoint_seconds} must be 0 or more")
        if self.probe_every < 0:
            raise UserError(f"engine.probe_every={self.probe_every} must be at least 1, or 0 for no probes")


def check_device(name: str) -> None:
    """Raises UserError unless it is auto, cpu, cuda or cuda:N, there or not."""
    if not _DEVICE.fullmatch(name):
        raise UserError(f"engine.device={name!r} is no device; choose auto, cpu, cuda or cuda:N")
