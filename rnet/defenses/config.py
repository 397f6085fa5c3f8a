"""The defences' hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rnet.errors import UserError, unknown_name

FEWEST_QUERIES = 10
"""With fewer queries than this a share or a correlation says nothing: extraction refuses."""
SAC_INPUTS = ("wrong", "cutmix", "jpeg")


@dataclass(frozen=True, kw_only=True)
class IPGuardConfig:
    """Hyperparameters of IPGuard; the defaults are those of the paper with the margin most used since."""

    name: str = "ipguard"
    num_queries: int = 100
    """Fingerprint queries, each from its own training image of the victim."""
    k: float = 10.0
    """Margin on the logits by which class j must beat class i. It depends on the scale of the victim's logits."""
    target: str = "least_likely"
    """Class j: "least_likely" (lowest logit, the paper's L) or "random" (any class but i, the paper's R)."""
    learning_rate: float = 0.01
    """Adam's step size in pixel units."""
    steps: int = 1000
    """Most Adam steps of a query."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the search in MiB; queries are searched in as many chunks as that takes, with the same result."""
    released_port: list[str] = field(default_factory=list)
    """Defects of the released port to bring back, for comparison with its numbers: train_mode_verification (batch
    statistics and dropout at verification), adam_rebuilt (a new Adam every step, so plain sign steps), no_box (queries
    leave [0, 1])."""

    def check(self) -> None:
        """Raises UserError for sizes and rates out of range, and for names that are not known."""
        _check_at_least_1(self, "num_queries", "steps", "memory_mb")
        if not self.learning_rate > 0:
            raise UserError(f"defense.learning_rate={self.learning_rate} must be greater than 0")
        if not self.k >= 0:
            raise UserError(f"defense.k={self.k} must not be negative; a query must end in class j, not before it")
        _check_names("target", [self.target], "least_likely", "random")
        _check_names("released_port", self.released_port, "train_mode_verification", "adam_rebuilt", "no_box")


