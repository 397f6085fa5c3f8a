"""Targets: data sets. Image files of every format, idx files, class maps, tables."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from rnet.data.config import ImageFolderConfig
from rnet.data.datasets.fashion_mnist import read_idx
from rnet.data.decoding import Reading, keep_pillow_quiet, read_image
from rnet.data.files.classes import read_class_map
from rnet.data.files.image_folder import list_image_folder
from rnet.data.files.shards import read_shards
from rnet.data.files.suffixes import decodable_formats
from tests.fuzz.target import Target

FORMATS = (
    "PNG",
    "JPEG",
    "TIFF",
    "GIF",
    "WEBP",
    "BMP",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "DDS",
    "JPEG2000",
    "IM",
    "MSP",
)
MODES = {
    "TIFF": ("RGB", "L", "RGBA", "I;16", "F", "CMYK", "P"),
    "PNG": ("RGB", "L", "RGBA", "I;16", "P", "1"),
    "MSP": ("1",),
}
TOKENS = (
    *(
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"eXIf",
        b"iCCP",
        b"acTL",
        b"\xff\xd8",
        b"\xff\xc0",
        b"\xff\xda",
        b"\xff\xe1",
    ),
    *(b"II*\0", b"MM\0*", b"RIFF", b"WEBPVP8X", b"GIF89a", b"BM", b"P6\n", b"P5 1 1 65535\n", b"DDS ", b"DX10"),
    *(b"0", b",", b"\t", b";", b"\n", b'"', b"{", b"[", b'{"a": 0, "b": 1}', b"a,0\nb,1\n", b"\xef\xbb\xbf", b"\0"),
)


def image(data: bytes, folder: Path) -> None:
    keep_pillow_quiet()
    path = folder / "image.png"
    path.write_bytes(data)
    read_image(str(path), 1 + 2 * (len(data) % 2), Reading())


def idx(data: bytes, folder: Path) -> None:
    path = folder / ("images" if data[:2] != b"\x1f\x8b" else "images.gz")
    path.write_bytes(data)
    read_idx(path, dims=3 if data[3:4] != b"\x01" else 1)


def zipped_idx(data: bytes, folder: Path) -> None:
    """The input is what the file holds when it is unpacked."""
    idx(gzip.compress(data, 1), folder)


def class_map(data: bytes, folder: Path) -> None:
    (folder / "map").write_bytes(data)
    read_class_map(str(folder / "map"))


def groups(data: bytes, folder: Path) -> None:
    for name in ("a", "b"):
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        (folder / "images" / name / "1.png").touch()
    (folder / "groups").write_bytes(data)
    list_image_folder(ImageFolderConfig(folder=str(folder / "images"), groups=str(folder / "groups"), image_size=4))


def shard(data: bytes, folder: Path) -> None:
    (folder / "train.tar").write_bytes(data)
    for one in read_shards([str(folder / "train.tar")], frozenset({".jpg"})):
        for member in one.images:
            member.read()


def _shards() -> list[bytes]:
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name, content in (
                ("a.jpg", b"image"),
                ("a.cls", b"1"),
                ("\u00e4.jpg", b"x"),
                ("\u00e4.cls", b"0"),
            ):
                about = tarfile.TarInfo(name)
                about.size, about.mtime = len(content), 1.5 if kind == tarfile.PAX_FORMAT else 1
                tar.addfile(about, io.BytesIO(content))
        found.append(out.getvalue())
    return found


def encoded(format: str, mode: str) -> bytes:
    """A small file of the format."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    found: Image.Image = Image.fromarray(pixels)
    if mode == "I;16":
        found = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        found = found.convert("L").convert(mode) if mode == "F" else found.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    found.save(file, format, **({"exif": exif} if format in ("PNG", "JPEG", "TIFF", "WEBP") else {}))
    return file.getvalue()


def _images() -> list[bytes]:
    return [
        encoded(format, mode)
        for format in FORMATS
        if format in decodable_formats()
        for mode in MODES.get(format, ("RGB",))
    ]


def _idx() -> list[bytes]:
    return [
        bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3)) + bytes(18),
        bytes((0, 0, 8, 1, 0, 0, 0, 4, 1, 2, 3, 4)),
    ]


MAPS = [
    b'{"a": 0, "b": 1}',
    b'{"0": "a", "1": "b"}',
    b'["a", "b"]',
    b"name,index\na,0\nb,1\n",
    b"a\nb\nc\n",
    b"0\ta\n1\tb\n",
]
TARGETS = [
    Target(name="image files", weight=14, run=image, seeds=_images, tokens=TOKENS),
    Target(name="idx files", weight=4, run=idx, seeds=lambda: [*_idx(), *map(gzip.compress, _idx())], tokens=TOKENS),
    Target(name="idx files, unpacked", weight=5, run=zipped_idx, seeds=_idx, tokens=TOKENS),
    Target(name="shards", weight=4, run=shard, seeds=_shards, tokens=TOKENS),
    Target(name="class maps", weight=8, run=class_map, seeds=lambda: MAPS, tokens=TOKENS),
    Target(
        name="tables of groups",
        weight=2,
        run=groups,
        seeds=lambda: [b"file,group\na/1.png,x\nb/1.png,y\n"],
        tokens=TOKENS,
    ),
]
