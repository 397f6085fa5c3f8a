"""Data sets that one has to download oneself, from small imitations of their files in the published layouts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rnet.data.config import DatasetConfig
from rnet.data.files.digest import look_at
from rnet.data.images import Part
from rnet.data.loading import load_dataset
from rnet.data.registry import DATASETS
from rnet.data.resize import decode_image, fit_image
from rnet.errors import UserError
from tests.data import miniatures
from tests.data.miniatures import MALE, MINIATURES, Contents

ATTRIBUTE = {"lfw": {"attribute": "Male"}}
"""Settings without which a set is another one."""
GROUPED = [("ham10000", {}), ("bcn20000", {}), ("lfw", {}), ("vggface2", {"attribute": "Male"})]


def config(name: str, folder: Path, **changes: Any) -> DatasetConfig:
    settings = {"folder": str(folder), "image_size": 8, "substitute_pool": 2, "max_memory_mb": 0}
    return DATASETS.config_class(name)(**{**settings, **ATTRIBUTE.get(name, {}), **changes})


def held(part: Part) -> Contents:
    """{name: (label, None)} of a part, by the paths of its images."""
    paths = [part.source.paths[position] for position in part.positions_N.tolist()]  # type: ignore[attr-defined]
    labels = part.labels_N.tolist()
    return {"/".join(Path(path).parts[-3:]): (label, None) for path, label in zip(paths, labels, strict=True)}


def expected(contents: Contents) -> Contents:
    """As held says it, whatever is above the last three parts of a name."""
    return {name: (label, None) for name, (label, _) in contents.items()}


def seen(found: Contents, wanted: Contents) -> Contents:
    """What was found by the names that are wanted, which may have fewer parts."""
    depth = len(Path(next(iter(wanted))).parts)
    return {"/".join(Path(name).parts[-depth:]): about for name, about in found.items()}


@pytest.mark.parametrize("name", MINIATURES)
def test_labels_are_those_of_the_published_files(tmp_path: Path, name: str) -> None:
    train, test = MINIATURES[name](tmp_path)
    dataset = load_dataset(config(name, tmp_path))
    learned = {**held(dataset.train), **held(dataset.substitute)}
    if test is None or name == "vggface2":  # whose test folder shows other people
        assert seen({**learned, **held(dataset.test)}, train) == expected(train)
    else:
        assert seen(learned, train) == expected(train)
        assert seen(held(dataset.test), test) == expected(test)
    assert dataset.flip == (name != "tsrd")
    assert len(dataset.class_names) == dataset.num_classes


@pytest.mark.parametrize(("name", "settings"), GROUPED)
@pytest.mark.parametrize("seed", range(4))
def test_no_lesion_or_person_is_in_two_parts(tmp_path: Path, name: str, settings: dict[str, Any], seed: int) -> None:
    train, test = MINIATURES[name](tmp_path)
    groups = {path: group for path, (_, group) in {**train, **(test or {})}.items()}
    dataset = load_dataset(config(name, tmp_path, split_seed=seed, substitute_pool=4, **settings))
    parts = [{groups[path] for path in seen(held(getattr(dataset, part)), train)} for part in
             ("train", "substitute", "test")]  # fmt: skip
    assert all(parts)
    assert len(dataset.substitute) == 4
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


@pytest.mark.parametrize("name", MINIATURES)
def test_a_set_that_is_not_there_says_what_to_download_and_where_it_belongs(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        load_dataset(config(name, tmp_path))
    said = str(error.value)
    assert said.startswith(f"dataset={name} cannot be read from {tmp_path}: there is no")
    assert "; download " in said
    assert " from http" in said
    assert f"unpack all into {tmp_path}" in said
    with pytest.raises(UserError, match="cannot be read from"):
        look_at(config(name, tmp_path))


TSRD_TEST = "TSRD-Test Annotation/TsignRecgTest1994Annotation.txt"
DAMAGES: list[tuple[str, str, str]] = [
    ("ham10000", "HAM10000/HAM10000_images_part_2/ISIC_0024320.jpg",
     r"1 of 24 images that HAM10000_metadata lists are missing: ISIC_0024320; download"),
    ("bcn20000", "BCN20000/ISIC_2019_Training_Input/ISIC_0000003.jpg", r"1 of 16 images .* missing: ISIC_0000003;"),
    ("bcn20000", "BCN20000/ISIC_2019_Training_Metadata.csv", r"there is no ISIC_2019_Training_Metadata\.csv"),
    ("lfw", "lfw_funneled/Bo_Li/Bo_Li_0001.jpg", r"1 of \d+ images that lfw_attributes\.txt .* missing: Bo_Li_0001"),
    ("tsrd", "TSRD/TSRD-Test/057_0001.png", r"1 of 3 images .*TsignRecgTest1994.* missing: 057_0001\.png"),
    ("tsrd", f"TSRD/{TSRD_TEST}", r"there is no TsignRecgTest1994Annotation"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "removed", "message"), DAMAGES)
def test_what_is_listed_and_missing_is_counted_and_named(tmp_path: Path, name: str, removed: str, message: str) -> None:
    MINIATURES[name](tmp_path)
    (tmp_path / removed).unlink()
    with pytest.raises(UserError, match=message):
        load_dataset(config(name, tmp_path))


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode("utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


SLIPS: list[tuple[str, str, str, str, str]] = [
    ("ham10000", "HAM10000/HAM10000_metadata", ",dx,", ",diagnosis,", "is no table of image_id, dx, lesion_id: .* dx"),
    ("ham10000", "HAM10000/HAM10000_metadata", ",nv,", ",naevus,", "has the diagnoses naevus, which are none of akiec"),
    ("ham10000", "HAM10000/HAM10000_metadata", "ISIC_0024307", "ISIC_0024306", "lists 1 image twice: ISIC_0024306"),
    ("bcn20000", "BCN20000/ISIC_2019_Training_GroundTruth.csv", "1.0,0.0", "1.0,1.0", "gives ISIC_00000.* 2 diagnoses"),
    ("bcn20000", "BCN20000/ISIC_2019_Training_Metadata.csv", "BCN_", "XYZ_", "no lesion_id that begins with BCN_"),
    ("tsrd", f"TSRD/{TSRD_TEST}", ";57;", ";58;", "has the class 58, but they"),
    ("tsrd", f"TSRD/{TSRD_TEST}", ";20;16", "", "fewer than 8 columns in line 1"),
    ("lfw", "lfw_attributes.txt", "imagenum", "picture", "no line that names the columns person and imagenum"),
    ("lfw", "lfw_attributes.txt", "-0.568", "unknown", "is damaged .*unknown"),
]


@pytest.mark.parametrize(("name", "table", "old", "new", "message"), SLIPS)
def test_a_table_that_is_not_as_published_is_refused(
    tmp_path: Path, name: str, table: str, old: str, new: str, message: str
) -> None:
    MINIATURES[name](tmp_path)
    replaced(tmp_path / table, old, new)
    with pytest.raises(UserError, match=message):
        load_dataset(config(name, tmp_path))


UNLISTED = [
    ("ham10000", "1 image left out, as HAM10000_metadata does not list it: ISIC_0034524"),
    ("bcn20000", "3 images of HAM10000 and MSK left out"),
    ("bcn20000", "1 image of an unknown diagnosis (UNK) left out"),
    ("bcn20000", "1 image left out, as ISIC_2019_Training_GroundTruth.csv does not list it: ISIC_0053454"),
    ("lfw", "1 image left out, as lfw_attributes.txt does not list it: No_Body_0001"),
    ("tsrd", "1 image left out, as TsignRecgTrain4170Annotation.txt does not list it: extra.png"),
]


@pytest.mark.parametrize(("name", "said"), UNLISTED)
def test_images_that_no_table_lists_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, said: str
) -> None:
    MINIATURES[name](tmp_path)
    with caplog.at_level(logging.WARNING):
        load_dataset(config(name, tmp_path))
    assert said in caplog.messages


@pytest.mark.parametrize("name", MINIATURES)
def test_the_digest_follows_what_is_read_and_nothing_else(tmp_path: Path, name: str) -> None:
    MINIATURES[name](tmp_path)
    look = look_at(config(name, tmp_path))
    assert look is not None
    (look.folder / "notes.txt").write_text("mine")
    same = look_at(config(name, tmp_path))
    assert same is not None
    assert same.sha256 == look.sha256
    for file in sorted(look.files):
        if not file.lower().endswith((".jpg", ".jpeg", ".png")):
            (look.folder / file).write_bytes((look.folder / file).read_bytes() + b"\n")
            break
    else:
        miniatures.image(look.folder / sorted(look.files)[0], 12345)
    other = look_at(config(name, tmp_path))
    assert other is not None
    assert other.sha256 != look.sha256


@pytest.mark.parametrize(
    ("valid", "cifar10_images", "train_parts", "test_parts"),
    [("unused", True, ["train"], ["test"]), ("train", True, ["train", "valid"], ["test"]),
     ("test", False, ["train"], ["test", "valid"]), ("unused", False, ["train"], ["test"])],
)  # fmt: skip
def test_cinic10_reads_the_parts_and_origins_that_are_asked_for(
    tmp_path: Path, valid: str, cifar10_images: bool, train_parts: list[str], test_parts: list[str]
) -> None:
    miniatures.cinic10(tmp_path)
    dataset = load_dataset(config("cinic10", tmp_path, valid=valid, cifar10_images=cifar10_images))
    learned = {**held(dataset.train), **held(dataset.substitute)}
    for found, parts in ((learned, train_parts), (held(dataset.test), test_parts)):
        wanted = {
            str(path.relative_to(tmp_path / "CINIC-10"))
            for part in parts for path in (tmp_path / "CINIC-10" / part).rglob("*.png")
            if cifar10_images or "cifar" not in path.name
        }  # fmt: skip
        assert set(found) == wanted
        assert all(miniatures.CIFAR[label] == name.split("/")[1] for name, (label, _) in found.items())


def test_settings_that_decide_about_files_keep_records_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from rnet.data.files.digest import looked_at_once

    miniatures.cinic10(tmp_path / "data")
    (tmp_path / "store").mkdir()
    with caplog.at_level(logging.WARNING):
        for valid in ("unused", "train", "unused"):
            with looked_at_once(tmp_path / "store"):
                look = look_at(config("cinic10", tmp_path / "data", valid=valid))
                assert look is not None
                assert len(look.files) == (60 if valid == "unused" else 80)
    assert not caplog.messages


def test_tsrd_is_cut_to_its_boxes_where_that_is_asked_for(tmp_path: Path) -> None:
    miniatures.tsrd(tmp_path)
    whole, cut = (load_dataset(config("tsrd", tmp_path, crop=crop)) for crop in (False, True))
    for i, position in enumerate(cut.test.positions_N.tolist()):
        path = cut.test.source.paths[position]  # type: ignore[attr-defined]
        left = int(Path(path).stem[-1])  # as the miniature has it
        box = Image.open(path).crop((left, 2, left + 10, 13))
        fitted = fit_image(box, 8, resize=None, interpolation="bilinear")
        assert cut.test.fetch(torch.tensor([i]))[0].permute(1, 2, 0).numpy().tobytes() == fitted.tobytes()
        assert torch.equal(whole.test.fetch(torch.tensor([i]))[0], decode_image(path, 8, 3))


def test_a_box_without_image_is_refused(tmp_path: Path) -> None:
    miniatures.tsrd(tmp_path)
    replaced(tmp_path / "TSRD" / TSRD_TEST, ";1;2;10;12;", ";21;2;30;12;")
    with pytest.raises(UserError, match=r"057_0001\.png is 20x16, and its box \(21, 2, 31, 13\) has nothing of it"):
        load_dataset(config("tsrd", tmp_path, crop=True))


def test_vggface2_is_limited_to_the_first_people(tmp_path: Path) -> None:
    train, _ = miniatures.vggface2(tmp_path)
    dataset = load_dataset(config("vggface2", tmp_path, identities=3))
    assert dataset.class_names == ("n000002", "n000003", "n000010")
    everything = {**held(dataset.train), **held(dataset.substitute), **held(dataset.test)}
    assert everything == expected({name: about for name, about in train.items() if "n000077" not in name})


def test_vggface2_by_attribute_asks_who_is_male_and_tests_on_other_people(tmp_path: Path) -> None:
    train, test = miniatures.vggface2(tmp_path)
    dataset = load_dataset(config("vggface2", tmp_path, attribute="Male", substitute_pool=3))
    assert dataset.class_names == ("not Male", "Male")
    assert held(dataset.test) == {name: (int(person in MALE), None) for name, (_, person) in test.items()}
    for part in (dataset.train, dataset.substitute):
        for name, (label, _) in held(part).items():
            assert label == int(train[name][1] in MALE)


def test_vggface2_without_a_row_for_everybody_is_refused(tmp_path: Path) -> None:
    miniatures.vggface2(tmp_path)
    replaced(tmp_path / "VGGFace2" / "meta" / "identity_meta.csv", "n000010,", "n999999,")
    with pytest.raises(UserError, match="does not say the Gender of 1 people: n000010"):
        load_dataset(config("vggface2", tmp_path, attribute="Male"))


@pytest.mark.parametrize(("table", "separator"), [("HAM10000_metadata.csv", ","), ("HAM10000_metadata.tab", "\t")])
def test_ham10000_is_read_under_all_names_of_its_table(tmp_path: Path, table: str, separator: str) -> None:
    train, _ = miniatures.ham10000(tmp_path, table=table, separator=separator)
    dataset = load_dataset(config("ham10000", tmp_path / "HAM10000"))
    everything = {**held(dataset.train), **held(dataset.substitute), **held(dataset.test)}
    assert seen(everything, train) == expected(train)


def test_another_attribute_of_lfw_has_other_labels_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    miniatures.lfw(tmp_path)
    dataset = load_dataset(config("lfw", tmp_path, attribute="Black Hair"))
    assert dataset.class_names == ("not Black Hair", "Black Hair")
    assert bool((dataset.train.labels_N == 1).all())
    with pytest.raises(UserError, match=r"dataset\.attribute='male' does not exist; did you mean Male"):
        load_dataset(config("lfw", tmp_path, attribute="male"))


@pytest.mark.parametrize("kind", ["devkit", "kaggle"])
def test_imagenet_reads_flat_validation_images_in_the_order_of_wnids(tmp_path: Path, kind: str) -> None:
    below = "ILSVRC/Data/CLS-LOC" if kind == "kaggle" else "imagenet"
    train, val = miniatures.imagenet(tmp_path, below=below)
    flat = miniatures.flatten_val(tmp_path / below, val)
    if kind == "devkit":
        miniatures.write_devkit(tmp_path / below, flat)
    else:
        rows = [f"{Path(name).stem},{miniatures.WNIDS[label]} 1 2 3 4 " for name, (label, _) in flat.items()]
        (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))
    dataset = load_dataset(config("imagenet", tmp_path))
    assert dataset.class_names == miniatures.WNIDS
    assert seen(held(dataset.test), flat) == expected(flat)
    assert {**held(dataset.train), **held(dataset.substitute)} == expected(train)


def test_imagenet_takes_the_first_images_of_each_class_and_a_part_of_the_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, val = miniatures.imagenet(tmp_path)
    flat = miniatures.flatten_val(tmp_path / "imagenet", val)
    miniatures.write_devkit(tmp_path / "imagenet", flat)
    (tmp_path / "imagenet" / "train" / miniatures.WNIDS[1]).rename(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(config("imagenet", tmp_path, per_class=2))
    assert "2 validation images left out, of classes that train has not" in caplog.messages
    assert {**held(dataset.train), **held(dataset.substitute)} == {
        f"train/{wnid}/{wnid}_{number}.JPEG": (label, None)
        for label, wnid in enumerate(miniatures.WNIDS[::2]) for number in range(2)
    }  # fmt: skip
    assert {label for label, _ in held(dataset.test).values()} == {0, 1}


def test_imagenet_without_the_truth_of_flat_validation_images_is_refused(tmp_path: Path) -> None:
    _, val = miniatures.imagenet(tmp_path)
    miniatures.flatten_val(tmp_path / "imagenet", val)
    with pytest.raises(UserError, match=r"neither LOC_val_solution\.csv nor ILSVRC2012_validation_ground_truth\.txt"):
        load_dataset(config("imagenet", tmp_path))
