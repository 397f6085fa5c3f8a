"""Your own network on your own images: does its fingerprint survive an attack?"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import rnet


def train(dataset: rnet.Dataset, seed: int) -> nn.Module:
    """Any network that takes pixels in [0, 1] and returns logits, trained in any way."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 32), nn.ReLU())
    net.append(nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    for _ in range(300):
        chosen_B = torch.randint(len(dataset.train), (64,))
        loss = nn.functional.cross_entropy(net(dataset.train.pixels(chosen_B)), dataset.train.labels_N[chosen_B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def test_does_the_proof_survive() -> None:
    digits = load_digits()
    images_NCHW, labels_N = torch.tensor(digits.images / 16).unsqueeze(1), torch.tensor(digits.target)
    dataset = rnet.dataset_of(images_NCHW, labels_N, substitute_pool=400)
    victim, *independent = (train(dataset, seed) for seed in range(5))

    attack = rnet.make_attack("removalnet", layer="1", iterations=100, batch_size=32, num_poison_steps=5)
    stolen = attack(victim, dataset.substitute)

    defense = rnet.make_defense("ipguard", k=2, num_queries=50, steps=200)
    suspects = {"a copy": victim, "attacked": stolen, "innocent": train(dataset, seed=9)}
    verdicts = rnet.judge(defense, dataset, victim, suspects, independent)
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict.label} ({verdict.reason})")  # noqa: T201
    assert verdicts["a copy"].label == "derived"
    assert verdicts["innocent"].label != "derived"
