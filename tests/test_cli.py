import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys.cli import main
from recsys.features.spec import NAMES

UNREACHABLE_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def recsys(capsys):
    """The command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def settings(config, *overrides):
    """The settings of a config as --set options, because its file is not known."""
    given = (
        f"data_dir={config.data_dir}", f"ranking.n_threads={config.ranking.n_threads}",
        f"evaluation.n_requests={config.evaluation.n_requests}",
    )  # fmt: skip
    return [word for override in (*given, *overrides) for word in ("--set", override)]


def sentence(err: str) -> str:
    """The error message: the last line of stderr, and its only error line."""
    lines = err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in err
    return lines[-1]


def only_json(out: str):
    """The value of the single JSON line on stdout."""
    assert out.count("\n") == 1
    assert out.endswith("\n")
    value = json.loads(out)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("command", [["show-config"], ["simulate"], ["train"], ["evaluate"], ["releases", "list"]])
def test_an_unknown_setting_is_wrong_usage(recsys, command):
    code, out, err = recsys(*command, "--set", "world.n_userz=3")
    assert (code, out) == (2, "")
    assert "world.n_userz is not a known setting (--set world.n_userz=3)" in sentence(err)


def test_a_wrong_type_is_wrong_usage_with_file_and_line(recsys, tmp_path):
    (tmp_path / "my.yaml").write_text("data_dir: here\nworld:\n  n_users: many\n")
    code, _, err = recsys("train", "--config", tmp_path / "my.yaml")
    assert code == 2
    assert sentence(err).endswith(f"unable to parse string as an integer, got 'many' ({tmp_path}/my.yaml:3)")


@pytest.mark.parametrize(
    "arguments",
    [["feed"], ["feed", "--user", "1", "--limit", "101"], ["feed", "--user", "1", "--limit", "0"],
     ["evaluate", "--seeds", "0"], ["serve", "--port", "70000"], ["nonsense"], ["train", "--nonsense"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_exits_with_2(recsys, arguments):
    code, out, err = recsys(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err


def test_training_without_a_lake_says_how_to_fill_it(recsys, small):
    code, out, err = recsys("train", *small)
    assert (code, out) == (1, "")
    assert "run `recsys simulate`" in sentence(err)


@pytest.mark.parametrize(
    "command", [["feed", "--user", "7"], ["serve", "--port", "0"], ["consume"], ["releases", "verify"]]
)
def test_without_a_release_the_error_says_to_train(recsys, small, command):
    code, out, err = recsys(*command, *small)
    assert (code, out) == (1, "")
    assert "no release in" in sentence(err)
    assert "run `recsys train`" in err


@pytest.mark.parametrize(
    "command", [["train"], ["feed", "--user", "7"], ["serve", "--port", "0"], ["consume"], ["simulate"]]
)
def test_an_unreachable_redis_fails_with_one_sentence(recsys, tiny_world, tmp_path, command):
    # Simulating clears the online store of the older world first.
    options = settings(tiny_world, f"online.url={UNREACHABLE_REDIS}")
    if command == ["simulate"]:
        options += ["--set", f"data_dir={tmp_path}"]
    code, out, err = recsys(*command, *options)
    assert (code, out) == (1, "")
    assert f"Redis at online.url {UNREACHABLE_REDIS} does not answer" in sentence(err)


def test_a_port_in_use_fails_with_one_sentence(recsys, tiny_world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = recsys("serve", "--port", port, *settings(tiny_world))
    assert (code, out) == (1, "")
    assert f"serving.port must be free, {port} on 127.0.0.1 cannot be bound" in sentence(err)


def test_a_public_address_without_a_key_is_wrong_usage(recsys, tiny_world):
    code, _, err = recsys("serve", *settings(tiny_world, "serving.host=0.0.0.0"))
    assert code == 2
    assert "serving.host must be a loopback address unless serving.api_key is set" in sentence(err)


def test_a_data_dir_that_is_a_file_fails_with_one_sentence(recsys, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code, _, err = recsys("simulate", "--set", f"data_dir={tmp_path / 'file'}", "--set", "world.n_impressions=1000")
    assert code == 1
    assert "Not a directory" in sentence(err)


def test_the_commands_from_simulate_to_bench_each_print_one_json_line(recsys, small):
    code, out, err = recsys("simulate", *small, "--json")
    assert code == 0
    written = only_json(out)
    assert written.keys() == {"impressions", "clicks", "requests", "elapsed_s", "peak_memory_mb"}
    assert written["impressions"] >= 15_000
    assert "simulate" in err
    code, out, _ = recsys("train", *small, "--json")
    assert code == 0
    made = only_json(out)
    assert made.keys() == {"release", "path", "metrics", "elapsed_s", "peak_memory_mb"}
    code, out, _ = recsys("evaluate", *small, "--json")
    assert code == 0
    assert only_json(out)["release"] == made["release"]
    code, out, err = recsys("evaluate", *small)
    assert code == 0
    assert "share of oracle" in out
    code, out, _ = recsys("releases", "list", *small, "--json")
    assert only_json(out) == {"releases": [made["release"]], "current": made["release"]}
    assert recsys("releases", "list", *small)[1] == f"{made['release']} (current)\n"
    assert recsys("releases", "use", made["release"], *small)[0] == 0
    code, out, _ = recsys("releases", "verify", *small)
    assert code == 0
    assert out.startswith(f"{made['release']}: ")
    code, out, _ = recsys("bench", "feed", "--requests", "20", *small, "--json")
    assert code == 0
    figures = only_json(out)
    assert figures["requests"] == 20
    assert min(figures.values()) > 0
    floor = figures["floor_redis_p50_ms"] + figures["floor_lightgbm_p50_ms"]
    assert figures["ratio_to_floor"] == pytest.approx(figures["server_p50_ms"] / floor, abs=0.01)
    code, _, err = recsys("releases", "use", "r-000000000000", *small)
    assert code == 1
    assert "is not in" in sentence(err)


def test_a_feed_prints_a_table_or_with_json_one_line(recsys, tiny_world):
    code, out, _ = recsys("feed", "--user", "somebody new", "--limit", "5", *settings(tiny_world), "--json")
    assert code == 0
    feed = only_json(out)
    assert feed["user_id"] == "somebody new"
    assert [item["position"] for item in feed["items"]] == [0, 1, 2, 3, 4]
    code, out, _ = recsys("feed", "--user", "somebody new", "--limit", "5", *settings(tiny_world))
    assert code == 0
    assert "feed of user somebody new" in out
    assert any(name in out for name in ("two_tower", "followed", "trending"))


def test_every_setting_is_shown(recsys):
    code, out, _ = recsys("show-config", "--set", "world.seed=5")
    assert code == 0
    assert json.loads(out)["world"]["seed"] == 5
    assert only_json(recsys("show-config", "--set", "world.seed=5", "--json")[1]) == json.loads(out)


def test_every_feature_is_listed(recsys):
    code, out, _ = recsys("features", "list")
    assert code == 0
    assert all(name in out for name in NAMES)
    listed = only_json(recsys("features", "list", "--json")[1])
    assert [feature["name"] for feature in listed["features"]] == list(NAMES)
    assert recsys("features", "list", "--set", "nope=1")[0] == 2


def test_ctrl_c_prints_one_word_and_leaves_the_lake_marked_as_incomplete(small, recsys):
    command = [sys.executable, "-m", "recsys", "simulate", *small, "--set", "world.n_impressions=50000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "simulate ...\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 1
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    code, _, err = recsys("train", *small)
    assert code == 1
    assert "interrupted; run `recsys simulate` again" in sentence(err)


def test_the_program_starts_as_a_module_and_by_name():
    for command in ([sys.executable, "-m", "recsys"], [Path(sys.executable).parent / "recsys"]):
        answer = subprocess.run([*command, "show-config", "--json"], capture_output=True, text=True, check=False)
        assert answer.returncode == 0
        assert only_json(answer.stdout)["data_dir"] == "data/demo"
    assert subprocess.run([sys.executable, "-m", "recsys"], capture_output=True, check=False).returncode == 2
