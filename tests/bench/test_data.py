"""`rnet bench data` reads every way's images and says how fast."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from launch.cli import app
from rnet.bench.data import bench_data, write_photographs


def test_each_way_is_measured_and_rnets_own_is_the_yardstick(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path, 8)
    rows = bench_data(tmp_path, paths, image_size=16, batch_size=4, workers=1, rounds=1)
    assert [row["name"] for row in rows] == [
        "rnet's loader", "decoding and cropping alone", "rnet's loader, to floats", "rnet's loader, in threads",
        "ImageFolder, torchvision.io", "ImageFolder, Pillow",
    ]  # fmt: skip
    assert rows[0]["ratio"] == 1
    assert all(row["images_per_second"] > 0 for row in rows)
    assert len({Path(path).read_bytes() for path in paths}) == 8


def test_what_cannot_be_measured_is_refused_and_nothing_else_is_measured_instead() -> None:
    for name in ("digits", "webdataset"):
        found = CliRunner().invoke(app, ["bench", "data", f"dataset={name}"])
        assert found.exit_code == 2
        assert f"reads image files in class folders, not dataset={name}; set dataset.folder alone" in found.output
