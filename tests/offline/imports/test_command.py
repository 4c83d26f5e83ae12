"""`recsys import` on the command line, from the sample folder to counts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.cli import main

SAMPLE = Path(__file__).resolve().parents[3] / "scripts" / "make_mind_sample.py"


@pytest.fixture
def recsys(capsys, tmp_path):
    """The command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), "--set", f"data_dir={tmp_path / 'data'}"])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A folder as the script makes it, with five broken lines."""
    folder = tmp_path_factory.mktemp("sample")
    make(folder, "--users", 60, "--posts", 80, "--days", 3, "--bad-lines", 5)
    return folder


def make(folder, *arguments):
    subprocess.run([sys.executable, SAMPLE, folder, *map(str, arguments)], check=True, capture_output=True)


def test_the_sample_imports_and_its_broken_lines_are_counted(recsys, sample):
    code, out, err = recsys("import", "mind", sample, "--json")
    report = json.loads(out)
    assert (code, out.count("\n")) == (0, 1)
    text = (sample / "behaviors.tsv").read_text()
    assert report["quarantined"] == {
        "duplicate_impression_id": 1, "empty_user_id": 1, "impression_without_label": 1, "unparsable_time": 1,
        "wrong_number_of_columns": 1,
    }  # fmt: skip
    assert report["rows"]["impressions"] == 10 * (len(text.splitlines()) - 5)
    assert report["rows"]["actions"] == report["clicks"] + report["history_clicks"]
    assert 0.08 < report["clicks"] / report["rows"]["impressions"] < 0.3
    assert report["id_only_posts"] == 0
    assert "set aside: 1 x unparsable_time" in err
    assert "made up" in err


def test_the_sample_can_be_trained_on(recsys, sample, tmp_path):
    recsys("import", "mind", sample)
    import numpy as np

    from recsys.offline.lake.lake import Lake

    lake = Lake(str(tmp_path / "data" / "lake"))
    posts = lake.read("posts")
    topic = dict(zip(posts["post_id"].to_pylist(), posts["topic"].to_pylist(), strict=True))

    def pairs(table):
        found = lake.read(table)
        return zip(found["user_id"].to_pylist(), found["post_id"].to_pylist(), strict=True)

    clicks = {(user, post) for user, post in pairs("actions")}
    shown = {(user, topic[post]): [] for user, post in pairs("impressions")}
    for user, post in pairs("impressions"):
        shown[user, topic[post]].append((user, post) in clicks)
    rates = [np.mean(seen) for seen in shown.values() if len(seen) >= 5]
    assert np.std(rates) > 0.1  # users differ in what they like


def test_the_same_arguments_make_the_same_sample(sample, tmp_path):
    make(tmp_path / "again", "--users", 60, "--posts", 80, "--days", 3, "--bad-lines", 5)
    make(tmp_path / "other", "--users", 60, "--posts", 80, "--days", 3, "--seed", 1)
    for name in ("behaviors.tsv", "news.tsv"):
        assert (tmp_path / "again" / name).read_bytes() == (sample / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (sample / name).read_bytes()


def test_without_a_terminal_progress_is_a_line_per_stage(recsys, sample):
    _, out, err = recsys("import", "mind", sample, "--json")
    assert out.count("\n") == 1
    assert "\r" not in err
    assert "\x1b" not in err
    assert [line for line in err.splitlines() if line.startswith("import mind")] == [
        "import mind ...", next(line for line in err.splitlines() if line.startswith("import mind: ")),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["mind", "interactions", "sequences"])
def test_a_folder_without_the_files_is_a_one_line_error(recsys, tmp_path, kind):
    code, out, err = recsys("import", kind, tmp_path / "nowhere", "--json")
    assert (code, out) == (1, "")
    assert err.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'nowhere'} has no ")


def test_a_wrong_mapping_is_a_usage_error(recsys, tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("u,p,t\n1,2,2026-01-05\n")
    assert recsys("import", "csv", path)[0] == 2
    for columns in (
        "user_id=u,post_id=p",
        "user_id=u,post_id=p,event_time=when",
        "user_id=u,post_id=p,event_time=t,x=t",
    ):
        code, out, err = recsys("import", "csv", path, "--map", columns)
        assert (code, out) == (2, "")
        assert "error: --map" in err
    code, out, _ = recsys("import", "csv", path, "--map", "user_id=u,post_id=p,event_time=t", "--json")
    assert code == 0
    assert json.loads(out)["rows"] == {"impressions": 0, "actions": 1}


def test_an_import_into_a_simulated_world_is_refused_with_the_remedy(recsys, sample, tmp_path):
    from recsys.offline.lake.lake import Lake

    Lake(str(tmp_path / "data" / "lake")).finish({"origin": "world", "logs_end": 0})
    code, _, err = recsys("import", "mind", sample)
    assert code == 1
    assert "--set data_dir=FOLDER" in err
