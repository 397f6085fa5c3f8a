"""Adaptive choice of the images that the victim is asked about, round by round, with a knockoff that learns meanwhile.

Every process does all of it, on whole rounds, and then takes the first one's choice: it is a small part of the attack,
and how many processes there are changes no bit of it. Shapes: N images, R images of a round, A groups, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from rnet.attacks.cost import Passes, training_passes
from rnet.attacks.knockoff.bandit import Bandit, Rewards
from rnet.attacks.knockoff.config import KnockoffConfig
from rnet.attacks.training import TransferSet
from rnet.data.images import Part
from rnet.data.splits import seeded_permutation
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.training.loop import Run

THUMBNAIL = 8  # pixels a side of what is clustered


class Menu:
    """The images that were not asked about yet, by group, each group in random order."""

    def __init__(self, groups_N: Tensor, seed: int) -> None:
        order_N = seeded_permutation(len(groups_N), seed, "within groups")
        groups = range(int(groups_N.max()) + 1)
        self._waiting = [order_N[groups_N[order_N] == group].tolist() for group in groups]
        self._draws = np.random.default_rng(derive_seed(seed, "groups"))
        self.bandit = Bandit(len(groups))

    def take(self, count: int) -> list[tuple[int, int]]:
        """So many images as (group, image), of groups drawn by the bandit."""
        taken = []
        for _ in range(count):
            open_A = np.array([bool(images) for images in self._waiting])
            group = int(self._draws.choice(len(open_A), p=self.bandit.probabilities(open_A)))
            taken.append((group, self._waiting[group].pop()))
        return taken


def select(
    config: KnockoffConfig, ask: Callable[[Tensor], Tensor], part: Part, knockoff: nn.Module, run: Run, *, seed: int,
    budget: int,
) -> TransferSet:  # fmt: skip
    """The images asked about, with the answers, (N, 1, K).

    ask: pixels -> distributions (R, K). knockoff: an untrained network on run.device, which is trained here and left.
    """
    example = part.pixels(torch.arange(1), run.device)
    with torch.no_grad():
        classes = knockoff.eval()(example).shape[1]
    menu, rewards = Menu(groups(config, part, classes, seed), seed), Rewards(classes)
    passes = training_passes(knockoff, example, list(knockoff.requires_grad_(True).parameters()))
    chosen: list[int] = []
    answers: list[Tensor] = []
    spent, rounds = Passes(), 0
    optimizer = torch.optim.SGD(
        knockoff.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "selection"))
        while len(chosen) < budget:
            taken = menu.take(min(config.round_size, budget - len(chosen)))
            x_RCHW = part.pixels(torch.tensor([image for _, image in taken]), run.device)
            answers_RK = ask(x_RCHW)
            if len(taken) > 1:  # batch norm needs more than one
                _learn(knockoff, optimizer, x_RCHW, answers_RK)
                rounds, spent = rounds + 1, spent + passes.times(len(taken))
            with torch.no_grad():
                guesses_RK = knockoff.eval()(x_RCHW).softmax(1)
            for (group, _), *both in zip(taken, _exact(answers_RK), _exact(guesses_RK), strict=True):
                menu.bandit.learn(group, rewards(*both))
            chosen += [image for _, image in taken]
            answers.append(answers_RK)
    chosen_N, answers_NK = run.agreed(torch.tensor(chosen)), run.agreed(torch.cat(answers))
    return TransferSet(
        part=part.subset(chosen_N), answers_NM=answers_NK.to(run.device).unsqueeze(1),
        victim_queries=len(chosen_N), iterations=rounds, spent=spent,
    )  # fmt: skip


def groups(config: KnockoffConfig, part: Part, classes: int, seed: int) -> Tensor:
    """The group of each image, int64 (N,): what the bandit chooses among."""
    if config.groups == "labels":
        if int(part.labels_N.min()) < 0:
            raise UserError("attack.groups=labels needs the images' labels; give labels_N, or set groups=clusters")
        return part.labels_N
    count = config.clusters or classes
    if count > len(part):
        raise UserError(f"attack.clusters={count} is more than the {len(part)} images of the attacker; lower it")
    thumbnails_NCHW = torch.cat(
        [F.adaptive_avg_pool2d(part.pixels(indices_B), THUMBNAIL) for indices_B in torch.arange(len(part)).split(512)]
    )
    means = KMeans(count, n_init=1, random_state=derive_seed(seed, "clusters") % 2**32)
    return torch.from_numpy(means.fit_predict(thumbnails_NCHW.flatten(1).numpy())).long()


def _learn(knockoff: nn.Module, optimizer: torch.optim.Optimizer, x_RCHW: Tensor, answers_RK: Tensor) -> None:
    knockoff.train()
    F.cross_entropy(knockoff(x_RCHW), answers_RK).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _exact(values_RK: Tensor) -> np.ndarray:
    return values_RK.double().cpu().numpy()
