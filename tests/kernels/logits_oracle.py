"""RemovalNet's logits level and distillation loss (Yao et al. 2023) in float64 and plain loops over lists."""

from __future__ import annotations

import math

WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Row = list[float]
Rows = list[Row]


def log_softmax(scores: Row) -> Row:
    top = max(scores)
    log_total = top + math.log(math.fsum(math.exp(score - top) for score in scores))
    return [score - log_total for score in scores]


def softmax(scores: Row) -> Row:
    return [math.exp(value) for value in log_softmax(scores)]


def first_argmax(scores: Row) -> int:
    best = 0
    for k, score in enumerate(scores):
        if score > scores[best]:
            best = k
    return best


def partner(p: Row, gallery: Rows) -> int:
    return first_argmax([math.fsum((a - b) ** 2 for a, b in zip(p, other, strict=True)) for other in gallery])


def mix(own: Row, other: Row, b: float) -> Row:
    return [b * a + (1 - b) * c for a, c in zip(own, other, strict=True)]


def first_admissible(own: Row, other: Row, y: int) -> float:
    for b in WEIGHTS:
        if first_argmax(mix(own, other, b)) == y:
            return b
    return 1.0


def mixed_target(logits: Rows, labels: list[int], mode: str, gallery: Rows) -> Rows:
    """The mixed vector of every sample; partners have the farthest probabilities whatever is mixed."""
    mixed = []
    for row, y in zip(logits, labels, strict=True):
        j = partner(softmax(row), [softmax(other) for other in gallery])
        own, other = (row, gallery[j]) if mode == "logits" else (softmax(row), softmax(gallery[j]))
        mixed.append(mix(own, other, first_admissible(own, other, y)))
    return mixed


def distillation(
    logits: Rows, q: Rows, labels: list[int], temperature: float, alpha: float, gamma: float
) -> tuple[float, float, float, Rows]:
    """(loss, T^2 KL, CE, gradient of the loss by the logits), by hand."""
    B = len(logits)
    kl = ce = 0.0
    gradient = []
    for row, target, y in zip(logits, q, labels, strict=True):
        log_s = log_softmax([value / temperature for value in row])
        log_p = log_softmax(row)
        kl += math.fsum(a * (math.log(a) - b) for a, b in zip(target, log_s, strict=True) if a > 0)
        ce -= log_p[y]
        mass = math.fsum(target)
        slopes = []
        for k in range(len(row)):
            by_kl = temperature * (mass * math.exp(log_s[k]) - target[k])
            by_ce = math.exp(log_p[k]) - (k == y)
            slopes.append((alpha * by_kl + gamma * by_ce) / B)
        gradient.append(slopes)
    kl *= temperature**2 / B
    ce /= B
    return alpha * kl + gamma * ce, kl, ce, gradient
