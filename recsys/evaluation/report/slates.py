"""The slate report: true expected clicks per slate, for random, popularity, the full pipeline and the oracle.

Slates are made at the end of the logs for users of the test share. All four choose from the posts that are visible, not
blocked and not returned before. The oracle chooses greedily by true marginal clicks, without soft rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.evaluation.metrics.clicks import bootstrap_over_users
from recsys.evaluation.report.material import Material
from recsys.features.point_in_time import snapshot
from recsys.offline.logs.events import CLICK
from recsys.online.store import SnapshotStore
from recsys.pipeline import Recommender
from recsys.progress import Report
from recsys.types import DAY, Doubles, FeedRequest, Mask, Rows
from recsys.world.world import World

ROWS = ("random", "popularity", "full", "oracle")


def slate_report(material: Material, report: Report) -> dict[str, Any]:
    """`true_clicks` by row with intervals over users, and `share_of_oracle`; None without a world."""
    if material.world is None:
        empty: dict[str, Any] = {name: {"true_clicks": None, "true_clicks_ci": None} for name in ROWS}
        return {**empty, "share_of_oracle": None, "share_of_oracle_ci": None, "requests": 0}
    settings = material.config.evaluation
    rng = np.random.default_rng([settings.seed, 4])
    active = np.unique(material.test().user_row)
    users = np.sort(rng.permutation(active)[: settings.n_requests])
    clicks = _clicks(material, material.world, users, rng, report)

    def figures(rows: np.ndarray) -> dict[str, float | None]:
        mean: dict[str, float | None] = {name: float(values[rows].mean()) for name, values in clicks.items()}
        low, full, high = (float(clicks[name][rows].mean()) for name in ("random", "full", "oracle"))
        mean["share_of_oracle"] = (full - low) / (high - low) if high > low else None
        return mean

    values = figures(np.arange(len(users)))
    intervals = bootstrap_over_users(figures, users, settings.n_bootstrap, rng)
    rows = {name: {"true_clicks": values[name], "true_clicks_ci": intervals[name]} for name in ROWS}
    return {
        **rows,
        "share_of_oracle": values["share_of_oracle"],
        "share_of_oracle_ci": intervals["share_of_oracle"],
        "requests": len(users),
    }


def _clicks(
    material: Material, world: World, users: Rows, rng: np.random.Generator, report: Report
) -> dict[str, Doubles]:
    """True expected clicks of each row's slate for each of n users: row name to (n,)."""
    catalogue, k, now = material.catalogue, material.config.evaluation.slate_size, material.logs_end
    # 1. The pipeline over the final state of the logs.
    returned = _returned(material)
    state = snapshot(catalogue, material.logs.events, material.config.ranking.n_threads)
    store = SnapshotStore(catalogue, state, material.config.online, returned)
    recommender = Recommender(material.config, store, material.parts)
    # 2. What any slate may contain, and the posts by popularity, (N,) each.
    popular = _by_popularity(material)
    exists = catalogue.visible & (catalogue.created_at <= now)
    of_world = catalogue.post_rows(world.population.posts.id)
    exists &= world.post_rows(catalogue.post_id) >= 0  # made-up posts of clients have no truth
    # 3. User by user: four slates and their true clicks.
    clicks = {name: np.empty(len(users)) for name in ROWS}
    for i, user_row in enumerate(users.tolist()):
        user_id = int(catalogue.user_id[user_row])
        user = world.user_row(user_id)
        allowed = _allowed(material, exists, user_row, returned.get(user_id, np.empty(0, np.int32)))
        slates = {
            "random": _draw(allowed, k, rng),
            "popularity": popular[allowed[popular]][:k],
            "full": recommender.recommend(FeedRequest(i + 1, user_id, now, k)).candidates.post_row,
        }
        for name, rows in slates.items():
            posts = world.post_rows(catalogue.post_id[rows])
            posts = posts[posts >= 0]
            clicks[name][i] = world.expected_clicks(user, posts, now)
        best = world.best_slate(user, now, _in_world(allowed, of_world), k)
        clicks["oracle"][i] = world.expected_clicks(user, best, now)
        report(i + 1, len(users))
    return clicks


def _draw(allowed: Mask, k: int, rng: np.random.Generator) -> Rows:
    """k distinct allowed posts, drawn uniformly, in random order."""
    if int(allowed.sum()) < 4 * k:
        return rng.permutation(np.flatnonzero(allowed))[:k].astype(np.int32)
    chosen: dict[int, None] = {}
    while len(chosen) < k:
        row = int(rng.integers(len(allowed)))
        if allowed[row]:
            chosen[row] = None
    return np.array(list(chosen), np.int32)


def _in_world(allowed: Mask, of_world: Rows) -> Mask:
    """A mask over the catalogue as a mask over the world's posts; posts that the catalogue lacks are not allowed."""
    mask: Mask = allowed[of_world] & (of_world >= 0)
    return mask


def _allowed(material: Material, exists: Mask, user_row: int, returned: Rows) -> Mask:
    """Which posts pass the hard filters for one user, (N,)."""
    catalogue = material.catalogue
    allowed = exists.copy()
    if len(blocks := catalogue.blocks_of(user_row)):
        allowed &= (catalogue.author >= 0) & ~np.isin(catalogue.author, blocks)
    allowed &= ~np.isin(catalogue.group, catalogue.group[returned])
    return allowed


def _returned(material: Material) -> dict[int, Rows]:
    """Posts returned to each user by the end of the logs, newest first, bounded as in the online store."""
    table = material.lake.read("returned", ["user_id", "post_id", "now"])
    user, post = table["user_id"].to_numpy(), material.catalogue.post_rows(table["post_id"].to_numpy())
    now = table["now"].cast("int64").to_numpy()
    order = np.lexsort((-now, user))
    order = order[(post[order] >= 0) & (now[order] < material.logs_end)]
    users, starts = np.unique(user[order], return_index=True)
    size = material.config.online.returned_size
    return {int(u): rows[:size] for u, rows in zip(users, np.split(post[order], starts[1:]), strict=True)}


def _by_popularity(material: Material) -> Rows:
    """All posts by decayed clicks (half-life a day), most first; posts without clicks follow, newest first."""
    events = material.logs.events
    click = (events.action == CLICK) & (events.post_row >= 0)
    weight = np.exp2((events.time[click] - material.logs_end) / DAY)
    score = np.bincount(events.post_row[click], weight, material.catalogue.n_posts)
    return np.lexsort((-material.catalogue.created_at, -score)).astype(np.int32)
