"""The retrieval report: recall@500 of test clicks, for each source, all sources together, baselines and the oracle.

Only clicks on impressions of the random policy count: any other policy favours sources that resemble it. If the logs
name no random policy, all clicks count.

Each row brings up to `sources.budget` posts, out of all that existed at the request's time, and knows what had arrived
by then. Matrix factorisation knows what had arrived before the test share.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.evaluation.metrics.clicks import bootstrap_over_users
from recsys.evaluation.report.material import RANDOM_POLICY, Material
from recsys.evaluation.report.matrix_factorisation import MatrixFactorisation
from recsys.features.histories import Clicks
from recsys.offline.logs.events import CLICK
from recsys.offline.logs.exposures import Exposures
from recsys.online.rows import trending
from recsys.progress import Progress, Report
from recsys.ranking.examples import user_batch
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.retriever import Retriever
from recsys.types import DAY, Context, Doubles, FeedRequest, Ids, Mask, Rows, Source

_FACTORS = "matrix_factorisation"
ROWS = ("popularity", _FACTORS, *(source.name.lower() for source in Source if source.name), "all_sources", "oracle")
"""The rows of the report; `oracle` chooses by the world's truth."""
_POPULARITY_HALF_LIFE = DAY
_NO_POSTS = np.empty(0, np.int32)
_GROUPS = 10


def retrieval_report(material: Material, progress: Progress) -> dict[str, Any]:
    """`recall@500` by row, its interval over users, and the `policy` that showed the clicked posts (None: any).

    `by_popularity` has the same recalls for ten groups of equally many clicks, by how many clicks the post had before
    the request; `younger_than_a_day` has them for posts of that age.
    """
    clicks = _sampled(material)
    with progress.stage("matrix factorisation") as report:
        factors = _factors(material, report)
    with progress.stage("evaluate retrieval") as report:
        found, n_before = _hits(material, clicks, factors, report)

    def recalls(rows: np.ndarray) -> dict[str, float | None]:
        known = len(rows) > 0
        return {name: float(found[name][rows].mean()) if known and name in found else None for name in ROWS}

    settings = material.config.evaluation
    rng = np.random.default_rng([settings.seed, 2])
    intervals = bootstrap_over_users(recalls, clicks.user_row, settings.n_bootstrap, rng)
    k = material.config.retrieval.sources.budget
    young = np.flatnonzero(clicks.now - material.catalogue.created_at[clicks.post_row] < DAY)
    return {
        f"recall@{k}": recalls(np.arange(len(clicks))),
        f"recall@{k}_ci": intervals,
        "by_popularity": {
            str(number): {**_range_of(n_before[rows]), **recalls(rows)}
            for number, rows in enumerate(np.array_split(np.argsort(n_before, kind="stable"), _GROUPS), 1)
        },
        "younger_than_a_day": {"clicks": len(young), **recalls(young)},
        "requests": len(np.unique(clicks.request_id)),
        "clicks": len(clicks),
        "policy": RANDOM_POLICY if RANDOM_POLICY in material.logs.policies else None,
    }


def _range_of(n_before: Ids) -> dict[str, int | None]:
    """Size of a group of clicks, and its range of earlier clicks on the post."""
    least, most = (int(n_before.min()), int(n_before.max())) if len(n_before) else (None, None)
    return {"clicks": len(n_before), "least_clicks_before": least, "most_clicks_before": most}


def _sampled(material: Material) -> Exposures:
    """All clicks of `evaluation.n_requests` random requests, or of all if fewer; in order of time."""
    clicks = material.random_test_clicks()
    requests = np.unique(clicks.request_id)
    rng = np.random.default_rng([material.config.evaluation.seed, 3])
    chosen = rng.permutation(requests)[: material.config.evaluation.n_requests]
    return clicks.take(np.isin(clicks.request_id, chosen))


def _factors(material: Material, report: Report) -> MatrixFactorisation:
    """Matrix factorisation of the clicks that had arrived before the test share."""
    catalogue, events = material.catalogue, material.logs.events
    usable = (events.action == CLICK) & (events.user_row >= 0) & (events.post_row >= 0)
    usable &= events.ingest_time < material.split.bounds("test")[0]
    clicks = Clicks(events.user_row[usable], events.post_row[usable], events.time[usable])
    config = material.config.retrieval.id_towers
    return MatrixFactorisation.learn(clicks, catalogue.n_users, catalogue.n_posts, config, report)


