"""DeepJudge's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_at_least_1, check_names
from rnet.defenses.config import DefenseConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DeepJudgeConfig(DefenseConfig):
    """Hyperparameters of DeepJudge; the defaults are the authors', with queries kept in [0, 1]."""

    name: str = "deepjudge"
    black_box: bool = True
    """Compute RobD and JSD."""
    white_box: bool = True
    """Compute LOD, LAD, NOD and NAD; the suspect must have the victim's architecture."""
    layer: str | None = None
    """The headline layer, whose metrics vote: lod, lad, nod, nad. Declare it before looking: results depend on where it
    lies relative to the attack's cut. None takes the last but one of model.cut_layers, or of the usual five; or the
    last, where that would be the second, where attacks cut."""
    layers: str = "all"
    """Which layers are looked at: "all" cut layers of the victim (lod@layer1 and so on, beside the headline's) or
    "headline" alone."""
    num_seeds: int = 1000
    """Test images that become seeds: those the victim gets right with most certainty; all of them if fewer."""
    min_seeds: int = 100
    """With fewer usable seeds than this, extraction is refused."""
    seed_rank: str = "probabilities"
    """What certainty is: the sum of squared "probabilities", or of squared "logits", which rewards large norms."""
    attack: str = "pgd"
    """How seeds become adversarial cases: pgd, fgsm or cw (Carlini-Wagner l2)."""
    epsilon: float = 0.03
    """PGD and FGSM: half-width of the uniform start. PGD: the radius if `project`. FGSM: the step."""
    step_size: float = 0.03
    """PGD: size of a step, per pixel."""
    num_steps: int = 10
    """PGD: number of steps."""
    random_start: bool = True
    """PGD and FGSM: start at the seed and uniform noise of half-width epsilon, clamped; else at the seed."""
    project: bool = False
    """PGD: stay within epsilon of the seed. The authors' program does not: it may go as far as epsilon + steps."""
    clamp: str = "pixels"
    """PGD and FGSM: what cases are clamped to: "pixels", [0, 1], or "scalar", one box around all normalised channels,
    in which a channel may leave [0, 1]."""
    units: str = "pixels"
    """What epsilon, step_size and learning_rate are measured in: "pixels" in [0, 1], or "normalised" (multiples of a
    channel's standard deviation)."""
    cw_confidence: float = 5.0
    """CW: by how much another logit must exceed the label's."""
    cw_learning_rate: float = 0.001
    """CW: Adam's step size in tanh space."""
    cw_steps: int = 1000
    """CW: most Adam steps of each search."""
    cw_searches: int = 3
    """CW: rounds of binary search for the weight of misclassification; Adam keeps its state over them."""
    cw_abort_early: bool = True
    """CW: end an image's search where its loss has not fallen during a tenth of the steps."""
    robd_labels: str = "true"
    """RobD counts agreement with the "true" labels of the cases, or with the "victim" 's labels for them: then it is 1
    minus the matching rate."""
    num_fuzz_seeds: int = 100
    """Fuzzing starts from so many of the most certain seeds."""
    neuron: str = "channel"
    """What a neuron is: a "channel" of the layer, averaged over positions, or a "column": the last axis (in a CNN the
    image's width), averaged over all others."""
    max_neurons: int | None = 8
    """Target so many neurons of each layer; None, as in the authors' program, targets all, at many times the cost."""
    neurons: str = "drawn"
    """Which, if not all: "drawn" from the seed, or the "first"."""
    threshold_factor: float = 3.0
    """A neuron is driven beyond this multiple of its largest output in training."""
    threshold_margin: float = 0.0
    """And beyond that by so much."""
    threshold_from: str = "train"
    """What the largest output is taken over: "train" images, or the "seeds"."""
    threshold_images: int = 20000
    """The largest output is taken over at most so many training images, the first ones."""
    adam: str = "keras"
    """Whose epsilon Adam has in fuzzing and CW: "keras" (1e-7 before the bias correction, as the authors) or "torch"
    (1e-8 after it). It decides whether pixels with tiny gradients move, and LOD, NOD and LAD by 1 to 9 %."""
    learning_rate: float = 0.01
    """Fuzzing: Adam's step size."""
    max_steps: int = 1000
    """Fuzzing: Adam steps after which a (seed, neuron) pair is given up."""
    box: bool = False
    """Fuzzing: keep images in [0, 1]. The authors' program does not, and within the box three times the largest output
    in training is often out of reach."""
    best_attempt: bool = False
    """Fuzzing: where a neuron's first seed fails, keep the image with the largest output on the way as its case."""
    equal_cases: bool = False
    """Fuzzing: every neuron gets as many cases as the one with the fewest, the first ones."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for searching in MiB; pairs and cases are searched in as many chunks as that takes."""
    max_fingerprint_mb: int = field(default=4096, metadata={"execution_only": True})
    """Refuse before fuzzing when the fuzzed images could take more than this, in MiB."""

    def check(self) -> None:
        """Raises UserError for sizes and rates out of range, names that are not known, and if neither half is on."""
        check_at_least_1(
            "defense", self, "num_seeds", "min_seeds", "num_steps", "cw_steps", "cw_searches", "num_fuzz_seeds",
            "max_steps", "threshold_images", "memory_mb", "max_fingerprint_mb",
        )  # fmt: skip
        for key in ("epsilon", "step_size", "cw_learning_rate", "learning_rate", "threshold_factor"):
            if not getattr(self, key) > 0:
                raise UserError(f"defense.{key}={getattr(self, key)} must be greater than 0")
        for key in ("cw_confidence", "threshold_margin"):
            if not getattr(self, key) >= 0:
                raise UserError(f"defense.{key}={getattr(self, key)} must not be negative")
        if self.max_neurons is not None and self.max_neurons < 1:
            raise UserError(f"defense.max_neurons={self.max_neurons} must be at least 1, or null for all neurons")
        if self.min_seeds > self.num_seeds:
            raise UserError(f"defense.min_seeds={self.min_seeds} exceeds defense.num_seeds={self.num_seeds}; lower it")
        for key, known in _WORDS.items():
            check_names(f"defense.{key}", [getattr(self, key)], *known)
        if not (self.black_box or self.white_box):
            raise UserError("defense.black_box and defense.white_box are both false; switch at least one on")


_WORDS = {
    "layers": ("all", "headline"),
    "seed_rank": ("probabilities", "logits"),
    "attack": ("pgd", "fgsm", "cw"),
    "clamp": ("pixels", "scalar"),
    "units": ("pixels", "normalised"),
    "robd_labels": ("true", "victim"),
    "neuron": ("channel", "column"),
    "neurons": ("drawn", "first"),
    "threshold_from": ("train", "seeds"),
    "adam": ("keras", "torch"),
}
"""What may be written where a setting takes a word."""
