"""Random queries: agreement counted label by label."""

from __future__ import annotations

import pytest
import torch

from rnet.defenses.base import Fingerprint
from rnet.defenses.random_queries.config import RandomQueriesConfig
from rnet.defenses.random_queries.defense import RandomQueries
from tests.defenses.tiny import tiny_dataset, tiny_model

DATASET = tiny_dataset(test=40)
VICTIM = tiny_model(0)


def make(**changes: object) -> RandomQueries:
    return RandomQueries(RandomQueriesConfig(**{"num_queries": 24, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return make().extract(VICTIM, DATASET, seed=1)


def test_agreement_is_the_share_of_equal_labels(fingerprint: Fingerprint) -> None:
    suspect, equal = tiny_model(5), 0
    for x_CHW in fingerprint.tensors["queries_NCHW"]:
        with torch.no_grad():
            equal += int(suspect(x_CHW[None])[0].argmax()) == int(VICTIM(x_CHW[None])[0].argmax())
    assert 0 < equal < 24
    assert make().verify(fingerprint, suspect) == {"agreement": pytest.approx(equal / 24)}


def test_queries_are_distinct_unaltered_test_images(fingerprint: Fingerprint) -> None:
    images_NCHW = DATASET.test.pixels()
    rows = [
        next(i for i, image in enumerate(images_NCHW) if torch.equal(image, x))
        for x in fingerprint.tensors["queries_NCHW"]
    ]
    assert len(set(rows)) == len(rows) == 24


def test_scores_depend_neither_on_batch_size_nor_on_the_order_of_queries(fingerprint: Fingerprint) -> None:
    tensors = {name: tensor.flip(0) for name, tensor in fingerprint.tensors.items()}
    flipped = Fingerprint(tensors=tensors, metadata=fingerprint.metadata)
    suspect = tiny_model(5)
    expected = make().verify(fingerprint, suspect)
    assert make(batch_size=7).verify(fingerprint, suspect) == expected
    assert make().verify(flipped, suspect) == expected
