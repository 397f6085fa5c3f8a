"""RemovalNet: the min-max bilevel attack that removes a network's fingerprint while keeping its accuracy.

Yao et al., "RemovalNet: DNN Fingerprint Removal Attacks", IEEE TDSC 2023. Each step solves two lower-level problems for
its batch on the surrogate as it stands, then takes one upper-level step from ONE train-mode forward (bilevel.py has the
mathematics).

Shapes: B batch, C channels of z, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rnet.attacks.base import AttackContext, Suspect
from rnet.attacks.cost import Passes, training_passes
from rnet.attacks.removalnet import bilevel
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.attacks.substitutes import SubstituteAttack, agreement, cut_layer
from rnet.attacks.training import Objective, Training
from rnet.cutting.split import SplitModel, channel_axis
from rnet.data.batches import Batch
from rnet.data.images import Dataset
from rnet.draws import BatchDraws, moved_channels
from rnet.rewrites.modes import device_of, frozen_eval
from rnet.training.flops import count_flops

if TYPE_CHECKING:
    from rnet.engines.base import LossOf
    from rnet.engines.lower_level import Network


class RemovalNet(SubstituteAttack):
    """The attack. Seams for variants and ablations: `latent_start`, `shuffle`, `latent_step`, `logits_target`, `loss`.

    All of the lower level is a pure function of tensors: what overrides a seam there must neither wait for the device
    nor keep anything, and draws from `draws` only.
    """

    config: RemovalNetConfig
    period = 1.5

    # --- the two levels

    def lower_level(
        self, network: Network, x_BCHW: Tensor, y_B: Tensor, draws: BatchDraws, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both targets of a batch, z1 as z and q (B, K), and the distance of z1 from z over the global batch.

        A level of weight 0 is not solved, and its target is empty. start: the victim's features, where z1 starts from
        those.
        """
        z = network.head(x_BCHW).float()  # bfloat16 would swallow the small latent steps
        q_BK, z1, far = z.new_empty(0), z.new_empty(0), z.new_zeros(())
        if self.config.alpha:
            q_BK = self.logits_target(network, network.tail(z), y_B)
        if self.config.beta:
            z1, share = self.latent_target(network, z, y_B, draws, start)
            far = bilevel.distance(network.total(share), self.config.distance)
        return z1, q_BK, far

    def latent_target(
        self, network: Network, z: Tensor, y_B: Tensor, draws: BatchDraws, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """z1: features far from z that the tail still gives the label y, after num_poison_steps shuffled sign steps.

        And this process's share of their distance. Every draw belongs to a sample and D is one norm over the batch of
        all processes: shares of a batch come out as they would within it.
        """
        axis = channel_axis(z)
        first, *shuffles = self.shuffle(z.shape[axis], draws)
        z1 = bilevel.apply_permutation(self.latent_start(z if start is None else start, draws), first, axis)
        if shuffles:
            z1 = bilevel.apply_permutation(z1, shuffles[0], axis)
        share = bilevel.distance_share(z1, z, self.config.distance)
        for number in range(len(shuffles)):
            following = shuffles[number + 1] if number + 1 < len(shuffles) else None
            z1, share = self.latent_step(network, z1, z, share, y_B, following)
        return z1, share

    def loss(
        self, logits_BK: Tensor, z: Tensor, z1: Tensor | None, q_BK: Tensor | None, y_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The upper-level loss and its named parts; without the target of a level that is left out."""
        config = self.config
        return bilevel.upper_loss(
            logits_BK, z, z1, q_BK, y_B, T=config.temperature, alpha=config.alpha, beta=config.beta, gamma=config.gamma
        )

    # --- the seams of the lower level

    def latent_start(self, z: Tensor, draws: BatchDraws) -> Tensor:
        """Where the latent level starts, before its first shuffle; as z, the features that it starts from."""
        return z + torch.tan(draws.uniform_like(z, "latent start"))

    def shuffle(self, channels: int, draws: BatchDraws) -> list[Tensor | None]:
        """The permutations (B, C) of the start and of each step; None for one that moves nothing."""
        calls = self.config.num_poison_steps + 1
        permutations_PBC = draws.channel_permutations("shuffle", calls, channels, self.config.rho)
        return [None] * calls if permutations_PBC is None else list(permutations_PBC)

    def latent_step(
        self, network: Network, z1: Tensor, z: Tensor, share: Tensor, y_B: Tensor, next_perm_BC: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """z1 moved by one sign step and then shuffled for the next, and this process's share of its distance."""
        return bilevel.latent_step(network, z1, z, share, y_B, next_perm_BC, channel_axis(z), kind=self.config.distance)

    def logits_target(self, network: Network, logits_BK: Tensor, y_B: Tensor) -> Tensor:
        """q: the distribution the student's logits are drawn to; partners come from the batch of all processes."""
        gallery_GK = network.gather(logits_BK)
        return bilevel.logits_target(logits_BK, y_B, self.config.temperature, self.config.target, gallery_GK=gallery_GK)

    # --- how it is trained

    @property
    def keeps_victim(self) -> bool:  # type: ignore[override]
        """Whether z1 starts from the features of a frozen copy."""
        return self.config.latent_start == "victim"

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """The surrogate, trained; its cost also says how many channels of how many each shuffle moved."""
        training = self.prepare(dataset, context)
        training.optimise()
        cost = training.cost
        if self.config.beta:
            split = training.engine.unwrapped
            assert isinstance(split, SplitModel)
            with frozen_eval(split), torch.no_grad():
                z = split.head(training.part.pixels(torch.arange(1), device_of(split)))
            channels = z.shape[channel_axis(z)]
            cost |= {"channels": channels, "shuffled_channels": shuffled(channels, self.config.rho)}
        return Suspect(model=training.surrogate, derived=True, cost=cost)

    def objective(self, training: Training) -> Objective:
        """The loss of a batch, once its lower level is solved."""
        engine, config = training.engine, self.config
        training.run.say(self.levels())
        lower = engine.lower_level(training.example(), training.run.say) if config.alpha or config.beta else None
        victim = None
        if training.teacher is not None:
            assert isinstance(engine.unwrapped, SplitModel)
            victim = SplitModel(training.teacher, engine.unwrapped.layer)
        said = not config.beta

        def targets(
            network: Network, x_BCHW: Tensor, y_B: Tensor, ids_B: Tensor, t: Tensor, *start: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            draws = BatchDraws(seed=training.seed, step=t, sample_ids_B=ids_B)
            return self.lower_level(network, x_BCHW, y_B, draws, *start)

        def of_batch(t: int, batch: Batch, y_B: Tensor) -> LossOf:
            nonlocal said
            z1 = q_BK = far = None
            if lower is not None:
                ids_B = batch.stream_ids_B.to(y_B.device, non_blocking=True)
                given = [batch.x_BCHW, y_B, ids_B, torch.full((), t, dtype=torch.int64, device=y_B.device)]
                if victim is not None:
                    with torch.no_grad(), engine.autocast():
                        given.append(victim.head(batch.x_BCHW).float())
                z1, q_BK, far = lower(targets, *given)
                if not said:
                    said = True
                    training.run.say(shuffle_in_words(z1.shape[channel_axis(z1)], config.rho))

            def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                logits_BK, z = engine.forward(batch.x_BCHW[rows], return_features=True)
                latent = None if z1 is None or not config.beta else z1[rows]
                wanted_BK = None if q_BK is None or not config.alpha else q_BK[rows]
                total, parts = self.loss(logits_BK, z, latent, wanted_BK, y_B[rows])
                reported = {f"loss/{name}": value for name, value in parts.items()}
                reported["fidelity/agreement_batch"] = agreement(logits_BK, y_B[rows])
                if far is not None and config.beta:
                    reported["latent/distance"] = far
                return total, reported

            return loss

        return of_batch

    def levels(self) -> str:
        """What is trained on, and what is left out."""
        terms = (("latent level", "beta"), ("logits level", "alpha"), ("cross-entropy", "gamma"))
        weights = {key: getattr(self.config, key) for _, key in terms}
        used = " and ".join(term for term, key in terms if weights[key])
        left_out = ", ".join(f"without the {term} (attack.{key}=0)" for term, key in terms if not weights[key])
        return f"trains on {used}" + (f", {left_out}" if left_out else "")

    def module(self, surrogate: nn.Module, default_layer: str | None) -> SplitModel:
        """The surrogate cut at config.layer, or at its architecture's usual cut."""
        return SplitModel(surrogate, cut_layer(surrogate, self.config.layer, default_layer))

    def passes(self, module: nn.Module, x_1CHW: Tensor, trained: list[nn.Parameter]) -> Passes:
        """Upper level; lower level once forwards; and through the tail and back for each latent step."""
        assert isinstance(module, SplitModel)
        config, total = self.config, training_passes(module, x_1CHW, trained)
        with frozen_eval(module):
            leaf = module.head(x_1CHW).detach().requires_grad_(True)
            module.tail(leaf)  # its first call looks at itself, with a pass of its own
            head = count_flops(lambda: module.head(x_1CHW))
            once = count_flops(lambda: module(x_1CHW))
            # a clone, because the counter cannot follow gradients into a leaf
            back = count_flops(lambda: torch.autograd.grad(module.tail(leaf.clone()).sum(), leaf))
        if config.alpha or config.beta:
            total += Passes(forward=1, flops=once if config.alpha else head)
        if config.beta:
            total += Passes(forward=1, backward=1, flops=back).times(config.num_poison_steps)
        return total + Passes(forward=1, flops=head) if self.keeps_victim else total


def shuffled(channels: int, rho: float) -> int:
    """How many channels a shuffle moves; one alone has nowhere to go."""
    count = moved_channels(channels, rho)
    return count if count > 1 else 0


def shuffle_in_words(channels: int, rho: float) -> str:
    """What the channel shuffle does to a layer."""
    if count := shuffled(channels, rho):
        return f"each shuffle permutes {count} of {channels} channels (attack.rho={rho})"
    return (
        f"the channel shuffle moves nothing: attack.rho={rho} of {channels} channels is 1, which has nowhere to go; "
        f"attack.rho above {1 / channels:.4g} shuffles 2"
    )
