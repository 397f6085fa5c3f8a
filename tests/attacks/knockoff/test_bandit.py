"""The bandit and its rewards beside the public program's loops, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest

from rnet.attacks.knockoff.bandit import Bandit, Rewards


def all_open(count: int) -> np.ndarray:
    return np.ones(count, dtype=bool)


def test_preferences_follow_the_public_programs_loops() -> None:
    rng = np.random.default_rng(0)
    bandit, groups = Bandit(4), 4
    h, times, probabilities, average = [0.0] * groups, [0] * groups, [0.25] * groups, 0.0
    for n in range(1, 200):
        action, reward = int(rng.integers(groups)), float(rng.normal())
        bandit.learn(action, reward)
        average = average + (1.0 / n) * (reward - average)
        times[action] += 1
        for a in range(groups):
            if a != action:
                h[a] = h[a] - 1.0 / times[action] * (reward - average) * probabilities[a]
            else:
                h[a] = h[a] + 1.0 / times[action] * (reward - average) * (1 - probabilities[a])
        exps = np.exp(np.array(h))
        probabilities = (exps / exps.sum()).tolist()
        assert bandit.probabilities(all_open(groups)) == pytest.approx(probabilities)


def test_a_group_without_images_is_never_drawn_and_the_others_keep_their_ratios() -> None:
    bandit = Bandit(3)
    for _ in range(5):
        bandit.learn(0, 1.0)
        bandit.learn(1, 0.0)
    everything, some = bandit.probabilities(all_open(3)), bandit.probabilities(np.array([True, False, True]))
    assert some[1] == 0
    assert some.sum() == pytest.approx(1)
    assert some[0] / some[2] == pytest.approx(everything[0] / everything[2])


def test_it_comes_to_prefer_the_group_that_pays() -> None:
    rng, bandit = np.random.default_rng(1), Bandit(5)
    for _ in range(500):
        group = int(rng.choice(5, p=bandit.probabilities(all_open(5))))
        bandit.learn(group, float(group == 3) + 0.1 * rng.normal())
    assert bandit.probabilities(all_open(5)).argmax() == 3
    assert bandit.probabilities(all_open(5))[3] > 0.6


def test_rewards_follow_the_public_programs_loops() -> None:
    rng, rewards = np.random.default_rng(2), Rewards(4)
    answers, mean, variance = np.zeros(4), np.zeros(3), np.zeros(3)
    for n in range(1, 50):
        victim_K, knockoff_K = rng.dirichlet(np.ones(4), size=2)
        largest = sorted(victim_K)[-2:]
        answers = answers + (1.0 / n) * (victim_K - answers)
        diversity = sum(max(0.0, victim_K[k] - answers[k]) for k in range(4))
        loss = sum(-victim_K[k] * np.log(knockoff_K[k]) for k in range(4))
        found = np.array([largest[1] - largest[0], diversity, loss])
        mean = mean + (1.0 / n) * (found - mean)
        variance = variance + (1.0 / n) * ((found - mean) ** 2 - variance)
        expected = (found - mean) / np.sqrt(variance) if n > 1 else [max(min(r, 1), 0) for r in found]
        assert rewards(victim_K, knockoff_K) == pytest.approx(float(np.mean(expected)))


def test_labels_alone_give_finite_rewards() -> None:
    """Their certainty is always 1 and varies by nothing."""
    rewards = Rewards(3)
    found = [rewards(np.eye(3)[n % 3], np.array([1.0, 0.0, 0.0])) for n in range(20)]
    assert np.isfinite(found).all()
    assert len(set(found)) > 1
