"""Statistics of a simulated world with standard errors: at least one for every difficulty that can be switched off."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from recsys.types import DAY, HOUR, SECOND

from .conftest import Simulated, exposures


class Figure(NamedTuple):
    """A statistic and its standard error."""

    value: float
    error: float


@lru_cache(maxsize=2)
def truth_of(world: Simulated) -> pd.DataFrame:
    """Impressions without bots, with rows of the population and the logit of their true relevance."""
    rows = exposures(world)
    rows = rows[~rows.bot].reset_index(drop=True)
    population = world.world().population
    rows["user"] = rows.user_id.to_numpy() - population.users.id[0]
    rows["post"] = rows.post_id.to_numpy() - population.posts.id[0]
    for name in ("author", "topic", "media", "label"):
        rows[name] = getattr(population.posts, name)[rows.post]
    rows["logit"] = np.log(rows.relevance / (1 - rows.relevance))
    rows["hour"] = rows.now % DAY / HOUR
    return rows


def share(mask) -> Figure:
    p, n = float(np.mean(mask)), len(mask)
    return Figure(p, np.sqrt(p * (1 - p) / n))


def slope(y, x, cluster) -> Figure:
    """Slope of a regression of y on x with cluster-robust standard error (Liang, Zeger, Biometrika 1986)."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    x = x - x.mean()
    value = (x @ (y - y.mean())) / (x @ x)
    score = x * (y - y.mean() - value * x)
    of_cluster = np.bincount(np.unique(cluster, return_inverse=True)[1], score)
    return Figure(value, float(np.sqrt((of_cluster**2).sum()) / (x @ x)))


