"""The benchmark of the world on a world of a thousand impressions."""

import json

import pytest

from recsys.bench.world import simulate as bench
from recsys.bench.world.simulate import bench_simulate
from recsys.cli import main
from recsys.progress import Progress

FIGURES = {
    "impressions", "impressions_per_s", "peak_memory_mb", "bytes_per_impression", "floor_impressions_per_s",
    "ratio_to_floor",
}  # fmt: skip


def test_the_command_prints_every_figure_and_leaves_nothing_behind(small, small_config, capsys):
    around = sorted(small_config.data_dir.parent.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(["bench", "simulate", "--impressions", "1000", *small, "--json"])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result.keys() >= FIGURES
    assert min(result.values()) > 0
    assert result["impressions"] >= 1000
    assert result["ratio_to_floor"] == pytest.approx(
        result["impressions_per_s"] / result["floor_impressions_per_s"], abs=1e-4
    )
    assert result["floor_share_of_rows"] == 1
    assert sorted(small_config.data_dir.parent.rglob("*")) == around


def test_an_interruption_leaves_nothing_behind(small_config, monkeypatch):
    def interrupted(*arguments):
        (folder,) = small_config.data_dir.parent.glob("recsys-bench-*")
        assert any(folder.rglob("*.parquet"))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "write_floor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_simulate(small_config, 1000, Progress())
    assert not list(small_config.data_dir.parent.glob("recsys-bench-*"))


def test_bytes_are_those_of_the_logs_and_of_the_truth_about_impressions(tmp_path):
    sizes = {
        "lake/requests/date=2026-01-05/world.parquet": 1,
        "lake/returned/date=2026-01-05/world.parquet": 2,
        "lake/impressions/date=2026-01-05/world.parquet": 4,
        "lake/actions/date=2026-01-06/world.parquet": 8,
        "truth/impressions/2026-01-05.parquet": 16,
        "truth/2026-01-06.parquet": 32,
        "truth/users.parquet": 1 << 10,
        "truth/posts.parquet": 1 << 10,
        "lake/posts/date=2026-01-05/world.parquet": 1 << 10,
        "lake/_lake.json": 1 << 10,
    }
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert bench._size(bench._log_files(tmp_path)) == 63


def test_a_data_folder_that_does_not_exist_yet_is_not_made(small_config, data_folder):
    config = small_config.model_copy(update={"data_dir": data_folder / "not" / "yet"})
    bench_simulate(config, 1000, Progress())
    assert not (data_folder / "not").exists()
