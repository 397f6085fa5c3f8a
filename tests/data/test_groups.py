"""Images of a group never lie in two parts, whatever the sizes; rare classes are repeated in training only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnet.config.run import load_config
from rnet.data.config import DatasetConfig, DigitsConfig, ImageFolderConfig
from rnet.data.duplicates import connected
from rnet.data.images import Part, RawImages, TensorSource, oversampled
from rnet.data.loading import load_dataset, split_dataset
from rnet.data.splits import SplitSizes, split_by_groups
from rnet.errors import UserError
from rnet.stages.stages import ensure
from rnet.stages.store import Store


@settings(deadline=None, max_examples=150)
@given(
    groups=st.lists(st.integers(0, 25), min_size=12, max_size=80),
    test=st.none() | st.lists(st.integers(20, 40), min_size=1, max_size=10),
    pool=st.integers(0, 12), train=st.none() | st.integers(1, 20), test_size=st.none() | st.integers(1, 8),
    seed=st.integers(0, 2**40),
)  # fmt: skip
def test_parts_share_no_group_and_have_the_sizes_that_are_set(
    groups: list[int], test: list[int] | None, pool: int, train: int | None, test_size: int | None, seed: int
) -> None:
    sizes = SplitSizes(substitute_pool=pool, train_size=train, test_size=test_size, seed=seed)
    group_N, test_group_N = torch.tensor(groups), torch.tensor(test or [], dtype=torch.int64)
    try:
        parts = split_by_groups(group_N, test_group_N, None if test is None else len(test), sizes)
    except UserError:
        return
    of_test = group_N[parts.test_N] if test is None else test_group_N
    found = [set(group_N[parts.train_N].tolist()), set(group_N[parts.substitute_N].tolist()), set(of_test.tolist())]
    assert not found[0] & found[1]
    assert not (found[0] | found[1]) & found[2]
    assert len(parts.substitute_N) == pool
    assert len(parts.train_N) == train if train else len(parts.train_N) >= 1
    wanted = -(-len(groups) // 5) if test is None else len(test)
    assert len(parts.test_N) == (test_size or wanted)
    drawn = torch.cat([parts.train_N, parts.substitute_N, *([parts.test_N] if test is None else [])])
    assert len(drawn.unique()) == len(drawn)
    if train is None:
        assert len(drawn) + parts.left_out == len(groups)


def test_groups_of_one_image_each_are_never_refused() -> None:
    split_by_groups(torch.arange(30), torch.arange(0), None, SplitSizes(substitute_pool=23))


def test_sizes_that_groups_cannot_have_are_refused_with_the_numbers() -> None:
    message = (
        r"2 groups of 20 images, the largest of 15, cannot be divided into 4 test, some training and 3 substitute "
        r"images with every lesion in one part; lower dataset\.test_size"
    )
    with pytest.raises(UserError, match=message):
        split_by_groups(
            torch.tensor([0] * 15 + [1] * 5), torch.arange(0), None, SplitSizes(substitute_pool=3), called="lesion"
        )


@given(columns=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=14))
def test_groupings_are_merged_as_connected_components(columns: list[tuple[int, int]]) -> None:
    first, second = ([pair[k] for pair in columns] for k in (0, 1))
    found = connected(torch.tensor(first), torch.tensor(second)).tolist()
    label = list(range(len(columns)))
    for _ in columns:  # spread the smallest label along equal numbers until nothing changes
        for i in range(len(columns)):
            near = [j for j in range(len(columns)) if first[i] == first[j] or second[i] == second[j]]
            label[i] = min(label[j] for j in near)
    assert [[a == b for a in found] for b in found] == [[a == b for a in label] for b in label]


def images(*numbers: int) -> TensorSource:
    """An image of its own for every number."""
    known = torch.randint(0, 256, (100, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return TensorSource(known[list(numbers)])


@pytest.mark.parametrize("duplicates", ["say", "together"])
def test_copies_join_groups_where_they_are_kept_together(duplicates: str) -> None:
    numbers = [*range(30), *range(10)]
    groups = [f"g{i // 3}" for i in range(30)] + [f"h{i}" for i in range(10)]
    raw = RawImages(
        train=images(*numbers), train_labels_N=torch.zeros(40, dtype=torch.int64), num_classes=1, flip=False,
        train_groups=groups, grouped_by="scene",
    )  # fmt: skip
    shared = 0
    for seed in range(5):
        dataset = split_dataset(
            raw, DatasetConfig(name="own", substitute_pool=8, split_seed=seed, duplicates=duplicates)
        )
        parts = [getattr(dataset, name).positions_N.tolist() for name in ("train", "substitute", "test")]
        for one in range(3):
            for other in range(one):
                a, b = parts[one], parts[other]
                assert not {groups[i] for i in a} & {groups[i] for i in b}
                shared += len({numbers[i] for i in a} & {numbers[i] for i in b})
    assert (shared == 0) == (duplicates == "together")


def test_groups_that_do_not_fit_the_images_are_refused() -> None:
    raw = RawImages(
        train=images(0, 1, 2), train_labels_N=torch.zeros(3, dtype=torch.int64), num_classes=1, flip=False,
        train_groups=["a", "b"],
    )  # fmt: skip
    with pytest.raises(UserError, match="returns 3 train images but 2 groups; return one each"):
        split_dataset(raw, DatasetConfig(name="own"))


def own_folder(folder: Path, write_image: Callable[..., None], rows: list[str]) -> ImageFolderConfig:
    for i in range(24):
        write_image(folder / "set" / "ab"[i % 2] / f"{i:02d}.png", i)
    (folder / "groups.csv").write_bytes(("\ufefffile,group\r\n" + "\r\n".join(rows)).encode())
    return ImageFolderConfig(
        folder=str(folder / "set"), groups=str(folder / "groups.csv"), image_size=4, substitute_pool=4, max_memory_mb=0
    )


def test_groups_of_own_images_come_from_a_file(
    tmp_path: Path, write_image: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"{'ab'[i % 2]}/{i:02d}.png,patient {i // 4}" for i in range(22)]
    config = own_folder(tmp_path, write_image, [*rows, "a/gone.png,patient 1"])
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(config)
    parts = [
        {int(Path(part.source.paths[i]).stem) // 4 for i in part.positions_N.tolist()}  # type: ignore[attr-defined]
        for part in (dataset.train, dataset.substitute, dataset.test)
    ]
    patients = [{number for number in part if number < 5} for part in parts]
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]
    assert any("2 images without a group in dataset.groups=" in text for text in caplog.messages)
    assert any("1 file of dataset.groups=" in text and "a/gone.png" in text for text in caplog.messages)


def test_an_image_without_a_group_stays_with_no_other(tmp_path: Path, write_image: Callable[..., None]) -> None:
    dataset = load_dataset(own_folder(tmp_path, write_image, ["a/00.png,x"]))
    assert [len(part) for part in (dataset.train, dataset.substitute, dataset.test)] == [15, 4, 5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["set/a/00.png,x"], r"names none of the images, e\.g\. a/00\.png; write them relative to"),
        ([], "names none of"),
    ],
)
def test_a_file_of_groups_that_fits_nothing_is_refused(
    tmp_path: Path, write_image: Callable[..., None], rows: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(own_folder(tmp_path, write_image, rows))


def test_a_file_of_groups_that_is_not_there_is_refused(tmp_path: Path, write_image: Callable[..., None]) -> None:
    config = own_folder(tmp_path, write_image, [])
    (tmp_path / "groups.csv").unlink()
    with pytest.raises(UserError, match=r"dataset\.groups=.*groups\.csv cannot be read: No such file"):
        load_dataset(config)


@given(labels=st.lists(st.integers(0, 4), max_size=40))
def test_oversampling_repeats_rare_classes_evenly_and_keeps_every_image(labels: list[int]) -> None:
    part = Part(source=images(), positions_N=torch.arange(len(labels)), labels_N=torch.tensor(labels).long())
    found = oversampled(part)
    assert found.positions_N[: len(labels)].tolist() == list(range(len(labels)))
    assert found.labels_N.tolist() == [labels[i] for i in found.positions_N.tolist()]
    counts = torch.bincount(found.labels_N)
    assert {int(count) for count in counts if count} <= {int(counts.max()) if labels else 0}
    for label in set(labels):
        times = [found.positions_N.tolist().count(i) for i, own in enumerate(labels) if own == label]
        assert max(times) - min(times) <= 1


def test_no_part_of_a_balanced_set_holds_an_image_twice() -> None:
    dataset = load_dataset(DigitsConfig(substitute_pool=500, balance="oversample"))
    plain = load_dataset(DigitsConfig(substitute_pool=500))
    for name in ("train", "substitute", "test"):
        assert torch.equal(getattr(dataset, name).positions_N, getattr(plain, name).positions_N)
    counts = torch.bincount(dataset.labelled_part(dataset.train).labels_N)
    assert len(counts.unique()) == 1
    assert plain.labelled_part(plain.train) is plain.train


@pytest.mark.parametrize("stage", ["train", "attack"])
def test_a_victim_and_an_independent_model_are_trained_on_balanced_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    trained: list[Part] = []
    places = ["rnet.stages.stages", *(["rnet.attacks.independent.attack"] if stage == "attack" else [])]

    def train(run: object, model: object, part: Part, *rest: object, **settings: object) -> int:
        trained.append(part)
        return 1

    lines = [
        *("dataset.train_size=60", "dataset.test_size=20", "dataset.balance=oversample", "model=resnet8"),
        *("model.width=4", "train.epochs=1", "engine.device=cpu", "attack=independent"),
    ]
    for place in places:
        monkeypatch.setattr(f"{place}.train_classifier", train)
    ensure(stage, load_config(lines), Store(tmp_path))
    assert len(trained) == len(places)
    for part in trained:
        counts = torch.bincount(part.labels_N)
        assert len(part) > 60
        assert len(counts.unique()) == 1


def test_settings_of_another_kind_are_refused() -> None:
    wrong: dict[str, Any] = {"balance": "undersample"}
    with pytest.raises(UserError, match=r"dataset\.balance='undersample' does not exist; .*oversample"):
        DigitsConfig(**wrong).check()
