"""The recommender says what it had to leave out, and its feed is full all the same."""

import numpy as np
import pytest

from recsys.evaluation.report.material import gather
from recsys.features.point_in_time import snapshot
from recsys.online.store import SnapshotStore
from recsys.pipeline import Recommender
from recsys.types import FeedRequest, Source


class Broken:
    def __init__(self, bit):
        self.bit = bit

    def __call__(self, query, k):
        raise OSError("gone")


@pytest.fixture
def recommender(tiny_world):
    material = gather(tiny_world)
    store = SnapshotStore(
        material.catalogue, snapshot(material.catalogue, material.logs.events, 1), material.config.online, {}
    )
    return Recommender(material.config, store, material.parts)


def ask(recommender, user=0):
    user_id = int(recommender.catalogue.user_id[user])
    return recommender.recommend(FeedRequest(1, user_id, recommender._logs_end, 20))


def break_sources(recommender, *bits):
    retriever = recommender._retriever
    retriever.sources = tuple((Broken(s.bit) if s.bit in bits else s, places) for s, places in retriever.sources)


def test_nothing_is_left_out_when_all_is_well(recommender):
    assert ask(recommender).degraded == ()


@pytest.mark.parametrize("bit", list(Source))
def test_a_broken_source_is_named_and_the_feed_is_full(recommender, bit):
    break_sources(recommender, bit)
    slate = ask(recommender)
    assert slate.degraded == (f"source:{bit.name.lower()}",)
    assert len(slate.candidates) == 20


def test_with_every_source_broken_the_feed_is_full_ranked_and_filtered(recommender):
    break_sources(recommender, *Source)
    slate = ask(recommender)
    assert len(slate.degraded) == 5
    assert len(slate.candidates) == 20
    assert recommender.catalogue.visible[slate.candidates.post_row].all()
    assert np.isfinite(slate.candidates.score).all()
