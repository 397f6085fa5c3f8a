"""Published data sets in small: their layouts, file names and columns, with the oddities they are met with.

Each function writes one below a folder and returns what is in it: {name: (label, group)} of its training and of its
test images; the group is None where there are none, and there is no test dict where test images are split off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

Contents = dict[str, tuple[int, str | None]]
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WNIDS = ("n01440764", "n01443537", "n02119789")


def image(path: Path, seed: int, *, width: int = 8, height: int = 8) -> None:
    """A random image file of the seed's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def cinic10(folder: Path) -> tuple[Contents, Contents]:
    """Two images of CIFAR-10 and two of ImageNet a class in train, one of each in valid and in test."""
    found: dict[str, Contents] = {"train": {}, "valid": {}, "test": {}}
    for label, name in enumerate(CIFAR):
        for part, count in (("train", 2), ("valid", 1), ("test", 1)):
            origin = "test" if part == "test" else "train"
            for number in range(count):
                for file in (f"cifar10-{origin}-{10 * label + number}.png", f"n0269037{label}_{number}.png"):
                    path = f"{part}/{name}/{file}"
                    image(folder / "CINIC-10" / path, hash_of(path))
                    found[part][path] = (label, None)
    (folder / "CINIC-10" / "README.md").write_text("not an image")
    return found["train"], found["test"]


def tsrd(folder: Path) -> tuple[Contents, Contents]:
    """Seven signs to train and three to test, 20x16, in the folders of the four archives; lines end in semicolons."""
    base = folder / "TSRD"
    found: list[Contents] = []
    for place, table, ends, signs in (
        ("tsrd-train", "TSRD-Train Annotation/TsignRecgTrain4170Annotation.txt", "\r\n", [0, 0, 3, 57, 57, 8, 9]),
        ("TSRD-Test", "TSRD-Test Annotation/TsignRecgTest1994Annotation.txt", "\n", [0, 57, 9]),
    ):
        lines, contents = [], {}
        for number, label in enumerate(signs):
            name = f"{label:03d}_{number:04d}.png"
            image(base / place / name, hash_of(f"{place}/{name}"), width=20, height=16)
            lines.append(f"{name};20;16;{number};2;{number + 9};12;{label};")
            contents[f"{place}/{name}"] = (label, None)
        (base / table).parent.mkdir(parents=True)
        (base / table).write_bytes((ends.join(lines) + ends).encode("utf-8-sig"))
        found.append(contents)
    image(base / "tsrd-train" / "extra.png", 1)
    return found[0], found[1]


def vggface2(folder: Path) -> tuple[Contents, Contents]:
    """Four people to train and two to test; the labels are by identity. Who is male: MALE."""
    base = folder / "VGGFace2"
    found: dict[str, Contents] = {"train": {}, "test": {}}
    for part, people in (("train", [2, 3, 10, 77]), ("test", [1, 9])):
        for label, number in enumerate(people):
            for picture in range(3 + label):
                path = f"{part}/n{number:06d}/{picture:04d}_01.{'JPG' if picture == 1 else 'jpg'}"
                image(base / path, hash_of(path))
                found[part][path] = (label, f"n{number:06d}")
    rows = ["Class_ID, Name, Sample_Num, Flag, Gender", 'n000001, "14th_Dalai_Lama",424,0, m,']
    rows += [
        'n000002, "A_Fine_Frenzy", 315, 1, f',
        'n000003, "Smith, Jr._Bob", 3, 1, m',
        "n000009, Ann,_Other, 4, 0, f",
    ]
    rows += ["n000010, Jos\u00e9, 5, 1, f", "n000077, Adhyaksa,_Dault, 319, 1, m"]
    (base / "meta").mkdir()
    (base / "meta" / "identity_meta.csv").write_text("\r\n".join(rows), encoding="utf-8")
    return found["train"], found["test"]


MALE = {"n000001", "n000003", "n000077"}


def ham10000(folder: Path, *, table: str = "HAM10000_metadata", separator: str = ",") -> tuple[Contents, None]:
    """24 images of 14 lesions in two folders, one suffix in capitals; copies of the first folder in lower case."""
    base = folder / "HAM10000"
    kinds = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    lines, contents = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"], {}
    for number in range(24):
        lesion, kind = number % 14, kinds[number % 7]
        name = f"ISIC_{24306 + number:07d}"
        part = 1 + number // 12
        path = f"HAM10000_images_part_{part}/{name}.{'JPG' if number == 5 else 'jpg'}"
        image(base / path, number, width=12, height=9)
        if part == 1:
            image(base / path.replace("HAM", "ham"), number, width=12, height=9)
        age = "" if number == 3 else "80.0"
        lines.append(f"HAM_{lesion:07d},{name},{kind},histo,{age},male,scalp,vidir_modern")
        contents[path] = (number % 7, f"HAM_{lesion:07d}")
    image(base / "ISIC2018_Task3_Test_Images" / "ISIC_0034524.jpg", 99)
    (base / "hmnist_8_8_RGB.csv").write_text("pixel0000\n1\n")
    text = "\r\n".join(line.replace(",", separator) for line in lines)
    (base / table).write_bytes(("\ufeff" + text).encode())
    return contents, None


