"""A folder of suspects: which files are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnet.attacks.imported.folder import files_of
from rnet.errors import UserError

JUDGED = ["a.safetensors", "B.PT", "c.pth.tar", "d.ckpt", "e", "f.bin", "model_v1.2", "weights.unknown", "Zeta.pt"]
LEFT_OUT = [
    ".DS_Store", ".hidden.pt", "README", "README.md", "LICENSE", "SHA256SUMS", "a.safetensors.sha256", "a.md5",
    "config.json", "notes.txt", "train.py", "settings.YAML",
]  # fmt: skip


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_files_that_may_be_weights_come_by_name_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    filled(tmp_path, *JUDGED, *LEFT_OUT)
    (tmp_path / "inside").mkdir()
    filled(tmp_path / "inside", "g.pt")
    assert [path.name for path in files_of(tmp_path)] == sorted(JUDGED)
    assert f"{len(JUDGED)} to judge; {len(LEFT_OUT)} files left out (.DS_Store, .hidden.pt, LICENSE" in caplog.text
    assert "1 folder not entered (inside)" in caplog.text


def test_links_are_files_also_where_they_lead_nowhere(tmp_path: Path) -> None:
    filled(tmp_path, "a.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "a.pt")
    (tmp_path / "broken.pt").symlink_to(tmp_path / "gone.pt")
    assert [path.name for path in files_of(tmp_path)] == ["a.pt", "broken.pt", "link.pt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "suspects='.*gone': No such file or directory; name a folder"),
        ("file.pt", r"suspects='.*file\.pt': Not a directory; name a folder"),
        ("~nobody-of-that-name", "home directory; name a folder"),
        ("empty", "suspects='.*empty' holds no files of weights .it is empty.; name another"),
        ("notes", r"suspects='.*notes' holds no files of weights \(1 file left out \(README\.md\)\); name another"),
    ],
)
def test_what_is_no_folder_of_weights_is_refused(name: str, message: str, tmp_path: Path) -> None:
    filled(tmp_path, "file.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    filled(tmp_path / "notes", "README.md")
    with pytest.raises(UserError, match=message):
        files_of(Path(name) if name.startswith("~") else tmp_path / name)
