"""`recsys world report` gives one picture, tables and one JSON object."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from recsys.cli import main
from recsys.config import WorldConfig
from recsys.offline.lake.lake import Lake
from recsys.world.writing.simulate import simulate

TINY = Path(__file__).resolve().parent.parent.parent.parent / "configs" / "tiny.yaml"
SIZES = {"n_users": 300, "n_posts": 1500, "n_authors": 50, "n_impressions": 20_000, "n_days": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with a world and nothing else."""
    data = tmp_path_factory.mktemp("report")
    config = WorldConfig.model_validate(SIZES)
    simulate(config, Lake(str(data / "lake")), data / "world" / "truth", 2, lambda done, total: None)
    return data


@pytest.fixture
def recsys(capsys):
    """The command in this process: exit code, stdout, stderr."""

    def run(data, *options):
        with pytest.raises(SystemExit) as end:
            main(["world", "report", "--config", str(TINY), "--set", f"data_dir={data}", *options])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def drawn(folder):
    """The picture at its default path, (height, width, 4)."""
    with pytest.raises(SystemExit) as end:
        main(["world", "report", "--config", str(TINY), "--set", f"data_dir={folder}", "--json"])
    assert end.value.code in (None, 0)
    return matplotlib.image.imread(folder / "world" / "report.png")


def test_the_picture_is_large_enough_to_read(drawn):
    height, width, _ = drawn.shape
    assert width >= 1600
    assert height >= 1200


def test_no_panel_of_the_picture_is_blank(drawn):
    height, width, _ = drawn.shape
    panels = [
        drawn[row * height // 4 : (row + 1) * height // 4, column * width // 4 : (column + 1) * width // 4, :3]
        for row in range(4)
        for column in range(4)
    ]
    # Text alone is grey: every panel also shows data in colour.
    coloured = [int((np.ptp(panel, axis=2) > 0.2).sum()) for panel in panels]
    assert min(coloured) > 100, coloured


def test_json_holds_every_figure_with_estimate_band_and_truth(recsys, folder, tmp_path):
    code, out, _ = recsys(folder, "--json", "--out", str(tmp_path / "picture.png"))
    assert code in (None, 0)
    assert out.count("\n") == 1
    report = json.loads(out)
    assert report.keys() == {
        "picture", "impressions", "impressions_left_out", "events_delivered_twice", "first_date", "last_date",
        "covered", "figures", "taste_correlation", "power_tails", "activity", "duplicates",
    }  # fmt: skip
    assert (report["first_date"], report["last_date"]) == ("2026-01-05", "2026-01-08")
    assert report["impressions"] >= 20_000
    assert len(report["figures"]) == 12
    for figure in report["figures"].values():
        lengths = {len(figure[name]) for name in ("cells", "x", "n", "estimate", "low", "high", "truth")}
        assert len(lengths) == 1
        assert lengths.pop() >= 4


def test_out_sets_the_path_of_the_picture_and_creates_folders(recsys, folder, tmp_path):
    recsys(folder, "--json", "--out", str(tmp_path / "new" / "picture.png"))
    assert matplotlib.image.imread(tmp_path / "new" / "picture.png").shape[1] >= 1600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_without_json_tables_and_the_path_of_the_picture_are_printed(recsys, folder, tmp_path):
    code, out, _ = recsys(folder, "--out", str(tmp_path / "picture.png"))
    assert code in (None, 0)
    for words in ("Click rate by position", "Examination by position", "Repeated texts", "truth lies", "picture in"):
        assert words in out


def test_impressions_limits_the_report_to_the_first_days(recsys, folder, tmp_path):
    _, out, _ = recsys(folder, "--json", "--out", str(tmp_path / "picture.png"), "--impressions", "12000")
    report = json.loads(out)
    assert report["impressions"] <= 12_000
    assert report["last_date"] < "2026-01-08"
    assert report["impressions_left_out"] > 0


def test_a_folder_without_a_world_names_the_command_that_makes_one(recsys, tmp_path):
    code, out, err = recsys(tmp_path, "--json")
    assert code == 1
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("error: no world in ")
    assert "recsys simulate" in err


def test_an_interrupted_simulation_is_refused(recsys, folder):
    lake = Lake(str(folder / "lake"))
    info = lake.info()
    lake.begin()
    try:
        code, _, err = recsys(folder, "--json")
    finally:
        lake.finish({key: value for key, value in info.items() if key != "complete"})
    assert code == 1
    assert "incomplete" in err


def test_zero_impressions_are_refused(recsys, folder):
    assert recsys(folder, "--impressions", "0")[0] == 2


def test_a_failed_write_keeps_the_old_picture(recsys, folder, tmp_path, monkeypatch):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"old")

    def fail(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    code, _, err = recsys(folder, "--json", "--out", str(picture))
    assert code == 1
    assert "no space left" in err
    assert picture.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [picture]
