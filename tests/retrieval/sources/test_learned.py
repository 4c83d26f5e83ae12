"""Learned statistics survive saving and loading; damaged files are refused; later events are not used."""

import numpy as np
import pytest

from recsys.errors import ReleaseError
from recsys.evaluation.report.material import gather
from recsys.offline.logs.events import CLICK
from recsys.retrieval.sources.learned import LearnedSources

from ..tastes import clicks_of, learned_sources, two_tastes


@pytest.fixture(scope="module")
def learned():
    cat = two_tastes()
    return learned_sources(cat, clicks_of(cat))


def test_saved_statistics_load_unchanged(learned, tmp_path):
    learned.save(tmp_path)
    again = LearnedSources.load(tmp_path)
    for name in ("start", "post", "similarity"):
        np.testing.assert_array_equal(getattr(again.neighbours, name), getattr(learned.neighbours, name))
    np.testing.assert_array_equal(again.author_shown, learned.author_shown)


def changed(name, change):
    def damage(folder):
        np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))

    return damage


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda folder: (folder / "post.npy").unlink(), "cannot be read"),
        (lambda folder: (folder / "post.npy").write_bytes((folder / "post.npy").read_bytes()[:-9]), "cannot be read"),
        (changed("post", lambda post: post + 10**6), "must lie within their 400 posts"),
        (changed("post", lambda post: post - 10**6), "must lie within their 400 posts"),
        (changed("start", lambda start: start[::-1].copy()), "must lie within"),
        (changed("similarity", lambda similarity: similarity[:-1]), "must lie within"),
        (changed("author_shown", lambda shown: shown.astype(np.int32)), "must lie within"),
    ],
)
def test_damaged_files_are_refused(learned, tmp_path, damage, rule):
    learned.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ReleaseError, match=rule):
        LearnedSources.load(tmp_path)


def test_only_events_before_the_cutoff_count(tiny_world):
    material = gather(tiny_world)
    logs, catalogue = material.logs, material.catalogue
    until = material.split.bounds("test")[0]
    learned = LearnedSources.learn(catalogue, logs, until, material.config.retrieval)
    clicked = logs.events.post_row[(logs.events.action == CLICK) & (logs.events.ingest_time < until)]
    has_neighbours = np.flatnonzero(np.diff(learned.neighbours.start))
    assert len(has_neighbours) > 0
    assert set(has_neighbours.tolist()) <= set(clicked.tolist())
    assert 0 < learned.author_shown.sum() <= (logs.exposures.now < until).sum()
    np.testing.assert_array_equal(learned.neighbours.post, material.learned_sources.neighbours.post)
    nothing = LearnedSources.learn(catalogue, logs, 0, material.config.retrieval)
    assert len(nothing.neighbours.post) == nothing.author_shown.sum() == 0
