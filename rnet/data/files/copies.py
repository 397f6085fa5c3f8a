"""Copies of shards on this machine: downloaded from a web server, or copied from a slow file system, once.

A copy is written beside its place and moved there when it is whole, so that what is there is whole. What a broken
connection left is gone on with. One process of a machine fetches; the others wait.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from itertools import product
from pathlib import Path
from urllib.parse import unquote

from rnet.data.download import alone_in
from rnet.data.files.names import shown
from rnet.data.saying import say
from rnet.errors import UserError, first_line

CACHE = "~/.cache/rnet/shards"
"""Where copies are kept if dataset.cache does not say."""
SUMS = "SHA256SUMS"
"""Beside shards on a server, if it is there: lines of a SHA-256 and a name, as sha256sum writes them."""

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000
_PAUSE = 0.4
"""Seconds before a second attempt; twice as long before each further one."""
_ATTEMPTS, _SECONDS, _AT_ONCE, _BYTES = 5, 60, 4, 1 << 20


def expanded(text: str) -> list[str]:
    """The names that {000000..000009} stands for, as a shell writes them out. Raises UserError for a wrong range."""
    parts = _RANGE.split(text)
    ranges = []
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        if not 0 <= int(last) - int(first) < _MOST_SHARDS:
            raise UserError(
                f"{{{first}..{last}}} in {shown(text)} must count upwards, to at most {_MOST_SHARDS:,} names"
            )
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        ranges.append([f"{number:0{width}d}" for number in range(int(first), int(last) + 1)])
    texts = parts[::3]
    if any("{" in part or "}" in part for part in texts):
        raise UserError(f"{shown(text)} has braces that are no range; write ranges as {{000000..000009}}")
    return ["".join([texts[0], *(a + b for a, b in zip(one, texts[1:], strict=True))]) for one in product(*ranges)]


def fetched(address: str, cache: str | None, *, beside: str) -> tuple[Path, list[str]]:
    """The folder with copies of the files at http(s) addresses, and their names in it. address: one or several of one
    folder, with :: between them as WebDataset writes it. beside: a file that is fetched, too, if it is there.

    Raises UserError that names what cannot be had whole; what was fetched until then stays.
    """
    urls = list(dict.fromkeys(url for part in address.split("::") for url in expanded(part)))
    bases = {url.rpartition("/")[0] for url in urls}
    if (
        not all(url.startswith(("http://", "https://")) for url in urls)
        or len(bases) != 1
        or not all(url.endswith(".tar") for url in urls)
    ):
        raise UserError(
            f"dataset.folder={address!r} must be a folder, or the http or https address of .tar shards of one folder, "
            f"e.g. https://host/imagenet/train-{{000000..000099}}.tar"
        )
    (base,) = bases
    folder = _folder(cache, base)
    names = [unquote(url.rpartition("/")[2]) for url in urls]
    with alone_in(folder):
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            say(f"fetching {len(missing):,} of {len(names):,} shards from {base} to {folder}")
            sums = _sums(base)
            if not (folder / beside).is_file():
                _download(f"{base}/{beside}", folder / beside, sums.get(beside), needed=False)
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rnet-fetch") as threads:
                jobs = [
                    threads.submit(_download, url, folder / name, sums.get(name))
                    for url, name in zip(urls, names, strict=True)
                    if name in set(missing)
                ]
                for job in jobs:
                    job.result()
    return folder, names


def copied(folder: Path, names: tuple[str, ...], cache: str) -> Path:
    """The folder with copies of the files, of the same times. Copies whose original has changed are made anew."""
    target = _folder(cache, os.path.realpath(folder))
    with alone_in(target):
        for name in names:
            original, copy = folder / name, target / name
            about = original.stat()
            if copy.is_file() and (found := copy.stat()) and _look(found) == _look(about):
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(copy.name + ".part")
            try:
                shutil.copyfile(original, part)
                os.utime(part, ns=(about.st_mtime_ns, about.st_mtime_ns))
                if part.stat().st_size != about.st_size:
                    raise OSError("it changed meanwhile")
                part.replace(copy)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise UserError(
                    f"{shown(original)} cannot be copied to {shown(target)}: {error.strerror or error}; make room "
                    f"there or set dataset.cache to another folder"
                ) from error
    return target


def _look(about: os.stat_result) -> tuple[int, int]:
    return about.st_size, about.st_mtime_ns


def _folder(cache: str | None, origin: str) -> Path:
    """Of an origin of its own, so that shards of one name from two places are two."""
    folder = Path(cache or CACHE).expanduser() / hashlib.sha256(origin.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"dataset.cache={cache} cannot be used: {error.strerror}; set another folder") from None
    return folder


def _sums(base: str) -> dict[str, str]:
    """What the server says that the files' SHA-256 are; nothing if it does not."""
    try:
        with urllib.request.urlopen(f"{base}/{SUMS}", timeout=_SECONDS) as answer:
            lines = answer.read(64 << 20).decode(errors="replace").splitlines()
    except (OSError, http.client.HTTPException):
        return {}
    pairs = (line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    return {name.lstrip("*"): digest.lower() for digest, name in pairs}


def _download(url: str, target: Path, sha256: str | None, *, needed: bool = True) -> None:
    part = target.with_name(target.name + ".part")
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            reason, changed = _more(url, part)
        except urllib.error.HTTPError as error:
            if error.code in (408, 429) or error.code >= 500:
                reason = f"the server answers {error.code}"
                continue
            if not needed and error.code in (403, 404):
                return
            raise UserError(f"{url} cannot be fetched: the server answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = first_line(error) or type(error).__name__
            continue
        if reason:
            continue
        if sha256 is not None and _sha256(part) != sha256:
            part.unlink()
            reason = f"its SHA-256 is not that of {SUMS}"
            continue
        os.utime(part, (changed, changed))
        part.replace(target)
        return
    raise UserError(
        f"{url} cannot be fetched whole: {reason} (tried {_ATTEMPTS} times); what came is kept, run the same command "
        f"again to go on"
    )


def _more(url: str, part: Path) -> tuple[str, float]:
    """Reads what the file still lacks. Returns what is wrong with it, or "", and the time of its last change."""
    version = part.with_name(part.name + ".version")  # of the file on the server that the part is of
    known = version.read_text() if version.is_file() and part.is_file() else ""
    headers = {"Range": f"bytes={part.stat().st_size}-", "If-Range": known} if known else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()
        return "its size has changed", 0
    with answer:
        resumed = answer.status == 206
        tag = answer.headers.get("ETag", "")
        changed = answer.headers.get("Last-Modified", "")
        version.write_text(tag if tag and not tag.startswith("W/") else changed)
        length = answer.headers.get("Content-Length")
        with open(part, "ab" if resumed else "wb") as file:
            total = None if length is None else file.tell() + int(length)
            for block in _blocks(answer):
                file.write(block)
            have = file.tell()
    if total is not None and have != total:
        return f"the connection ended after {have:,} of {total:,} bytes", 0
    version.unlink()
    return "", parsedate_to_datetime(changed).timestamp() if changed else 0


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := answer.read(_BYTES):
        yield block


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
