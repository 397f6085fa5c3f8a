"""Every attack of rnet, so small that it takes a moment: what the tests that concern all of them are driven by."""

from __future__ import annotations

STEPS = ["attack.iterations=3", "attack.batch_size=16"]
FEW = ["attack.substitute_size=48", *STEPS]
ASKED = ["attack.substitute_size=40", "attack.epochs=2", "attack.batch_size=16"]
TABLE: dict[str, list[str]] = {
    "identity": ["attack=identity"],
    "independent": ["attack=independent"],
    "finetune": ["attack=finetune", *FEW],
    "finetune_last": ["attack=finetune_last", *FEW],
    "finetune_labelled": ["attack=finetune_labelled", *STEPS],
    "finetune_labelled_half": ["attack=finetune_labelled", "attack.fraction=0.5", *STEPS],
    "finetune_cropped": ["attack=finetune", "attack.augment=flip,crop", *FEW],
    "retrain": ["attack=retrain", *STEPS],
    "retrain_layers": ["attack=retrain", "attack.trained=layers", *STEPS],
    "retrain_unlabelled": ["attack=retrain", "attack.labelled=false", *FEW],
    "prune": ["attack=prune", "attack.rate=0.8", "attack.momentum=0.9", *STEPS],
    "prune_linear": ["attack=prune", "attack.linear=true", "attack.labelled=false", *FEW],
    "adversarial_training": ["attack=adversarial_training", *STEPS],
    "adversarial_training_unlabelled": [
        "attack=adversarial_training",
        "attack.labelled=false",
        "attack.search_steps=2",
        *FEW,
    ],
    "distill_cropped": ["attack=distill", "attack.augment=crop", "attack.crop_padding=1", *FEW],
    "distill": ["attack=distill", "attack.temperature=4", *FEW],
    "feature_distill": ["attack=feature_distill", "attack.learning_rate=0.01", *FEW],
    "knockoff": ["attack=knockoff", *ASKED],
    "knockoff_labels": ["attack=knockoff", "attack.answers=labels", "attack.queries=20", *ASKED],
    "knockoff_adaptive": ["attack=knockoff_adaptive", "attack.queries=21", "attack.round_size=5", *ASKED],
    "permute": ["attack=permute"],
    "rescale_channels": ["attack=rescale_channels"],
    "rescale_logits": ["attack=rescale_logits"],
    "quantise": ["attack=quantise"],
    "removalnet": ["attack=removalnet", "attack.num_poison_steps=3", "attack.rho=0.5", *FEW],
    "removalnet_victim": ["attack=removalnet", "attack.latent_start=victim", "attack.num_poison_steps=3", *FEW],
    "removalnet_latent": ["attack=removalnet_latent", "attack.num_poison_steps=3", *FEW],
    "removalnet_logits": ["attack=removalnet_logits", *FEW],
    "removalnet_ce": ["attack=removalnet_ce", *FEW],
}
"""Name of the case -> overrides."""
CONTROLS = ["permute", "rescale_channels", "rescale_logits", "quantise"]
"""The cases that change weights and train nothing."""
TRAINED = [name for name in TABLE if name not in ("identity", "independent", *CONTROLS)]
"""The cases that a SubstituteAttack trains."""
FRESH = [name for name in TABLE if name.startswith(("distill", "knockoff"))]
"""The cases that begin with an untrained network."""
