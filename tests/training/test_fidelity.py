"""Asking a model about every image of a part."""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from rnet.data.images import Part, TensorSource
from rnet.training.fidelity import predict


class Files:
    """Images that are not in memory; remembers which threads have decoded them."""

    def __init__(self, images_NCHW: Tensor) -> None:
        self.images_NCHW = images_NCHW
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def fetch(self, positions_B: Tensor) -> Tensor:
        self.threads.add(threading.current_thread().name)
        return self.images_NCHW[positions_B]


def test_images_in_files_are_decoded_ahead_and_give_the_predictions_of_images_in_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(0, 256, (23, 1, 4, 4), dtype=torch.uint8, generator=generator)
    positions_N = torch.randperm(23, generator=generator)[:17]
    files = Files(images_NCHW)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    model[1].weight.data.normal_(generator=generator)
    expected_N = model(images_NCHW[positions_N].float() / 255).argmax(dim=1)
    assert len(expected_N.unique()) > 1
    for source in (TensorSource(images_NCHW), files):
        part = Part(source=source, positions_N=positions_N, labels_N=torch.zeros(17, dtype=torch.int64))
        assert torch.equal(predict(model, part, batch_size=5), expected_N)
    assert all(name.startswith("rnet-lookahead") for name in files.threads)
