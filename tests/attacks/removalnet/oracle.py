"""RemovalNet's formulas (Yao et al. 2023) in float64 and plain loops: the oracle its implementation is tested against.

Nothing is vectorised and no gradient is automatic, so that a mistake here and one there are unlikely to agree. Samples
are lists of nested lists; a latent is kept per sample as a flat list of floats together with its shape, row major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Vector = list[float]
Matrix = list[Vector]

WEIGHTS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
STEP_SIZE = 0.01
DISTANCE_WEIGHT = 0.1


@dataclass(frozen=True)
class Tail:
    """logits = W2 tanh(W1 z + b1) + b2 of one flattened latent z."""

    W1: Matrix
    b1: Vector
    W2: Matrix
    b2: Vector

    def hidden(self, z: Vector) -> Vector:
        return [math.tanh(dot(row, z) + bias) for row, bias in zip(self.W1, self.b1, strict=True)]

    def logits(self, z: Vector) -> Vector:
        hidden = self.hidden(z)
        return [dot(row, hidden) + bias for row, bias in zip(self.W2, self.b2, strict=True)]

    def pull_back(self, z: Vector, dlogits: Vector) -> Vector:
        """The gradient with respect to z of a function whose gradient with respect to the logits is dlogits."""
        hidden = self.hidden(z)
        dz = [0.0] * len(z)
        for unit, activation in enumerate(hidden):
            dhidden = 0.0
            for k, dlogit in enumerate(dlogits):
                dhidden += dlogit * self.W2[k][unit]
            dbefore = dhidden * (1.0 - activation * activation)
            for element in range(len(z)):
                dz[element] += dbefore * self.W1[unit][element]
        return dz


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def softmax(scores: Vector) -> Vector:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    total = math.fsum(powers)
    return [power / total for power in powers]


def log_softmax(scores: Vector) -> Vector:
    top = max(scores)
    log_total = math.log(math.fsum(math.exp(score - top) for score in scores))
    return [score - top - log_total for score in scores]


def argmax(scores: Vector) -> int:
    """The lowest index of the largest entry."""
    best = 0
    for k in range(1, len(scores)):
        if scores[k] > scores[best]:
            best = k
    return best


# ---------------------------------------------------------------- latent level


def flat_index(position: list[int], shape: list[int]) -> int:
    index = 0
    for coordinate, size in zip(position, shape, strict=True):
        index = index * size + coordinate
    return index


def positions(shape: list[int]) -> list[list[int]]:
    """All positions of an array of that shape, last axis fastest."""
    result: list[list[int]] = [[]]
    for size in shape:
        result = [[*position, coordinate] for position in result for coordinate in range(size)]
    return result


def shuffle(z: Matrix, shape: list[int], permutations: list[list[int]], axis: int) -> Matrix:
    """out[b, .., c, ..] = z[b, .., permutation_b[c], ..]. shape, axis: of one sample, without the batch."""
    out = []
    for sample, permutation in zip(z, permutations, strict=True):
        row = [math.nan] * len(sample)
        for position in positions(shape):
            source = list(position)
            source[axis] = permutation[position[axis]]
            row[flat_index(position, shape)] = sample[flat_index(source, shape)]
        out.append(row)
    return out


def latent_start(z: Matrix, u: Matrix, shape: list[int], permutations: list[list[int]], axis: int) -> Matrix:
    noisy = [[value + math.tan(noise) for value, noise in zip(*pair, strict=True)] for pair in zip(z, u, strict=True)]
    return shuffle(noisy, shape, permutations, axis)


def distance(z1: Matrix, z: Matrix, kind: str) -> float:
    """l2: one Frobenius norm over the whole batch. cosine: the sum over samples of 1 - cos, plus 1e-12."""
    if kind == "l2":
        return math.sqrt(
            math.fsum((a - b) ** 2 for row1, row in zip(z1, z, strict=True) for a, b in zip(row1, row, strict=True))
        )
    return math.fsum(1.0 - cosine(row1, row) for row1, row in zip(z1, z, strict=True)) + 1e-12


def cosine(a: Vector, b: Vector) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def mean_cross_entropy(tail: Tail, z1: Matrix, labels: list[int]) -> float:
    return -math.fsum(log_softmax(tail.logits(row))[y] for row, y in zip(z1, labels, strict=True)) / len(z1)


def latent_objective(tail: Tail, z1: Matrix, z: Matrix, labels: list[int], kind: str, weight: float) -> float:
    """What the latent level descends: CE(tail(z1), y) - weight log D."""
    return mean_cross_entropy(tail, z1, labels) - weight * math.log(distance(z1, z, kind))


def latent_gradient(tail: Tail, z1: Matrix, z: Matrix, labels: list[int], kind: str, weight: float) -> Matrix:
    """The gradient of latent_objective with respect to z1, by hand."""
    batch = len(z1)
    total = distance(z1, z, kind)
    gradient = []
    for row1, row, y in zip(z1, z, labels, strict=True):
        p = softmax(tail.logits(row1))
        dlogits = [(p[k] - (1.0 if k == y else 0.0)) / batch for k in range(len(p))]
        g = tail.pull_back(row1, dlogits)
        for element in range(len(row1)):
            if kind == "l2":
                ddistance = (row1[element] - row[element]) / total
            else:
                length1, length, similarity = math.sqrt(dot(row1, row1)), math.sqrt(dot(row, row)), cosine(row1, row)
                ddistance = -(row[element] / (length1 * length) - similarity * row1[element] / length1**2)
            g[element] -= weight * ddistance / total
        gradient.append(g)
    return gradient


def sign(value: float) -> float:
    return 1.0 if value > 0 else -1.0 if value < 0 else 0.0


def latent_step(
    tail: Tail,
    z1: Matrix,
    z: Matrix,
    labels: list[int],
    shape: list[int],
    permutations: list[list[int]],
    axis: int,
    kind: str = "l2",
    weight: float = DISTANCE_WEIGHT,
    step_size: float = STEP_SIZE,
) -> tuple[Matrix, Matrix]:
    """(new z1, the gradient the step followed): shuffle first, then one signed step from the shuffled point."""
    shuffled = shuffle(z1, shape, permutations, axis)
    gradient = latent_gradient(tail, shuffled, z, labels, kind, weight)
    stepped = [
        [value - step_size * sign(slope) for value, slope in zip(*rows, strict=True)]
        for rows in zip(shuffled, gradient, strict=True)
    ]
    return stepped, gradient


# ---------------------------------------------------------------- logits level


def euclidean(a: Vector, b: Vector) -> float:
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def partners(p: Matrix, gallery: Matrix | None = None) -> list[int]:
    """For each sample the row farthest from it, the lowest index on ties."""
    return [argmax([euclidean(row, other) for other in (p if gallery is None else gallery)]) for row in p]


def mix(b: float, scores_i: Vector, scores_j: Vector) -> Vector:
    return [b * own + (1.0 - b) * other for own, other in zip(scores_i, scores_j, strict=True)]


def first_admissible(scores_i: Vector, scores_j: Vector, label: int) -> float:
    """The first of the seven weights whose mix has its argmax at the label; 1 (the sample itself) when none has."""
    for b in WEIGHTS:
        if argmax(mix(b, scores_i, scores_j)) == label:
            return b
    return 1.0


def admissible_interval(scores_i: Vector, scores_j: Vector, label: int) -> tuple[float, float]:
    """[low, high] of all b in [0, 1] that keep the label, from the linear inequalities; low > high when there is none.

    b a + (1 - b) c >= 0 for a = p_i[y] - p_i[k] and c = p_j[y] - p_j[k], all k != y; ties count as kept.
    """
    low, high = 0.0, 1.0
    for k in range(len(scores_i)):
        if k == label:
            continue
        a, c = scores_i[label] - scores_i[k], scores_j[label] - scores_j[k]
        if a >= 0 and c < 0:
            low = max(low, -c / (a - c))
        elif a < 0 and c >= 0:
            high = min(high, c / (c - a))
        elif a < 0:
            return 1.0, 0.0
    return low, high


def logits_target(logits: Matrix, labels: list[int], T: float, mode: str) -> Matrix:
    """q of the three modes: official softmax(m/T), logits softmax(mixed logits/T), probs m."""
    p = [softmax(row) for row in logits]
    chosen = partners(p)
    q = []
    for i, label in enumerate(labels):
        j = chosen[i]
        if mode == "logits":
            mixed = mix(first_admissible(logits[i], logits[j], label), logits[i], logits[j])
        else:
            mixed = mix(first_admissible(p[i], p[j], label), p[i], p[j])
        q.append(mixed if mode == "probs" else softmax([score / T for score in mixed]))
    return q


# ---------------------------------------------------------------- upper level


def upper_loss(
    logits: Matrix, z: Matrix, z1: Matrix, q: Matrix, labels: list[int], weights: dict[str, float]
) -> dict[str, Any]:
    """The upper level's loss, its three parts, and its gradients with respect to the logits and the features.

    weights: T, alpha, beta, gamma. kl carries T^2 but not alpha. z and z1 are flat per sample.
    """
    T, alpha, beta, gamma = (weights[name] for name in ("T", "alpha", "beta", "gamma"))
    batch, elements = len(logits), sum(len(row) for row in z)
    kl = ce = mse = 0.0
    dlogits, dz = [], []
    for i in range(batch):
        log_student = log_softmax([score / T for score in logits[i]])
        for k, target in enumerate(q[i]):
            if target > 0.0:
                kl += T * T * target * (math.log(target) - log_student[k]) / batch
        ce -= log_softmax(logits[i])[labels[i]] / batch
        mse += math.fsum((a - b) ** 2 for a, b in zip(z[i], z1[i], strict=True)) / elements
        student, posterior, mass = softmax([score / T for score in logits[i]]), softmax(logits[i]), math.fsum(q[i])
        dlogits.append(
            [
                alpha * T * (mass * student[k] - q[i][k]) / batch
                + gamma * (posterior[k] - (1.0 if k == labels[i] else 0.0)) / batch
                for k in range(len(logits[i]))
            ]
        )
        dz.append([2.0 * beta * (a - b) / elements for a, b in zip(z[i], z1[i], strict=True)])
    total = alpha * kl + beta * mse + gamma * ce
    return {"total": total, "kl": kl, "mse": mse, "ce": ce, "dlogits": dlogits, "dz": dz}
