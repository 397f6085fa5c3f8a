"""Damaged image files and odd folders of any kind end in a data set or in one line: nothing else is raised or printed.

RNET_FUZZ=12000 tries so many files and folders instead of a few hundred.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnet.data.config import ImageFolderConfig
from rnet.data.decoding import Reading, keep_pillow_quiet, read_image
from rnet.data.files.digest import look_at
from rnet.data.loading import load_dataset
from rnet.errors import UserError
from tests.fuzz.images import MODES, encoded

EXAMPLES = int(os.environ.get("RNET_FUZZ", "360"))
FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS")
SMALL = settings(deadline=None, suppress_health_check=list(HealthCheck))


SEEDS = [encoded(format, mode) for format in FORMATS for mode in MODES.get(format, ("RGB",))]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with bytes changed, inserted, removed or repeated, perhaps cut off; or bytes of no format."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(("set", "flip", "insert", "remove", "repeat", "number")))
        if kind == "set":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "flip":
            content[place : place + 1] = bytes(b ^ (1 << draw(st.integers(0, 7))) for b in content[place : place + 1])
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 20))]
        elif kind == "repeat":
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        else:  # sizes, counts and offsets at their limits
            number = draw(st.sampled_from((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)))
            content[place : place + 4] = number.to_bytes(4, draw(st.sampled_from(("big", "little"))))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


def message_of(work: Callable[[], object]) -> str | None:
    """What a user is told; None if all went well. Any other exception goes through."""
    try:
        work()
    except UserError as error:
        return str(error)
    return None


@settings(SMALL, max_examples=EXAMPLES * 5 // 6)
@given(content=damaged(), suffix=st.sampled_from((".png", ".jpg", ".tif", ".gif")), channels=st.sampled_from((1, 3)))
def test_a_damaged_file_is_an_image_or_one_line(content: bytes, suffix: str, channels: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{suffix}"
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            keep_pillow_quiet()
            message = message_of(lambda: read_image(str(path), channels, Reading()))
        assert message is None or (str(path) in message and message.isprintable())
        assert not said
        assert [entry.name for entry in Path(folder).iterdir()] == [path.name]


names = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=8
) | st.sampled_from(
    ("train", "Test", "val", ".git", "Thumbs.db", "a\nb", " ", "a\u0301", "\u00e1", "0", "10", "'\"$", "~")
)
GOOD = encoded("PNG", "RGB")


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[list[str], bytes | str]]:
    """Paths with content, or the target of a link."""
    entry = st.tuples(
        st.lists(names, min_size=1, max_size=4),
        st.just(GOOD) | st.sampled_from((b"", b"text", "..", ".", "nowhere", "/")),
    )
    return draw(st.lists(entry, max_size=12))


@pytest.mark.filterwarnings("error")
@settings(SMALL, max_examples=EXAMPLES // 6)
@given(
    tree=trees(),
    suffix=st.sampled_from((".png", ".PNG", "", ".txt")),
    order=st.sampled_from(("natural", "alphabetical")),
)
def test_an_odd_folder_is_a_data_set_or_one_line(tree: Any, suffix: str, order: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        folder.mkdir()
        for parts, content in tree:
            path = folder.joinpath(*(part for part in parts if part not in (".", "..")))
            path = path.with_name(f"{path.name}{suffix}") if path != folder else folder / f"x{suffix}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, str) and content != "/":
                    path.symlink_to(content)
                else:
                    path.write_bytes(content if isinstance(content, bytes) else b"x")
            except OSError:  # a name that this file system does not take, or that is taken
                continue
        before = sorted(os.walk(place))
        config = ImageFolderConfig(folder=str(folder), image_size=4, substitute_pool=0, class_order=order)
        message = message_of(lambda: (look_at(config), load_dataset(config)))
        assert message is None or message.isprintable()
        assert sorted(os.walk(place)) == before