@dataclass(frozen=True, kw_only=True)
class ModelDiffConfig:
    """Hyperparameters of ModelDiff."""

    name: str = "modeldiff"
    num_pairs: int = 100
    """Pairs, each from its own training image of the victim."""
    pairs: str = "default"
    """How a seed is perturbed: "default" maximises the cross-entropy with the victim's own label, "original" is the
    loss of the authors' notebook, which sends all outputs away from a far target."""
    epsilon: float | None = None
    """Radius of the Linf ball; None: 8/255 in pixel units (default) or 0.06 in normalised units (original)."""
    step: float | None = None
    """Size of a step in the units of epsilon; None: 2/255 (default) or 0.01 (original)."""
    steps: int = 50
    """Steps of the search."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the search in MiB; pairs are searched in as many chunks as that takes, with the same result."""
    released_port: list[str] = field(default_factory=list)
    """Defects of the released port to bring back, for comparison with its numbers: train_mode_verification (batch
    statistics and dropout, for victim and suspect), shift_on_seeds (the search looks at the seeds, so its score is 0
    whatever it tries and the seeds stay as they are), halves_as_pairs (the first half of the perturbed images is paired
    with the second half, not with its seeds), one_minus_ddm (1 - DDM similarity is reported), ddm_as_ddv (DDM is
    reported under the name of DDV)."""

    def check(self) -> None:
        """Raises UserError for sizes out of range, names that are not known, and halves of an odd number of pairs."""
        _check_names("pairs", [self.pairs], "default", "original")
        _check_at_least_1(self, "num_pairs", "steps", "memory_mb")
        for key in ("epsilon", "step"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(
                    f"defense.{key}={value} must be greater than 0, or null for the default of {self.pairs}"
                )
        defects = ("train_mode_verification", "shift_on_seeds", "halves_as_pairs", "one_minus_ddm", "ddm_as_ddv")
        _check_names("released_port", self.released_port, *defects)
        if "halves_as_pairs" in self.released_port and self.num_pairs % 2:
            raise UserError(
                f"defense.num_pairs={self.num_pairs} must be even with defense.released_port=[halves_as_pairs]"
            )


@dataclass(frozen=True, kw_only=True)
class ZestConfig:
    """How ZEST approximates and compares models."""

    name: str = "zest"
    num_images: int = 128
    """Reference images: the first ones of the victim's training part, without augmentation."""
    num_masks: int = 1000
    """Masks per image; the first shows the whole image, in the others each segment is there with probability 1/2."""
    kernel_size: float = 4.0
    """Quickshift: width of the Gaussian of its density estimate, in pixels."""
    max_dist: float = 200.0
    """Quickshift: longest link between a pixel and its parent; higher gives fewer segments."""
    ratio: float = 0.2
    """Quickshift: weight of colour against position, in (0, 1]."""
    align: str = "auto"
    """Matching of classes before comparing: auto (only if their numbers differ), always (as the original), never."""
    released_port: list[str] = field(default_factory=list)
    """Defects of the released port to bring back, for comparison with its numbers: train_mode_verification (batch
    statistics and dropout, for victim and suspect), redraw_masks (masks are drawn anew at verification, so that a
    victim is away from itself), segment_first_three (only the first three images, one per channel, are un-normalised
    before segmentation; the rest are clamped z-scores)."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for one forward pass, in MiB; decides how many masked images go through the model at once."""

    def check(self) -> None:
        """Raises UserError for sizes and shares out of range, and for names that are not known."""
        for key, least in (("num_images", 1), ("num_masks", 2), ("kernel_size", 1), ("memory_mb", 1)):
            if getattr(self, key) < least:
                raise UserError(f"defense.{key}={getattr(self, key)} is too small; give at least {least}")
        if not 0 < self.ratio <= 1:
            raise UserError(f"defense.ratio={self.ratio} must be above 0 and at most 1")
        if not self.max_dist > 0:
            raise UserError(f"defense.max_dist={self.max_dist} must be above 0")
        _check_names("align", [self.align], "auto", "always", "never")
        defects = ("train_mode_verification", "redraw_masks", "segment_first_three")
        _check_names("released_port", self.released_port, *defects)


@dataclass(frozen=True, kw_only=True)
class DeepJudgeConfig:
    """Hyperparameters of DeepJudge; the defaults are the authors', with queries kept in [0, 1]."""

    name: str = "deepjudge"
    black_box: bool = True
    """Compute RobD and JSD."""
    white_box: bool = True
    """Compute LOD, LAD, NOD and NAD; the suspect must have the victim's architecture."""
    layer: str | None = None
    """Cut layer of the white-box metrics; None takes the second of the architecture's usual five. Declare it before
    looking: results depend on where it lies relative to the attack's cut."""
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
        _check_at_least_1(
            self, "num_seeds", "min_seeds", "num_steps", "cw_steps", "cw_searches", "num_fuzz_seeds", "max_steps",
            "threshold_images", "memory_mb", "max_fingerprint_mb",
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
        _check_names("attack", [self.attack], "pgd", "fgsm", "cw")
        if not (self.black_box or self.white_box):
            raise UserError("defense.black_box and defense.white_box are both false; switch at least one on")
        defects = ("image_columns", "victim_labels", "squared_logits", "scalar_box")
        _check_names("released_port", self.released_port, *defects)


@dataclass(frozen=True, kw_only=True)
class SACConfig:
    """What the models are asked."""

    name: str = "sac"
    num_queries: int = 100
    """Images of each kind (100 as in the authors' code); if there are fewer, all, and fewer than 10 are an error."""
    inputs: list[str] = field(default_factory=lambda: list(SAC_INPUTS))
    """Kinds of inputs, each a metric: wrong (images the victim gets wrong), cutmix (test images with a patch of another
    one), jpeg (compressed test images). A kind that is left out has no score."""
    patch: float = 0.2
    """CutMix: side of the patch as a share of the image's sides (0.2 in the authors' code)."""
    jpeg_quality: int = 25
    """JPEG quality of Pillow, 1 to 95; 25 is the first severity of the corruption the authors use."""
    batch_size: int = field(default=256, metadata={"execution_only": True})
    """Images sent to a model at once."""

    def check(self) -> None:
        """Raises UserError for sizes out of range, and for kinds that are not known or none."""
        _check_sizes(self.num_queries, self.batch_size)
        _check_names("inputs", self.inputs, *SAC_INPUTS)
        if not self.inputs:
            raise UserError(f"defense.inputs is empty; name at least one of {', '.join(SAC_INPUTS)}")
        if not 0 < self.patch < 1:
            raise UserError(f"defense.patch={self.patch} must lie between 0 and 1")
        if not 1 <= self.jpeg_quality <= 95:
            raise UserError(f"defense.jpeg_quality={self.jpeg_quality} must be 1 to 95")


@dataclass(frozen=True, kw_only=True)
class AKHConfig:
    """How many mistakes are used."""

    name: str = "akh"
    num_queries: int = 100
    """Mistakes to use; if the victim makes fewer, all of them are used, and fewer than 10 are an error."""
    batch_size: int = field(default=256, metadata={"execution_only": True})
    """Images sent to a model at once."""

    def check(self) -> None:
        """Raises UserError for sizes that are too small."""
        _check_sizes(self.num_queries, self.batch_size)


@dataclass(frozen=True, kw_only=True)
class DatasetInferenceConfig:
    """Hyperparameters of Dataset Inference; the defaults are the authors' for 32 px colour images."""

    name: str = "dataset_inference"
    num_regressor_images: int = 500
    """Training and as many test images whose features the regressor learns from, on the victim."""
    num_suspect_images: int = 500
    """Further training and as many test images on which suspects are tested."""
    num_directions: int = 10
    """Random directions for each of the three norms."""
    max_multiple: int = 50
    """A walk that does not change the label within so many steps ends there."""
    linf_radius: float = 0.005
    """Linf directions are uniform in +- this, in pixel units."""
    l2_std: float = 0.005
    """l2 directions are normal with this standard deviation."""
    l1_scale: float = 0.01
    """l1 directions are Laplace with this scale."""
    hidden_size: int = 100
    """Hidden units of the regressor."""
    learning_rate: float = 0.1
    """Of the regressor's plain gradient descent."""
    regressor_steps: int = 1000
    """Full-batch steps of the regressor."""
    sample_size: int = 10
    """Training and as many test images in one t-test: how many private images the owner reveals."""
    num_draws: int = 100
    """t-tests whose p values are averaged harmonically."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the walks in MiB; images are walked in as many chunks as that takes, with the same result."""

    def check(self) -> None:
        """Raises UserError for numbers that are too small, and for tests on more images than there are."""
        for key, value in vars(self).items():
            least = {"num_regressor_images": 2, "num_suspect_images": 2, "sample_size": 2}.get(key, 1)
            if isinstance(value, int) and value < least:
                raise UserError(f"defense.{key}={value} must be at least {least}")
            if isinstance(value, float) and not value > 0:
                raise UserError(f"defense.{key}={value} must be greater than 0")
        if self.sample_size > self.num_suspect_images:
            raise UserError(
                f"defense.sample_size={self.sample_size} exceeds "
                f"defense.num_suspect_images={self.num_suspect_images}; lower it"
            )


@dataclass(frozen=True, kw_only=True)
class RandomQueriesConfig:
    """How many clean images are used."""

    name: str = "random"
    num_queries: int = 100
    """Test images, drawn without replacement."""
    batch_size: int = field(default=256, metadata={"execution_only": True})
    """Images sent to a model at once."""

    def check(self) -> None:
        """Raises UserError for sizes that are too small."""
        _check_sizes(self.num_queries, self.batch_size)


def _check_at_least_1(config: Any, *keys: str) -> None:
    for key in keys:
        if getattr(config, key) < 1:
            raise UserError(f"defense.{key}={getattr(config, key)} must be at least 1")


def _check_names(key: str, names: Sequence[str], *valid: str) -> None:
    for name in names:
        if name not in valid:
            raise unknown_name(f"defense.{key}", name, valid)


def _check_sizes(num_queries: int, batch_size: int) -> None:
    if num_queries < FEWEST_QUERIES:
        raise UserError(f"defense.num_queries={num_queries} is too small; give at least {FEWEST_QUERIES}")
    if batch_size < 1:
        raise UserError(f"defense.batch_size={batch_size} must be at least 1")
