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
    """Cut layer of the white-box metrics; None takes the second of model.cut_layers, or of the usual five. Declare it
    before looking: results depend on where it lies relative to the attack's cut."""
    num_seeds: int = 1000
    """Test images that become seeds: those the victim gets right with most certainty; all of them if fewer."""
    min_seeds: int = 100
    """With fewer usable seeds than this, extraction is refused."""
    attack: str = "pgd"
    """How seeds become adversarial cases: pgd, fgsm or cw (Carlini-Wagner l2)."""
    epsilon: float = 0.03
    """PGD: half-width of the uniform start, and the radius if `project`. FGSM: the step."""
    step_size: float = 0.03
    """PGD: size of a step, per pixel."""
    num_steps: int = 10
    """PGD: number of steps."""
    project: bool = False
    """PGD: stay within epsilon of the seed. The authors' program does not: it may go as far as epsilon + steps."""
    cw_confidence: float = 5.0
    """CW: by how much another logit must exceed the label's."""
    cw_learning_rate: float = 0.001
    """CW: Adam's step size in tanh space."""
    cw_steps: int = 1000
    """CW: Adam steps of each search."""
    cw_searches: int = 3
    """CW: rounds of binary search for the weight of misclassification."""
    num_fuzz_seeds: int = 100
    """Fuzzing starts from so many of the most certain seeds."""
    max_neurons: int | None = None
    """Target so many neurons, drawn from the seed; None targets all of the layer."""
    threshold_factor: float = 3.0
    """A neuron is driven beyond this multiple of its largest output in training."""
    threshold_images: int = 20000
    """The largest output is taken over at most so many training images, the first ones."""
    learning_rate: float = 0.01
    """Fuzzing: Adam's step size in pixel units."""
    max_steps: int = 1000
    """Fuzzing: Adam steps after which a (seed, neuron) pair is given up."""
    box: bool = False
    """Fuzzing: keep images in [0, 1]. The authors' program does not, and within the box three times the largest output
    in training is often out of reach."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for searching in MiB; pairs and cases are searched in as many chunks as that takes."""
    max_fingerprint_mb: int = field(default=4096, metadata={"execution_only": True})
    """Refuse before fuzzing when the fuzzed images could take more than this, in MiB."""
    released_port: list[str] = field(default_factory=list)
    """Defects of the released port to bring back, for comparison with its numbers: image_columns (a "neuron" is a
    column of the feature map, averaged over channels and rows), victim_labels (RobD counts agreement with the victim's
    adversarial label, so equals 1 - matching rate), squared_logits (seeds ranked by logits), scalar_box (PGD clamps all
    normalised channels to one common box, and FGSM and fuzzing clamp nothing)."""

    def check(self) -> None:
        """Raises UserError for sizes and rates out of range, names that are not known, and if neither half is on."""
        check_at_least_1(
            "defense", self, "num_seeds", "min_seeds", "num_steps", "cw_steps", "cw_searches", "num_fuzz_seeds",
            "max_steps", "threshold_images", "memory_mb", "max_fingerprint_mb",
        )  # fmt: skip
        for key in ("epsilon", "step_size", "cw_learning_rate", "learning_rate", "threshold_factor"):
            if not getattr(self, key) > 0:
                raise UserError(f"defense.{key}={getattr(self, key)} must be greater than 0")
        if self.max_neurons is not None and self.max_neurons < 1:
            raise UserError(f"defense.max_neurons={self.max_neurons} must be at least 1, or null for all neurons")
        if self.min_seeds > self.num_seeds:
            raise UserError(f"defense.min_seeds={self.min_seeds} exceeds defense.num_seeds={self.num_seeds}; lower it")
        if self.cw_confidence < 0:
            raise UserError(f"defense.cw_confidence={self.cw_confidence} must not be negative")
        check_names("defense.attack", [self.attack], "pgd", "fgsm", "cw")
        if not (self.black_box or self.white_box):
            raise UserError("defense.black_box and defense.white_box are both false; switch at least one on")
        defects = ("image_columns", "victim_labels", "squared_logits", "scalar_box")
        check_names("defense.released_port", self.released_port, *defects)
