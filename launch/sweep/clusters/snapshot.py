"""The code that tasks run: a copy named by its content, so that editing the tree does not change what was submitted.

<root>/snapshots/<digest>/{rnet, launch, configs, tree.json, changes.patch}
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import rnet
from rnet.config.compose import config_folder
from rnet.storage.files import make_folder, unwritable
from rnet.storage.json_files import write_json

PARTS = ("rnet", "launch", "configs")


def take_snapshot(root: Path) -> Path:
    """The folder of the snapshot of the code that is running, made if it is not there yet.

    tree.json names the git commit, if there is one; changes.patch holds what differs from it.
    """
    package = Path(rnet.__file__).resolve().parent
    files = {
        f"{part}/{path.relative_to(folder)}": path
        for part, folder in zip(PARTS, (package, _launch_folder(), config_folder()), strict=True)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    folder = root / "snapshots" / digest.hexdigest()[:16]
    if folder.is_dir():
        return folder
    making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name, path in files.items():
            make_folder((making / name).parent)
            shutil.copyfile(path, making / name)
        commit, patch = _git(package.parent)
        (making / "changes.patch").write_text(patch)
        write_json(making / "tree.json", {"digest": folder.name, "commit": commit, "dirty": bool(patch)})
        os.rename(making, folder)
    except OSError as error:
        if not folder.is_dir():  # somebody else was faster
            raise unwritable(folder, error) from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _launch_folder() -> Path:
    return Path(__file__).resolve().parents[2]


def _git(tree: Path) -> tuple[str | None, str]:
    """The commit and what the working tree changed since, untracked files by name; nothing where there is no git."""
    if not (tree / ".git").exists() or shutil.which("git") is None:
        return None, ""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tree), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    try:
        untracked = git("ls-files", "--others", "--exclude-standard", "--", *PARTS)
        return git("rev-parse", "HEAD").strip(), git("diff", "HEAD", "--", *PARTS) + untracked
    except subprocess.CalledProcessError:  # no commit yet, or a tree of another user
        return None, ""
