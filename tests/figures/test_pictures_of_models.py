"""Pictures of models: formulas by hand, the same images for all, and a missing model is said to be missing."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from rnet.errors import UserError
from rnet.figures.embedding import embedding, latents_of
from rnet.figures.models import SideBySide, first_of_each_class
from rnet.figures.planes import plane, planes
from rnet.figures.queries import queries
from rnet.figures.saliency import attribution, saliency
from tests.figures.test_drawing import texts


class Linear(nn.Module):
    """Logits that are a matrix times the pixels, by way of a layer that can be cut."""

    def __init__(self, seed: int, classes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.cut = nn.Flatten()
        self.last = nn.Linear(16, classes, bias=False)
        self.last.weight.data = torch.randn(classes, 16, generator=generator)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.last(self.cut(x_BCHW))


def beside(models: Mapping[str, nn.Module | str], count: int = 4) -> SideBySide:
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    return SideBySide(
        models=models, images_BCHW=images, labels_B=torch.arange(count) % 3, class_names=("a<b", "b", "c")
    )


VICTIM, OTHER = Linear(0).eval(), Linear(1).eval()


def test_samples_are_fixed_and_of_as_many_classes_as_can_be() -> None:
    labels_N = torch.tensor([2, 2, 0, 1, 0, 1])
    assert first_of_each_class(labels_N, 3).tolist() == [2, 3, 0]
    assert first_of_each_class(labels_N, 5).tolist() == [2, 3, 0, 1, 4]
    assert first_of_each_class(labels_N, 99).tolist() == [2, 3, 0, 1, 4, 5]


def test_integrated_gradients_of_a_linear_model_are_weight_times_pixel() -> None:
    x_BCHW, labels_B = beside({}).images_BCHW, torch.tensor([0, 1, 2, 1])
    expected = (VICTIM.last.weight.data[labels_B].view(4, 4, 4) * x_BCHW[:, 0]).abs()
    torch.testing.assert_close(attribution(VICTIM, x_BCHW, labels_B), expected)
    assert VICTIM.last.weight.grad is None


def test_a_plane_goes_through_its_images() -> None:
    images = beside({}, 3).images_BCHW.double()
    points, corners, (left, right, low, high) = plane(images, 201)
    grid = points.view(201, 201, 1, 4, 4)
    for image, (x, y) in zip(images, corners.tolist(), strict=True):
        column, row = round(200 * (x - left) / (right - left)), round(200 * (y - low) / (high - low))
        assert (grid[row, column] - image).abs().max() < 0.02
    one, two = grid[0, 1] - grid[0, 0], grid[1, 0] - grid[0, 0]
    assert abs(float((one * two).sum())) < 1e-9


def test_the_victim_agrees_with_itself_on_the_plane_and_another_does_not() -> None:
    victim, copy, other = planes("x", "t", beside({"victim": VICTIM, "copy": VICTIM, "other": OTHER})).lines
    assert (victim["agreement_with_victim"], copy["agreement_with_victim"]) == (1.0, 1.0)
    assert 0 <= other["agreement_with_victim"] < 1


def test_latents_of_all_models_have_one_projection() -> None:
    drawn = embedding("x", "t", beside({"victim": VICTIM, "copy": VICTIM, "other": OTHER}, 12), "cut")
    places = {m: [(line["x"], line["y"]) for line in drawn.lines if line["model"] == m] for m in ("victim", "other")}
    torch.testing.assert_close(torch.tensor(places["victim"]), torch.tensor(places["other"]))  # no parameters before it
    assert latents_of(VICTIM, "cut", beside({}).images_BCHW).shape == (4, 16)


def test_queries_show_who_answers_as_the_victim() -> None:
    images = beside({}, 7).images_BCHW
    labels_N = VICTIM(images).argmax(dim=1)
    drawn = queries("x", "t", beside({"victim": VICTIM, "other": OTHER}), images, labels_N)
    same = [line["same"] for line in drawn.lines if line["model"] == "other"]
    assert same == (OTHER(images).argmax(dim=1) == labels_N).int().tolist()
    assert all(line["same"] == 1 for line in drawn.lines if line["model"] == "victim")
    assert f"victim 100%, other {sum(same) / 7:.0%}" in drawn.caption


PICTURES = {
    "saliency": lambda shown: saliency("x", "t", shown),
    "planes": lambda shown: planes("x", "t", shown),
    "embedding": lambda shown: embedding("x", "t", shown, "cut"),
    "queries": lambda shown: queries("x", "t", shown, shown.images_BCHW, shown.labels_B),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_model_that_is_not_there_is_said_to_be_missing(name: str) -> None:
    drawn = PICTURES[name](beside({"victim": VICTIM, "removalnet": "failed: diverged", "other": OTHER}))
    assert len(drawn.gaps) == 1
    assert "removalnet" in drawn.gaps[0]
    assert "failed: diverged" in drawn.caption
    assert any(text.startswith("incomplete: 1 missing") for text in texts(drawn))
    assert not PICTURES[name](beside({"victim": VICTIM, "other": OTHER})).gaps


@pytest.mark.parametrize("name", ["saliency", "embedding"])
def test_what_is_not_finite_is_not_drawn(name: str) -> None:
    broken = Linear(2).eval()
    broken.last.weight.data.fill_(float("nan"))
    broken.cut.register_forward_hook(lambda module, given, found: found * float("nan"))
    drawn = PICTURES[name](beside({"victim": VICTIM, "broken": broken}))
    assert drawn.gaps
    assert all("broken" in gap for gap in drawn.gaps)
    assert any(text.startswith("incomplete") for text in texts(drawn))


def test_a_model_that_cannot_be_cut_there_is_missing_from_the_latents() -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    drawn = embedding("x", "t", beside({"victim": VICTIM, "other": other}), "cut")
    assert "other" in drawn.gaps[0]


def test_without_captum_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"pip install 'rnet\[pictures\]'"):
        saliency("x", "t", beside({"victim": VICTIM}))