def _hits(
    material: Material, clicks: Exposures, factors: MatrixFactorisation, report: Report
) -> tuple[dict[str, Mask], Ids]:
    """Per row, whether each click's post is among the candidates, (E,); and the post's clicks before it, (E,)."""
    catalogue, sources, world = material.catalogue, material.config.retrieval.sources, material.world
    # 1. Search exactly. The release's index has posts from after the request, which are nearest to it and may not be
    # returned; an index of that moment would not have had them. What an index misses, the tuner measures.
    index = PostIndex.exact(material.post_vectors)
    retriever = Retriever(catalogue, material.towers, index, material.post_vectors, material.learned_sources, sources)
    # 2. Users as of their clicks' requests, histories (E, L).
    size = material.config.online.history_size
    users = user_batch(catalogue, material.logs.events, clicks.user_row, clicks.now, clicks.history_seen, size)
    trends = _Trends(material)
    found = {name: np.zeros(len(clicks), bool) for name in ROWS if name != "oracle" or world is not None}
    if world is not None:
        in_catalogue = catalogue.post_rows(world.population.posts.id)
        visible = (in_catalogue >= 0) & catalogue.visible[in_catalogue]
    # 3. Request by request, in order of time: who finds the clicked post?
    n_before = np.zeros(len(clicks), np.int64)
    for i in range(len(clicks)):
        user, now = int(clicks.user_row[i]), int(clicks.now[i])
        trends.advance(now)
        history = users.history[i]
        context = Context(
            request=FeedRequest(int(clicks.request_id[i]), int(catalogue.user_id[user]), now),
            user_row=user,
            language=int(catalogue.user_language[user]),
            country=int(catalogue.user_country[user]),
            follows=catalogue.follows_of(user),
            blocks=catalogue.blocks_of(user),
            history=history[history >= 0],
            returned=_NO_POSTS,
            trending=trends.of_language(int(catalogue.user_language[user])),
        )
        post = clicks.post_row[i]
        n_before[i] = trends.n_clicks(post)
        found["popularity"][i] = post in trends.popular(sources.budget)
        query = retriever.query(context)
        found[_FACTORS][i] = post in factors.best(user, query.allowed, sources.budget)
        brought = [source(query, sources.budget) for source, _ in retriever.sources]
        for (source, _), rows in zip(retriever.sources, brought, strict=True):
            found[str(source.bit.name).lower()][i] = post in rows
        found["all_sources"][i] = post in retriever.merged(brought)[0]
        if world is not None:
            in_world = world.user_row(int(catalogue.user_id[user]))
            best = world.most_relevant(in_world, now, visible, sources.budget)
            found["oracle"][i] = catalogue.post_id[post] in world.population.posts.id[best]
        report(i + 1, len(clicks))
    return found, n_before


class _Trends:
    """Decayed clicks of every post at a moment that only moves forward, as in the online store's trending sets."""

    def __init__(self, material: Material) -> None:
        events = material.logs.events
        click = (events.action == CLICK) & (events.post_row >= 0)
        self._post, self._time = events.post_row[click], events.time[click]
        self._arrival = events.ingest_time[click]
        # Forward decay from the start of the test share, so that powers stay small even in logs of years.
        self._origin = material.split.bounds("test")[0]
        self._language = np.asarray(material.catalogue.language)
        self._visible = np.asarray(material.catalogue.visible)
        self._fast: Doubles = np.zeros(material.catalogue.n_posts)
        self._slow: Doubles = np.zeros(material.catalogue.n_posts)
        self._count: Ids = np.zeros(material.catalogue.n_posts, np.int64)
        self._n_trending = material.config.online.trending_size
        self._seen = 0

    def advance(self, now: int) -> None:
        """Count the clicks that had arrived before `now`."""
        end = int(np.searchsorted(self._arrival, now))
        new = slice(self._seen, end)
        np.add.at(self._count, self._post[new], 1)
        np.add.at(self._fast, self._post[new], trending.weight(self._time[new], self._origin))
        np.add.at(self._slow, self._post[new], np.exp2((self._time[new] - self._origin) / _POPULARITY_HALF_LIFE))
        self._seen = end

    def n_clicks(self, post: int) -> int:
        """Clicks on a post that had arrived, not decayed."""
        return int(self._count[post])

    def of_language(self, language: int) -> Rows:
        """Trending posts of a language (-1: all languages), best first."""
        score = self._fast if language < 0 else np.where(self._language == language, self._fast, 0.0)
        return _top(score, self._n_trending)

    def popular(self, k: int) -> Rows:
        """The k most clicked visible posts of all languages, half-life a day, best first."""
        return _top(np.where(self._visible, self._slow, 0.0), k)


def _top(score: Doubles, k: int) -> Rows:
    """Rows of the k highest positive scores, best first."""
    k = min(k, len(score))
    best = np.argpartition(-score, k - 1)[:k]
    best = best[np.argsort(-score[best], kind="stable")]
    return best[score[best] > 0].astype(np.int32)
