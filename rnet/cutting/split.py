"""SplitModel: any traceable classifier as tail(head(x)), cut after a named submodule, equal to it bit for bit."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from rnet.cutting.tracing import CannotCut, Program, trace_program
from rnet.errors import UserError


class SplitModel(nn.Module):
    """F = tail o head. `model` is used as it is: same parameters, same state, no hooks, nothing copied.

    model: takes one tensor (B, C, H, W), returns logits (B, K). layer: a submodule of it (of its backbone, for a
    Classifier) that is called exactly once and returns one tensor; all that is computed after it must follow from that
    tensor. place: the setting that errors name. Raises UserError where the model cannot be cut there.

    forward, head and tail do what the model itself would do, whichever of its modules are in train or eval mode, random
    draws and batch norm statistics included. Two things are different, for the modules that enclose the cut layer only:
    their forward hooks do not run, and attributes that their forward() assigns are not kept.
    """

    def __init__(self, model: nn.Module, layer: str, *, place: str = "attack.layer") -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.layer = layer
        self.place = place
        self._cut = _find_layer(model, layer, place)
        self._trace_modes()

    def head(self, x_BCHW: Tensor) -> Tensor:
        """z: what the cut layer returns for x, shape (B, ...)."""
        z = self._program().head(self.model, x_BCHW)
        if not isinstance(z, Tensor):
            raise UserError(
                f"{self.place}={self.layer!r} of {_name_of(self.model)} returns a {type(z).__name__}, not one tensor; "
                "choose a module inside or around it"
            )
        return z

    def tail(self, z: Tensor) -> Tensor:
        """Logits (B, K) from z. z keeps its values, even if the model goes on with an in-place operation."""
        program = self._program()
        if self._may_write(program, z):
            z = z.clone()
        return _logits(program.tail(self.model, z), self.model)

    def forward(self, x_BCHW: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, K) as model(x) gives them; with return_features also z, both from the same pass."""
        z = self.head(x_BCHW)
        if return_features:
            return self.tail(z), z
        return _logits(self._program().tail(self.model, z), self.model)

    def _may_write(self, program: Program, z: Tensor) -> bool:
        """Whether tail has to be given a copy of z. The answer never depends on how often it was asked.

        A copy changes the order in which gradients of z are summed, so a first call that differed from later ones
        would make a resumed run differ from an uninterrupted one. In train mode always; in eval mode if one run, which
        has no side effects there, shows that the model writes.
        """
        if torch.is_inference_mode_enabled() or z.is_inference():  # writes leave no trace there
            return True
        if any(module.training for module in self.model.modules()):
            return True
        if program.writes_z is None:
            with torch.no_grad():
                copy = z.clone()
                version = copy._version
                program.tail(self.model, copy)
                program.writes_z = copy._version != version
        return program.writes_z

    @property
    def cut(self) -> str:
        """The cut layer's full name in `model`."""
        return self._cut

    @property
    def modes(self) -> dict[str, tuple[str, str]]:
        """The source of head and tail in "train" and in "eval" mode, to look at."""
        count = len(self._ancestors())
        programs = {"train": self._programs[(True,) * count], "eval": self._programs[(False,) * count]}
        return {mode: (program.head_source, program.tail_source) for mode, program in programs.items()}

    @property
    def direct_parameters(self) -> list[str]:
        """Names (in `model`) of the parameters that head or tail read themselves rather than through a submodule.

        Class tokens, position embeddings and the like: an engine that shards parameters has to gather them.
        """
        read = set().union(*(program.reads for program in self._programs.values()))
        return [name for name, _ in self.model.named_parameters() if name in read]

    def _ancestors(self) -> list[nn.Module]:
        """The modules around the cut layer, outermost first."""
        modules = [self.model]
        for name in self._cut.split(".")[:-1]:
            modules.append(getattr(modules[-1], name))
        return modules

    def _program(self) -> Program:
        """The program for the modes that the enclosing modules are in now: `self.training` is a constant of a trace."""
        ancestors = self._ancestors()
        modes = tuple(module.training for module in ancestors)
        if modes not in self._programs:
            try:
                self._programs[modes] = trace_program(self.model, self._cut, ancestors)
            except CannotCut as error:
                raise UserError(
                    f"{self.place}={self.layer!r} is no place to cut {_name_of(self.model)}: {error}"
                ) from error
        return self._programs[modes]

    def _trace_modes(self) -> None:
        """Traces the model all in train and all in eval mode, and puts every module's mode back."""
        self._programs: dict[tuple[bool, ...], Program] = {}
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            for training in (True, False):
                for module, _ in modes:
                    module.training = training
                self._program()
        finally:
            for module, training in modes:
                module.training = training

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry the model, not the functions generated for it."""
        return {key: value for key, value in self.__dict__.items() if key != "_programs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._trace_modes()


def channel_axis(z: Tensor) -> int:
    """The axis of a feature tensor that counts channels.

    1 for (B, C) and (B, C, H, W), the last for tokens (B, N, C). A four-dimensional z is (B, H, W, C), as in Swin, if
    its axes 1 and 2 are equal and differ from the last; where the shape does not tell, 1.
    """
    if z.dim() == 3:
        return 2
    if z.dim() == 4 and z.shape[1] == z.shape[2] != z.shape[3]:
        return 3
    return 1


def _name_of(model: nn.Module) -> str:
    return str(getattr(model, "architecture", type(model).__name__))


def _find_layer(model: nn.Module, layer: str, place: str) -> str:
    """The full name of the layer in the model, the first one if it has several."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in (layer, f"backbone.{layer}"):
        if layer and name in modules:
            return next(first for first, module in model.named_modules() if module is modules[name])
    offered = [name for name, _ in modules.get("backbone", model).named_modules() if name]
    top = [name for name in offered if "." not in name]
    close = difflib.get_close_matches(layer, offered, n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(close)}? Choose" if close and not set(close) <= set(top) else "choose"
    nested = ", or a module inside one of them" if len(offered) > len(top) else ""
    raise UserError(f"{place}={layer!r} is not a module of {_name_of(model)}; {hint} one of {', '.join(top)}{nested}")


def _logits(output: Any, model: nn.Module) -> Tensor:
    if not isinstance(output, Tensor):
        raise UserError(
            f"{_name_of(model)} returns a {type(output).__name__}; a model must return its logits as one tensor "
            "(switch auxiliary outputs off)"
        )
    return output
