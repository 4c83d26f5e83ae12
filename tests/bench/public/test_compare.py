"""Popularity on small data sets whose figures are worked out by hand, and the command around it."""

import json
from math import log2

import numpy as np
import pytest

from recsys.bench.public import models
from recsys.bench.public.compare import bench_public, evaluate
from recsys.bench.public.data import read_dataset
from recsys.bench.public.models import MODELS, popularity
from recsys.cli import main
from recsys.config import IdTowersConfig, RetrievalConfig
from recsys.progress import Progress


@pytest.fixture
def folder(tmp_path):
    """By popularity: a (3), b (2), c (1), d (1), e (0)."""
    (tmp_path / "train.txt").write_text("u a b\nv a b c\nw a d\n")
    (tmp_path / "test.txt").write_text("u c e\nv\nw c\nx a\n")
    return tmp_path


CONFIG = RetrievalConfig(id_towers=IdTowersConfig(epochs=2))


def recommend(dataset, k=20):
    return popularity(dataset, k, CONFIG, no_report).recommend


def lists_of(dataset, users, k=20):
    names = dataset.item_ids.to_pylist()
    found = recommend(dataset, k)(np.array(users, np.int32))
    return ["".join(names[row] for row in items if row >= 0) for items in found]


def no_report(done, total):
    pass


def test_popular_items_come_first_without_what_the_user_had(folder):
    assert lists_of(read_dataset(folder), [0, 1, 2, 3]) == ["cde", "de", "bce", "abcde"]


def test_equally_popular_items_come_in_order_of_their_ids(folder):
    assert lists_of(read_dataset(folder), [3], k=4) == ["abcd"]


def test_figures_are_means_over_the_users_with_test_items(folder):
    figures = evaluate(read_dataset(folder), recommend(read_dataset(folder)), no_report)
    # u finds c first and e third of c d e, w finds c second of b c e, x finds a first.
    ndcg = [(1 + 1 / log2(4)) / (1 + 1 / log2(3)), 1 / log2(3), 1]
    assert figures["recall@20"] == figures["hr@10"] == 1
    assert figures["ndcg@20"] == figures["ndcg@10"] == pytest.approx(np.mean(ndcg))


def test_a_test_item_that_was_seen_cannot_be_found_and_still_counts(tmp_path):
    (tmp_path / "train.txt").write_text("u a b\nv c\n")
    (tmp_path / "test.txt").write_text("u a c\n")
    result = bench_public(tmp_path, CONFIG, ["popularity"], Progress())
    assert result["models"]["popularity"]["recall@20"] == 0.5
    assert result["seen_test_items"] == 1


def test_validation_is_masked_and_not_learned(tmp_path):
    # With validation c would be as frequent as a, ahead of b; training has it nowhere.
    (tmp_path / "sequences.txt").write_text("u a c b\nv a c d\nw b c a\nx d a b\n")
    dataset = read_dataset(tmp_path)
    assert lists_of(dataset, [0, 1, 2, 3]) == ["bd", "bd", "ad", "bc"]


@pytest.mark.parametrize("cells", [1, 1 << 25])
def test_lists_of_any_batch_size_agree_with_a_plain_loop(tmp_path, monkeypatch, cells):
    monkeypatch.setattr(models, "_CELLS", cells)
    rng = np.random.default_rng(5)
    draw = [rng.choice(60, rng.integers(1, 50), replace=False).tolist() for _ in range(40)]
    train = {user: items[:-1] for user, items in enumerate(draw)}
    test = {user: items[-1:] for user, items in enumerate(draw)}
    for name, part in (("train", train), ("test", test)):
        (tmp_path / f"{name}.txt").write_text(
            "".join(f"{user} {' '.join(map(str, items))}\n" for user, items in part.items())
        )
    count = {item: sum(item in items for items in train.values()) for item in {i for items in draw for i in items}}
    order = sorted(count, key=lambda item: (-count[item], str(item)))
    hits = []
    for user, items in train.items():
        best = [item for item in order if item not in items][:20]
        hits.append(test[user][0] in best)
    dataset = read_dataset(tmp_path)
    assert evaluate(dataset, recommend(dataset), no_report)["recall@20"] == pytest.approx(np.mean(hits))


def test_a_model_that_repeats_seen_items_is_refused(folder):
    dataset = read_dataset(folder)
    with pytest.raises(ValueError, match="training or validation"):
        evaluate(dataset, lambda users: np.tile(np.arange(5, dtype=np.int32), (len(users), 1)), no_report)


def test_neither_the_folders_name_nor_its_path_changes_a_figure(folder, tmp_path):
    other = tmp_path / "somewhere" / "amazon-beauty"
    other.mkdir(parents=True)
    for name in ("train.txt", "test.txt"):
        (other / name).write_bytes((folder / name).read_bytes())
    one, two = (bench_public(path, CONFIG, list(MODELS), Progress()) for path in (folder, other))
    assert (one.pop("dataset"), two.pop("dataset")) == (folder.name, "amazon-beauty")
    for result in (one, two):
        for figures in result["models"].values():
            del figures["train_s"], figures["examples_per_s"]
    assert one == two


def test_the_command_prints_one_object_with_each_figure_and_its_interval(folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "public", "--data", str(folder), "--json"])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["dataset"], result["users"], result["items"]) == (folder.name, 4, 5)
    assert list(result["models"]) == list(MODELS)
    for figures in result["models"].values():
        for name in ("recall@20", "ndcg@20", "hr@10", "ndcg@10"):
            low, high = figures[f"{name}_ci"]
            assert low <= figures[name] <= high
        assert figures["train_s"] >= 0
    assert result["models"]["popularity"]["examples_per_s"] is None
    assert result["models"]["two_tower"]["examples_per_s"] > 0


def test_a_model_nobody_knows_is_wrong_usage(folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "public", "--data", str(folder), "--models", "mf,sasrec"])
    assert end.value.code == 2
    assert "sasrec" in capsys.readouterr().err


def test_a_missing_folder_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "public", "--data", str(tmp_path / "none"), "--json"])
    captured = capsys.readouterr()
    assert end.value.code == 1
    assert captured.out == ""
    assert [line for line in captured.err.splitlines() if line.startswith("error:")] == captured.err.splitlines()[-1:]
