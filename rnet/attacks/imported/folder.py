"""A folder of suspects: which of its files are taken for weights, and which are not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rnet.errors import UserError

logger = logging.getLogger(__name__)

TEXT = {
    ".asc", ".cfg", ".csv", ".html", ".ini", ".ipynb", ".json", ".log", ".md", ".md5", ".pdf", ".png", ".py", ".rst",
    ".sh", ".sha1", ".sha256", ".sha512", ".sig", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml",
}  # fmt: skip
"""Suffixes of what lies beside weights: notes, checksums, settings, scripts."""
NAMES = {"readme", "license", "licence", "notice", "changelog", "md5sums", "sha1sums", "sha256sums", "sha512sums"}
"""Names of such files that have no suffix."""


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that may be weights, by name; says how many others there are.

    Left out are hidden files, what TEXT and NAMES list, and what is in folders inside; anything else is judged by its
    content, later. Raises UserError for what is no folder, or has no such file.
    """
    try:
        folder = folder.expanduser()
        found = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"suspects={str(folder)!r}: {error.strerror}; name a folder with files of weights") from None
    except (RuntimeError, ValueError) as error:  # ~nobody, a zero byte
        raise UserError(
            f"suspects={str(folder)!r}: {str(error).rstrip('.')}; name a folder with files of weights"
        ) from None
    files = [path for path in found if _may_be_weights(path)]
    others = [path for path in found if path not in files and not path.is_dir()]
    folders = [path for path in found if path.is_dir()]
    said = [_counted(len(others), "file", "left out", others), _counted(len(folders), "folder", "not entered", folders)]
    about = "; ".join(filter(None, said))
    if not files:
        raise UserError(f"suspects={str(folder)!r} holds no files of weights ({about or 'it is empty'}); name another")
    if about:
        logger.info("suspects=%s: %d to judge; %s", folder, len(files), about)
    return files


def _may_be_weights(path: Path) -> bool:
    """Whether it is a file (or a link that leads nowhere, which is then refused by name) that no rule leaves out."""
    if path.name.startswith(".") or path.suffix.lower() in TEXT or path.name.lower() in NAMES:
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())


def _counted(count: int, what: str, how: str, paths: Sequence[Path]) -> str:
    """ "2 files left out (README.md, sums.sha256)", or nothing."""
    if not count:
        return ""
    names = ", ".join(path.name for path in paths[:4]) + (", ..." if count > 4 else "")
    return f"{count} {what}{'' if count == 1 else 's'} {how} ({names})"