def concentration(counts) -> Figure:
    """Share of the sum in the top tenth of the counts."""
    counts = np.sort(np.asarray(counts))[::-1]
    p = counts[: len(counts) // 10].sum() / counts.sum()
    return Figure(float(p), float(np.sqrt(p * (1 - p) / counts.sum())))


# Users and times.


def sessions_of_the_busiest_tenth(world):
    sessions = world.table("requests").drop_duplicates("session_id").user_id
    return concentration(sessions.value_counts().reindex(world.table("users").user_id, fill_value=0))


def impressions_of_the_most_seen_tenth_of_authors(world):
    rows = truth_of(world)
    return concentration(np.bincount(rows.author, minlength=world.config.n_authors))


def clicks_of_the_most_clicked_tenth_of_authors(world):
    rows = truth_of(world)
    return concentration(np.bincount(rows.author, rows.click, minlength=world.config.n_authors))


def impressions_of_the_most_seen_tenth_of_posts(world):
    rows = truth_of(world)
    return concentration(np.bincount(rows.post, minlength=world.config.n_posts))


def candidates_clicked_in_the_day_before(world):
    """Share of recorded candidates that somebody had clicked in the 24 hours before."""
    requests = world.table("requests")[["now", "candidates"]].explode("candidates")
    clicks = world.table("actions").query("type == 'click'")
    key = np.sort(clicks.post_id.to_numpy() * (1 << 10) + (clicks.event_time.to_numpy() // HOUR) % (1 << 10))
    at = requests.candidates.to_numpy(np.int64) * (1 << 10) + (requests.now.to_numpy() // HOUR) % (1 << 10)
    return share(np.searchsorted(key, at) > np.searchsorted(key, at - 24))


def sessions_from_five_to_midnight(world):
    now = world.table("requests").drop_duplicates("session_id").now
    return share(now % DAY >= 17 * HOUR)


def sessions_and_posts_of_the_weekend(world):
    start = world.world().population.start
    times = [world.table("requests").drop_duplicates("session_id").now, world.table("posts").created_at]
    times = np.concatenate(times)
    return share((times[times >= start] - start) // DAY % 7 >= 5)


def users_who_join(world):
    return share(world.table("users").created_at >= world.world().population.start)


def posts_born_in_the_period(world):
    return share(world.table("posts").created_at >= world.world().population.start)


def languages(world):
    return Figure(len({*world.table("users").language, *world.table("posts").language}), 0.0)


def bots(world):
    return share(world.table("truth/users").bot)


# Attributes of posts and users.


def posts_without_topic(world):
    return share(world.table("posts").topic.isna())


def users_without_country(world):
    return share(world.table("users").country.isna())


def posts_in_the_group_of_another(world):
    posts = world.table("posts")
    return share(posts.duplicate_group != posts.post_id)


def undeclared_copies(world):
    known, truth = world.table("posts"), world.table("truth/posts")
    return share((known.duplicate_group == known.post_id) & (truth.duplicate_group != truth.post_id))


def invisible_posts(world):
    return share(~world.table("posts").visible)


def posts_labelled_spam(world):
    return share(world.table("posts").labels.map(lambda labels: "spam" in labels))


def posts_labelled_violation(world):
    return share(world.table("posts").labels.map(lambda labels: "violation" in labels))


# Causes of clicks.


def change_of_the_slope_on_the_first_days_taste(world):
    """Slope of logit on the user's taste for the topic on the first day: the last two days' less the first two's."""
    rows = truth_of(world)
    day = (rows.now - rows.now.min()) // DAY
    taste = world.world().population.users.taste_start[rows.user, rows.topic]
    first, last = (slope(rows.logit[part], taste[part], rows.user[part]) for part in (day < 2, day >= 5))
    return Figure(last.value - first.value, np.hypot(first.error, last.error))


def slope_on_interest(world):
    rows = truth_of(world)
    interest = np.log(world.world().population.users.interests * 24 + 0.15)
    return slope(rows.logit, (interest - interest.mean(axis=0))[rows.user, rows.topic], rows.user)


def slope_on_style(world):
    rows, users = truth_of(world), world.world().population.users
    return slope(rows.logit, (users.style[rows.user] * users.author_style[rows.author]).sum(axis=1), rows.user)


def followed_less_other_authors(world):
    rows, follows = truth_of(world), world.world().population.follows
    user = np.repeat(np.arange(len(follows.start) - 1), np.diff(follows.start))
    n_authors = world.config.n_authors
    return slope(
        rows.logit, np.isin(rows.user * n_authors + rows.author, user * n_authors + follows.authors), rows.user
    )


def unread_less_read_languages(world):
    rows, population = truth_of(world), world.world().population
    return slope(rows.logit, ~population.users.reads[rows.user, population.posts.language[rows.post]], rows.user)


def posts_older_than_a_day_less_younger(world):
    rows = truth_of(world)
    age = rows.now - world.world().population.posts.created_at[rows.post]
    return slope(rows.logit, age > DAY, rows.user)


def slope_on_earlier_posts_of_the_topic(world):
    """Change of logit per earlier post of the session on the topic, beyond the first; within session and topic."""
    rows = truth_of(world)
    earlier = np.maximum(rows.n_same_topic - 1, 0)
    group = [rows.session_id, rows.topic]
    logit, earlier = (each - each.groupby(group).transform("mean") for each in (rows.logit, earlier))
    return slope(logit, earlier, rows.session_id)


def likeness_of_an_authors_posts(world):
    """Covariance of the qualities of neighbouring posts by one author."""
    posts = world.table("posts").merge(world.table("truth/posts"), on="post_id").sort_values(["author_id", "post_id"])
    quality = posts.quality - posts.quality.mean()
    same = (posts.author_id == posts.author_id.shift()).to_numpy()
    product = (quality * quality.shift())[same]
    return Figure(product.mean(), product.std() / np.sqrt(len(product)))


def spread_of_quality_within_an_author(world):
    posts = world.table("posts").merge(world.table("truth/posts"), on="post_id")
    rest = posts.quality - posts.groupby("author_id").quality.transform("mean")
    return Figure(rest.std(), max(rest.std() / np.sqrt(2 * len(rest)), 1e-6))


def love_for_topics_of_followed_authors(world):
    population = world.world().population
    taste = population.users.taste_start - population.users.taste_start.mean(axis=0)
    user = np.repeat(np.arange(population.n_users), np.diff(population.follows.start))
    loved = taste[user, population.users.author_topic[population.follows.authors]]
    return Figure(float(loved.mean()), float(loved.std() / np.sqrt(len(loved))))


def slope_on_a_topics_hour(world):
    rows = truth_of(world)
    near = np.cos((rows.hour - world.world().population.topic_peak[rows.topic]) / 24 * 2 * np.pi)
    logit, near = (each - each.groupby(rows.topic).transform("mean") for each in (rows.logit, near))
    return slope(logit, near, rows.user)


def video_in_the_evening_and_text_in_the_morning(world):
    """Logit of videos less texts: between six and midnight less between five and ten."""
    rows = truth_of(world)
    rows = rows[rows.media % 2 == 0]
    parts = [rows[rows.hour >= 18], rows[rows.hour.between(5, 10)]]
    evening, morning = (slope(part.logit, part.media == 2, part.user) for part in parts)
    return Figure(evening.value - morning.value, np.hypot(evening.error, morning.error))


def clicks_down_the_slate(world):
    """Log of the click rate from the sixth position on over that of the first two."""
    rows = truth_of(world)
    top, bottom = rows.click[rows.position < 2], rows.click[rows.position >= 5]
    return Figure(np.log(bottom.mean() / top.mean()), np.sqrt(1 / bottom.sum() + 1 / top.sum()))


# Other actions.


def _spread_beyond_relevance(y, rows):
    """Standard deviation of the residuals of a regression of y on relevance."""
    x = rows.relevance - rows.relevance.mean()
    rest = y - y.mean() - slope(y, x, rows.user).value * x
    return Figure(rest.std(), max(rest.std() / np.sqrt(rows.user.nunique()), 1e-3))


def spread_of_likes_beyond_relevance(world):
    rows = truth_of(world)
    p = rows.like_probability / rows.click_probability
    return _spread_beyond_relevance(np.log(p / (1 - p)), rows)


def spread_of_shares_beyond_relevance(world):
    rows = truth_of(world)
    p = rows.share_probability / rows.click_probability
    return _spread_beyond_relevance(np.log(p / (1 - p)), rows)


def spread_of_dwell_beyond_relevance(world):
    rows = truth_of(world)
    return _spread_beyond_relevance(np.log(rows.dwell_s), rows)


def hides_of_labelled_over_other_posts(world):
    rows = truth_of(world)
    hide = np.log(rows.hide_probability / (rows.examination * (1 - rows.relevance)))
    return slope(hide, rows.label > 0, rows.user)


def dwell_on_labelled_over_other_posts(world):
    rows = truth_of(world)
    return slope(np.log(rows.dwell_s), rows.label > 0, rows.user)


def relevance_of_labelled_less_other_posts(world):
    rows = truth_of(world)
    return slope(rows.logit, rows.label > 0, rows.user)


# Delivery.


def clicks_after_a_minute(world):
    actions = world.table("actions").drop_duplicates("event_id")
    clicks = actions[actions.type == "click"].merge(
        world.table("impressions").drop_duplicates("event_id"), on=["request_id", "post_id"], suffixes=("", "_shown")
    )
    return share(clicks.event_time - clicks.event_time_shown > 60 * SECOND)


def impressions_that_arrive_after_a_minute(world):
    rows = world.table("impressions").sort_values("ingest_time", kind="stable").drop_duplicates("event_id")
    return share(rows.ingest_time - rows.event_time > 60 * SECOND)


def impressions_that_arrive_again(world):
    ids = world.table("impressions").event_id
    return share(np.unique(ids, return_counts=True)[1] > 1)
