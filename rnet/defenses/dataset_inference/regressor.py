"""Dataset Inference's regressor: from the margins around an image, how surely was it private?

Shapes: N images, or rows that the authors' notebook makes of them; F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnet.defenses.queries import seeded_generator

NUM_NORMS = 3


def scaling(margins_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each norm's margins, repeated to (F,) = (3 * directions,).

    Directions of one norm are alike, so they are pooled, as the authors do. Margins that never vary are not rescaled.
    """
    directions = margins_NF.shape[1] // NUM_NORMS
    std_3, mean_3 = torch.std_mean(margins_NF.view(len(margins_NF), NUM_NORMS, directions), dim=(0, 2))
    std_3 = torch.where(std_3 > 0, std_3, 1.0)
    return mean_3.repeat_interleave(directions), std_3.repeat_interleave(directions)


def mixed_rows(margins_NF: Tensor) -> Tensor:
    """Rows (N, F) as the notebook of the authors makes them: each holds one norm and one direction of F images.

    The table is read column by column and cut into rows again, so the images of a row are neighbours, and the first
    rows hold the first norm, the last ones the last.
    """
    return margins_NF.T.reshape(margins_NF.shape)


def train_regressor(
    private_NF: Tensor, public_NF: Tensor, *, hidden_size: int, learning_rate: float, steps: int, seed: int
) -> dict[str, Tensor]:
    """Weights, float64, of tanh(linear(relu(linear(f)))), trained to be high on private and low on public features.

    Full-batch gradient descent on minus the mean of +-output (the authors' loss). Uniform start of +-1/sqrt(inputs).
    """
    generator = seeded_generator(seed, "dataset_inference/regressor")

    def start(*shape: int, inputs: int) -> Tensor:
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
        return ((2 * draws - 1) / inputs**0.5).requires_grad_(True)

    inputs = private_NF.shape[1]
    weights = {
        "hidden_weight": start(hidden_size, inputs, inputs=inputs),
        "hidden_bias": start(hidden_size, inputs=inputs),
        "output_weight": start(1, hidden_size, inputs=hidden_size),
        "output_bias": start(1, inputs=hidden_size),
    }
    optimizer = torch.optim.SGD(weights.values(), lr=learning_rate)
    features = torch.cat([private_NF, public_NF])
    sign_N = torch.cat([torch.ones(len(private_NF)), -torch.ones(len(public_NF))]).double()
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (-(sign_N * regress(weights, features)).mean()).backward()
            optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def regress(weights: dict[str, Tensor], features_NF: Tensor) -> Tensor:
    """The regressor's confidence in [-1, 1] that each image was private, (N,)."""
    hidden = torch.relu(features_NF @ weights["hidden_weight"].T + weights["hidden_bias"])
    return torch.tanh(hidden @ weights["output_weight"].T + weights["output_bias"]).squeeze(1)
