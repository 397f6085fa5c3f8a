"""DeepJudge's fuzzing written the obvious way, one (seed, neuron) pair at a time: the yardstick for the batched one.

Shapes: N seeds, M targeted neurons, P cases, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnet.defenses.deepjudge.fuzzing import Fuzzed, Phi


def sequential_fuzz(
    phi: Phi,
    seeds_NCHW: Tensor,
    neuron_M: Tensor,
    threshold_M: Tensor,
    *,
    learning_rate: float = 0.01,
    max_steps: int = 1000,
    box: bool = True,
) -> Fuzzed:
    """The cases of `rnet.defenses.deepjudge.fuzzing.fuzz`, in the same order, found one after the other.

    The loop is the authors': a step of Adam, then a look at the neuron. The model must be frozen and in eval mode.
    """
    cases, neurons = [], []
    for x_CHW in seeds_NCHW:
        for c, threshold in zip(neuron_M.tolist(), threshold_M.tolist(), strict=True):
            x_1CHW = x_CHW[None].clone().requires_grad_(True)
            adam = torch.optim.Adam([x_1CHW], lr=learning_rate, maximize=True)
            for _ in range(max_steps):
                adam.zero_grad()
                phi(x_1CHW)[0, c].backward()
                adam.step()
                with torch.no_grad():
                    if box:
                        x_1CHW.clamp_(0.0, 1.0)
                    reached = phi(x_1CHW)[0, c].item() > threshold
                if reached:
                    cases.append(x_1CHW.detach().cpu())
                    neurons.append(c)
                    break
    x_PCHW = torch.cat(cases) if cases else seeds_NCHW[:0].cpu()
    return Fuzzed(
        x_PCHW=x_PCHW,
        neuron_P=torch.tensor(neurons, dtype=torch.int64),
        attempted=len(seeds_NCHW) * len(neuron_M),
        reached=len(cases),
    )
