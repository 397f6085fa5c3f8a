"""Which curves TensorBoard's tab "Custom scalars" draws together."""

from __future__ import annotations

CHARTS: dict[str, dict[str, tuple[str, list[str]]]] = {
    "Trade-off: does the model keep its job (accuracy) and lose the fingerprint (matching rate)?": {
        "accuracy against evasion": ("Multiline", [r"^fidelity/accuracy$", r"^evasion/matching_rate$"]),
        "likeness to the victim": ("Multiline", [r"^(fidelity|evasion)/agreement$", r"^evasion/ddv$"]),
    },
    "Training": {
        "losses": ("Multiline", [r"^loss/(total|kl|mse|ce)$"]),
        "distance of features from the victim's": ("Multiline", [r"^latent/to_victim$"]),
        "distance of the latent target": ("Multiline", [r"^latent/distance$"]),
    },
    "Where the time of a step goes": {
        "seconds of a step, by phase": ("Multiline", [r"^speed/seconds_"]),
        "memory": ("Multiline", [r"^system/.*_mib$"]),
    },
}
"""Category -> chart -> its kind and regular expressions of tags, in the order in which they are shown."""
