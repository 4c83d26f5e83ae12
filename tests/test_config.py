import ast
import re
from pathlib import Path

import pytest

from recsys import config as module
from recsys.config import DEFAULT_PATH, Config, load
from recsys.errors import ConfigError

CONFIGS = sorted(DEFAULT_PATH.parent.glob("*.yaml"))


def refusal(tmp_path, text, overrides=()) -> str:
    """The error message for this file, with its path shortened to `config.yaml`."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).replace(str(path), "config.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data_dir: data\n\nworld:\n  n_userz: 3\n",
            "world.n_userz is not a known setting (config.yaml:4); `recsys show-config` lists them all",
        ),
        ("wrld:\n  seed: 1\n", "wrld is not a known setting (config.yaml:1); `recsys show-config` lists them all"),
        (
            "world:\n  n_users: many\n",
            "world.n_users must be a valid integer, unable to parse string as an integer, got 'many' (config.yaml:2)",
        ),
        ("online:\n  url: 5\n", "online.url must be a valid string, got 5 (config.yaml:2)"),
        ("world: 7\n", "world must be a section of settings, got 7 (config.yaml:1)"),
        ("world:\n", "world must be a section of settings, got None (config.yaml:1)"),
        ("world:\n  n_users: -5\n", "world.n_users must be >= 20, got -5 (config.yaml:2)"),
        ("world:\n  hidden_share: 1\n", "world.hidden_share must be < 1, got 1 (config.yaml:2)"),
        ("serving:\n  port: 70000\n", "serving.port must be <= 65535, got 70000 (config.yaml:2)"),
        (
            "retrieval:\n  towers:\n    temperature: 0\n",
            "retrieval.towers.temperature must be > 0, got 0 (config.yaml:3)",
        ),
        ("world:\n  taste: .nan\n", "world.taste must be a finite number, got nan (config.yaml:2)"),
        (
            "offline:\n  impressions: both\n",
            "offline.impressions must be 'explicit' or 'implied', got 'both' (config.yaml:2)",
        ),
        (
            "offline:\n  split: [1, 2, 0, 1]\n",
            "offline breaks a rule: every share of split must be > 0, got [1.0, 2.0, 0.0, 1.0] (config.yaml:1)",
        ),
        (
            "world:\n  policy:\n    random: 0\n",
            "world.policy breaks a rule: random must be > 0, got 0.0: nothing else can be measured without bias "
            "(config.yaml:2)",
        ),
        (
            "world:\n  policy: {n_candidates: 5}\n",
            "world.policy breaks a rule: n_candidates must be >= slate_size, got 5 < 10 (config.yaml:2)",
        ),
        (
            "retrieval:\n  sources:\n    budget: 10\n",
            "retrieval.sources breaks a rule: two_tower + followed + trending + fresh + covisited must be <= budget, "
            "got 500 > 10 (config.yaml:2)",
        ),
        ("world:\n  start: monday\n", "world.start must be a date such as 2026-01-05, got 'monday' (config.yaml:2)"),
        (
            "world:\n  n_users: 30\n  n_posts: 300\n  n_users: 40\n",
            "world.n_users is set twice (config.yaml:2 and config.yaml:4); keep one",
        ),
        ("- 1\n", "configuration file config.yaml must hold a mapping of settings, got list"),
    ],
)
def test_a_wrong_setting_is_refused_with_file_key_rule_and_value(tmp_path, text, message):
    assert refusal(tmp_path, text) == message


def test_all_wrong_settings_are_reported_together(tmp_path):
    message = refusal(tmp_path, "world:\n  n_users: 1\nserving:\n  workers: 0\n")
    assert "world.n_users must be >= 20, got 1 (config.yaml:2)" in message
    assert "serving.workers must be >= 1, got 0 (config.yaml:4)" in message


def test_invalid_yaml_is_refused_with_line_and_column(tmp_path):
    message = refusal(tmp_path, "world:\n  n_users: [1\n")
    assert message.startswith("configuration file config.yaml is not valid YAML: ")
    assert "in config.yaml, line 2, column 12" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_refused_with_a_remedy(tmp_path, content):
    path = tmp_path / "absent.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"configuration file {path} cannot be read") + ".*--config"):
        load(path)


def test_a_yaml_file_cannot_run_code(tmp_path):
    assert "not valid YAML" in refusal(tmp_path, "data_dir: !!python/object/apply:os.getcwd []\n")


def test_an_empty_file_means_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load(tmp_path / "empty.yaml") == Config()


def test_overrides_are_read_as_yaml_and_win_over_the_file(tmp_path):
    (tmp_path / "config.yaml").write_text("world:\n  n_users: 30\n")
    overrides = [
        "world.n_users=50", "data_dir=some/a=b", "offline.split=[1, 1, 1, 1]", "online.url=null",
        "retrieval.towers.epochs=3", "world.start=2026-03-01",
    ]  # fmt: skip
    config = load(tmp_path / "config.yaml", overrides)
    assert config.world.n_users == 50
    assert config.data_dir == Path("some/a=b")
    assert config.offline.split == (1, 1, 1, 1)
    assert config.online.url is None
    assert config.retrieval.towers.epochs == 3
    assert config.world.start == "2026-03-01"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("world.n_users=-1", "world.n_users must be >= 20, got -1 (--set world.n_users=-1)"),
        ("world.nope=1", "world.nope is not a known setting (--set world.nope=1); `recsys show-config` lists them all"),
        ("nope.deep=1", "nope is not a known setting (--set nope.deep=1); `recsys show-config` lists them all"),
        ("world.n_users.deep=1", "world.n_users is a value, not a section (--set world.n_users.deep=1)"),
        ("world.n_users", "--set takes key.path=value, got 'world.n_users'"),
        ("=3", "--set takes key.path=value, got '=3'"),
        ("world..n_users=3", "--set takes key.path=value, got 'world..n_users=3'"),
    ],
)
def test_a_wrong_override_is_refused_by_name(tmp_path, override, message):
    assert refusal(tmp_path, "world:\n  n_users: 30\n", [override]) == message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_file_loads_and_has_its_own_data_folder(path):
    assert load(path).data_dir == Path("data") / path.stem


def test_the_default_file_is_the_demo():
    assert [path.name for path in CONFIGS] == ["demo.yaml", "million.yaml", "sample.yaml", "tiny.yaml"]
    assert load() == load(DEFAULT_PATH)


def test_every_setting_has_a_docstring():
    sources = [path.read_text() for path in Path(module.__file__).parent.glob("*.py")]
    sections = [node for source in sources for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert len(sections) > 15
    for section in sections:
        for place, field in enumerate(section.body):
            if isinstance(field, ast.AnnAssign):
                after = section.body[place + 1] if place + 1 < len(section.body) else None
                name = f"{section.name}.{ast.unparse(field.target)}"
                section_of_its_own = ast.unparse(field.annotation).endswith("Config")
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert explained or section_of_its_own, f"{name} needs a docstring"


def test_a_loaded_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().world.n_users = 3


def test_folders_follow_the_data_folder_unless_set():
    config = Config(data_dir=Path("here"))
    assert (config.lake_url, config.releases_path, config.world_path) == (
        "here/lake", Path("here/releases"), Path("here/world"),
    )  # fmt: skip
    config = load(None, ["offline.url=s3://bucket/lake", "releases_dir=/releases"])
    assert (config.lake_url, config.releases_path) == ("s3://bucket/lake", Path("/releases"))


def test_a_config_round_trips_through_json():
    config = load(None, ["world.start=2026-03-01", "serving.api_key=secret"])
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("old", "new"), [("tuned", "auto"), ("lists", "fast_lists, with tuned: false")])
def test_an_old_kind_of_index_is_refused_with_its_new_name(old, new):
    with pytest.raises(ConfigError, match=f"{old} is now called {new}, got '{old}'"):
        load(None, [f"retrieval.index.kind={old}"])
