"""`recsys index tune` times every configuration on a release's own vectors, and changes nothing of the release."""

import json

from recsys import release
from recsys.bench.retrieval.index_tuning import tune_release
from recsys.progress import Progress
from recsys.retrieval.index.index import PostIndex


def with_index(config, **changes):
    index = config.retrieval.index.model_copy(update=changes)
    return config.model_copy(update={"retrieval": config.retrieval.model_copy(update={"index": index})})


def test_every_configuration_is_timed_and_the_fastest_that_finds_enough_is_named(tiny_world):
    loaded = release.load(tiny_world.releases_path)
    figures = tune_release(with_index(tiny_world, exact_below=0, n_tuning_queries=50), Progress())
    trials = figures["trials"]
    assert len(trials) > 10
    assert all(trial["p50_ms"] > 0 and trial["p99_ms"] >= trial["p50_ms"] for trial in trials)
    good = [trial for trial in trials if trial["recall_lower_bound"] >= figures["target_recall"]]
    fastest = min(trial["p50_ms"] for trial in good)
    assert any(trial["name"] == figures["chosen"] and trial["p50_ms"] == fastest for trial in good)
    assert figures["chosen"] in figures["why"]
    assert "measured" in figures["why"]
    # The figures are kept, and the release stays as it was.
    kept = json.loads((tiny_world.data_dir / "index-tuning.json").read_text())
    assert kept | {"path": figures["path"]} == figures
    assert figures["release"] == release.load(tiny_world.releases_path, loaded.version).version == loaded.version
    assert figures["release_has"] == PostIndex.load(loaded.path / "index").name == "exact"