def bcn20000(folder: Path) -> tuple[Contents, None]:
    """16 images of 8 lesions from Barcelona, and four that are HAM10000's, MSK's, of no lesion and of no diagnosis."""
    base = folder / "BCN20000"
    columns = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    truth, metadata = [f"image,{','.join(columns)}"], ["image,age_approx,anatom_site_general,lesion_id,sex"]
    contents = {}
    rows = [(f"ISIC_{number:07d}", number % 8, f"BCN_{number // 2:07d}") for number in range(16)]
    rows += [("ISIC_0024306", 1, "HAM_0000118"), ("ISIC_0000002_downsampled", 0, "MSK4_0011169")]
    rows += [("ISIC_0000001_downsampled", 1, ""), ("ISIC_0099999", 8, "BCN_0000009")]
    for name, label, lesion in rows:
        image(base / "ISIC_2019_Training_Input" / f"{name}.jpg", hash_of(name), width=9, height=9)
        truth.append(",".join([name, *("1.0" if label == column else "0.0" for column in range(9))]))
        metadata.append(f"{name},55.0,anterior torso,{lesion},female")
        if lesion.startswith("BCN") and label < 8:
            contents[f"ISIC_2019_Training_Input/{name}.jpg"] = (label, lesion)
    image(base / "ISIC_2019_Training_Input" / "ISIC_0053454.jpg", 5)
    (base / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(truth) + "\n")
    (base / "ISIC_2019_Training_Metadata.csv").write_text("\n".join([metadata[0], *reversed(metadata[1:])]))
    return contents, None


def lfw(folder: Path) -> tuple[Contents, None]:
    """19 pictures of six people with attributes, and one without."""
    lines = ["# LFW Attributes v1.1 Mon Jun 25 2012", "#\tperson\timagenum\tMale\tAsian\tBlack Hair"]
    contents = {}
    people = ("AJ Cook", "Al Gore", "Bo Li", "Jo O'Neil", "Li Na", "Saoud Al Faisal")
    for place, person in enumerate(people):
        for number in range(1, 6 - place % 4):
            name = person.replace(" ", "_")
            path = f"lfw_funneled/{name}/{name}_{number:04d}.jpg"
            image(folder / path, hash_of(path))
            male = 1.5 if (place + (number == 3)) % 2 else -0.568
            lines.append(f"{person}\t{number}\t{male}\t-1.9\t0.{number}")
            contents[path] = (int(male > 0), name)
    image(folder / "lfw_funneled" / "No_Body" / "No_Body_0001.jpg", 7)
    (folder / "lfw_funneled" / "pairs_01.txt").write_text("not an image")
    (folder / "lfw_attributes.txt").write_text("\r\n".join(lines) + "\r\n")
    return contents, None


def imagenet(folder: Path, *, below: str = "imagenet/") -> tuple[Contents, Contents]:
    """Three classes of three images to train, two of each to validate, in class folders."""
    found: dict[str, Contents] = {"train": {}, "val": {}}
    for label, wnid in enumerate(WNIDS):
        for number in range(3):
            path = f"train/{wnid}/{wnid}_{number}.JPEG"
            image(folder / below / path, hash_of(path), width=10 + number)
            found["train"][path] = (label, None)
        for number in range(2):
            path = f"val/{wnid}/ILSVRC2012_val_{2 * label + number + 1:08d}.JPEG"
            image(folder / below / path, hash_of(path), width=9)
            found["val"][path] = (label, None)
    return found["train"], found["val"]


def flatten_val(base: Path, contents: Contents) -> Contents:
    """val's images beside one another, as ILSVRC2012_img_val.tar unpacks."""
    for path in sorted(contents):
        (base / path).rename(base / "val" / Path(path).name)
        (base / path).parent.rmdir() if not any((base / path).parent.iterdir()) else None
    return {f"val/{Path(path).name}": about for path, about in contents.items()}


def write_devkit(base: Path, contents: Contents) -> None:
    """The devkit's tables: its numbers are not in the order of the wnids, and some synsets have children."""
    number_of = {"n02119789": 1, "n01440764": 2, "n01443537": 3, "n00001740": 1001}
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.zeros((len(number_of), 1), dtype=kinds)
    for row, (wnid, number) in enumerate(number_of.items()):
        synsets[row, 0] = (number, wnid, "tench, Tinca tinca", "a fish", 3 if number > 1000 else 0)
    place = base / "ILSVRC2012_devkit_t12" / "data"
    place.mkdir(parents=True)
    savemat(place / "meta.mat", {"synsets": synsets})
    truth = [str(number_of[WNIDS[label]]) for _, (label, _) in sorted(contents.items())]
    (place / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(truth) + "\n")


def hash_of(text: str) -> int:
    """A seed that is the same in every process."""
    return int.from_bytes(text.encode()[-8:], "little")


MINIATURES: dict[str, Callable[[Path], tuple[Contents, Contents | None]]] = {
    "bcn20000": bcn20000, "cinic10": cinic10, "ham10000": ham10000, "imagenet": imagenet, "lfw": lfw, "tsrd": tsrd,
    "vggface2": vggface2,
}  # fmt: skip
