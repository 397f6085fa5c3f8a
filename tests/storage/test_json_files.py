"""JSON of any origin: what can be used is used, and the rest does not stop anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnet.storage.json_files import read_log


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 3, "time": 1.0, "loss/total": 0.', b"[1, 2]", b"7", b"\xff\xfe", b"", b"[" * 100_000,
        b'{"step": null, "time": 1.0}', b'{"step": "3", "time": 1.0}', b'{"step": true, "time": 1.0}',
        b'{"step": 1.5, "time": 1.0}', b'{"step": 3}', b'{"step": 3, "time": NaN}',
        b'{"step": 1' + b"0" * 400 + b', "time": 1}',
    ],
)  # fmt: skip
def test_damaged_lines_of_a_log_are_passed_over(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    before, after = b'{"step": 1, "time": 5.0, "loss/total": NaN, "note": "x"}', b'{"step": 2, "time": 6.0}'
    path.write_bytes(b"\n".join([before, line, after]))
    first, last = read_log(path)
    assert last == {"step": 2, "time": 6.0}
    assert first.keys() == {"step", "time", "loss/total"}


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == read_log(tmp_path) == []
