"""Which image files Pillow decodes on this machine."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageFile, features

# EPS is a program, which Ghostscript would run. MPEG and the stubs are recognised, not decoded.
_NOT_DECODED = {"EPS", "MPEG"}
_NEEDS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats that some builds of Pillow cannot decode, and the feature that they need."""


@lru_cache
def decodable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats it decodes, in the order in which it tries them on a file's content."""
    Image.init()
    stubs = {getattr(kind, "format", None) for kind in _subclasses(ImageFile.StubImageFile)}
    absent = {name for name, feature in _NEEDS.items() if not features.check(feature)}
    return tuple(name for name in Image.ID if name not in stubs | absent | _NOT_DECODED)


@lru_cache
def image_suffixes() -> frozenset[str]:
    """Suffixes in lower case of the files that are taken for images: {".png", ".jpg", ...}."""
    formats = decodable_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def _subclasses(kind: type) -> set[type]:
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))
