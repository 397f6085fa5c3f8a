"""The names of published data sets' files, all empty: enough to list them, to make ids and to plan."""

from __future__ import annotations

from pathlib import Path


def write_published(home: Path) -> None:
    """cifar10, fashion_mnist, gtsrb, celeba and lfw where they are looked for below a home folder, without content."""
    data = home / ".cache" / "rnet" / "data"
    gtsrb, celeba = data / "gtsrb", data / "celeba"
    names = [f"cifar-10-batches-py/{name}" for name in ("test_batch", "batches.meta")]
    names += [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]
    names += [
        f"FashionMNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    names += [f"gtsrb/GTSRB/Training/{label:05d}/00000.ppm" for label in range(43)]
    names += ["gtsrb/GTSRB/Final_Test/Images/00000.ppm", "celeba/img_align_celeba/000001.jpg"]
    tables = ("identity_CelebA", "list_bbox_celeba", "list_landmarks_align_celeba", "list_attr_celeba")
    names += [f"celeba/{table}.txt" for table in tables]
    names += [f"lfw_funneled/{person}/{person}_{i:04d}.jpg" for person in ("Ann_Able", "Bob_Bold") for i in range(20)]
    for path in (data / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (gtsrb / "GT-final_test.csv").write_text("Filename;ClassId\n00000.ppm;7\n")
    (celeba / "list_eval_partition.txt").write_text("000001.jpg 0\n")
