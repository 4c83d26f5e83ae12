"""The retrieval report: of clicks on random-policy impressions after the cut, how many lie among 500 candidates. Where
the logs name no such policy: of all clicks, which favours what resembles the policy that showed them.

Every row has a budget of `sources.budget` posts, which a source alone may not fill, chosen from all posts that existed
at the request's time, knowing what had arrived by then; matrix factorisation, what had arrived before the test share.
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
"""`oracle`: by the world's truth, which no retrieval knows."""
_POPULARITY_HALF_LIFE = DAY
_NOTHING = np.empty(0, np.int32)
_GROUPS = 10


def retrieval_report(material: Material, progress: Progress) -> dict[str, Any]:
    """`recall@500` by row, and its interval over users; `policy` that showed the posts, None for any.

    `by_popularity` has the same for ten groups of as many clicks each, from the posts with the fewest clicks before the
    request to those with the most, and `younger_than_a_day` for posts of that age.
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
    """How many clicks a group has, and of how many clicks before its posts are."""
    least, most = (int(n_before.min()), int(n_before.max())) if len(n_before) else (None, None)
    return {"clicks": len(n_before), "least_clicks_before": least, "most_clicks_before": most}


def _sampled(material: Material) -> Exposures:
    """All clicks of up to `n_requests` requests, in order of time."""
    clicks = material.random_test_clicks()
    requests = np.unique(clicks.request_id)
    rng = np.random.default_rng([material.config.evaluation.seed, 3])
    chosen = rng.permutation(requests)[: material.config.evaluation.n_requests]
    return clicks.take(np.isin(clicks.request_id, chosen))


def _factors(material: Material, report: Report) -> MatrixFactorisation:
    catalogue, events = material.catalogue, material.logs.events
    told = (events.action == CLICK) & (events.user_row >= 0) & (events.post_row >= 0)
    told &= events.ingest_time < material.split.bounds("test")[0]
    clicks = Clicks(events.user_row[told], events.post_row[told], events.time[told])
    config = material.config.retrieval.id_towers
    return MatrixFactorisation.learn(clicks, catalogue.n_users, catalogue.n_posts, config, report)


def _hits(
    material: Material, clicks: Exposures, factors: MatrixFactorisation, report: Report
) -> tuple[dict[str, Mask], Ids]:
    """Whether each click's post is among each row's candidates, and the clicks it had before, (E,) each."""
    catalogue, sources, world = material.catalogue, material.config.retrieval.sources, material.world
    # Not the release's index: of posts from after the request, which lie nearest to it, an index of that moment would
    # have held none. What that index itself misses the tuner says.
    index = PostIndex.exact(material.post_vectors)
    retriever = Retriever(catalogue, material.towers, index, material.post_vectors, material.learned_sources, sources)
    size = material.config.online.history_size
    users = user_batch(catalogue, material.logs.events, clicks.user_row, clicks.now, clicks.history_seen, size)
    trends = _Trends(material)
    found = {name: np.zeros(len(clicks), bool) for name in ROWS if name != "oracle" or world is not None}
    if world is not None:
        in_catalogue = catalogue.post_rows(world.population.posts.id)
        visible = (in_catalogue >= 0) & catalogue.visible[in_catalogue]
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
            returned=_NOTHING,
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
    """Clicks that fade, as of a moment that only moves forward: what the online store's trending sets held then."""

    def __init__(self, material: Material) -> None:
        events = material.logs.events
        click = (events.action == CLICK) & (events.post_row >= 0)
        self._post, self._time = events.post_row[click], events.time[click]
        self._arrival = events.ingest_time[click]
        # Forward decay; counted from the first moment asked about, powers stay small in logs of years too.
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
        """Clicks on a post that had arrived."""
        return int(self._count[post])

    def of_language(self, language: int) -> Rows:
        """Trending posts of a language, of all languages for -1, best first."""
        score = self._fast if language < 0 else np.where(self._language == language, self._fast, 0.0)
        return _top(score, self._n_trending)

    def popular(self, k: int) -> Rows:
        """The posts with most clicks, half-life a day, whatever their language."""
        return _top(np.where(self._visible, self._slow, 0.0), k)


def _top(score: Doubles, k: int) -> Rows:
    k = min(k, len(score))
    best = np.argpartition(-score, k - 1)[:k]
    best = best[np.argsort(-score[best], kind="stable")]
    return best[score[best] > 0].astype(np.int32)
