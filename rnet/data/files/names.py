"""Names of files: how they are compared, how they are shown, and which of them are the system's and not the user's."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable

_SYSTEM = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
}
"""What operating systems and network drives leave in folders, beside names that start with a dot."""


def nfc(name: str) -> str:
    """The name in composed form: macOS spells accents as two characters, others as one, and both mean one name."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or left there by an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM


def shown(name: str | os.PathLike[str]) -> str:
    """A name for a message of one line: as it is, or with escapes where it holds line breaks or other control bytes."""
    text = os.fspath(name)
    return text if text.isprintable() else repr(text)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(shown(name) for name in listed[:most]) + more


def counted(number: int, noun: str) -> str:
    """ "1 file", "1,200 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def by_suffix(names: Iterable[str]) -> str:
    """Counts for a message: "10 .txt, 2 .pdf", the most frequent first."""
    counts = Counter(os.path.splitext(name)[1].lower() or "without suffix" for name in names)
    return ", ".join(
        f"{count:,} {shown(suffix)}" for suffix, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))
    )
