"""Heavy tails: power laws, shares of the top, log-normal rates behind counts; and those of a world.

The fits take counts and do not know what was counted. `tail_statistics` takes `Evidence` and gives beside a statistic
what it is on average when clicks and sessions are drawn again from their true rates. For sessions that is the truth,
and the band of their shares is as wide as the draws scatter: users are given. For clicks it is not quite: they bring a
post further impressions, so real clicks are a little more unequal than those drawn again for the same impressions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.types import Doubles
from recsys.world.report.evidence import Evidence
from recsys.world.report.statistics import Figure, quantile
from recsys.world.world import World

_MIN_TAIL = 50
"""Counts that a power law must be fitted to at least."""
_MAX_STARTS = 100
"""Beginnings of the tail that are tried."""
_DRAWS = 20
"""Times that clicks are drawn again from the truth, for a mean."""
_DRAWS_OF_BAND = 200
"""Times that sessions are: the scatter of the draws is off by a twentieth, give or take."""
_TOP = (0.01, 0.1)
"""Parts of the users or posts whose share is told."""
_NEAR_ZERO = 4.0
"""Standard errors from 0 within which a sigma is not normal around the truth: it cannot be negative."""


class PowerTail(NamedTuple):
    """P(X >= x) goes as x ** -(exponent - 1) from `start` on."""

    exponent: float
    standard_error: float
    start: float
    n: int
    """Counts in the tail."""


class LogNormalRate(NamedTuple):
    """Counts are Poisson with rates whose logarithm is normal."""

    mean: float
    sigma: float
    standard_error: float
    """Of sigma."""


def hill(counts: Doubles, start: float) -> PowerTail | None:
    """Maximum likelihood of the exponent above a given start; None without a count above it.

    Source: Clauset, Shalizi, Newman, "Power-law distributions in empirical data", SIAM Review 2009, equations 3.6
        and 3.7; the half below the start makes it hold for whole numbers.
    """
    tail = counts[counts >= start]
    logs = float(np.log(tail / (start - 0.5)).sum())
    if logs <= 0:
        return None
    exponent = 1.0 + len(tail) / logs
    return PowerTail(exponent, (exponent - 1.0) / len(tail) ** 0.5, float(start), len(tail))


def power_tail(counts: Doubles) -> PowerTail | None:
    """The fit whose start makes the tail most like a power law (Kolmogorov-Smirnov); None with too few counts.

    Source: Clauset, Shalizi, Newman 2009, section 3.3.
    """
    ascending = np.sort(counts[counts > 0])
    if len(ascending) < _MIN_TAIL:
        return None
    starts = np.unique(ascending[: len(ascending) - _MIN_TAIL + 1])
    starts = starts[np.unique(np.linspace(0, len(starts) - 1, _MAX_STARTS).astype(int))]
    best, least = None, np.inf
    for start in starts.tolist():
        fit = hill(ascending, start)
        if fit is None:
            continue
        values, first = np.unique(ascending[-fit.n :], return_index=True)
        seen = 1.0 - first / fit.n
        said = ((values - 0.5) / (start - 0.5)) ** (1.0 - fit.exponent)
        if (distance := float(np.abs(seen - said).max())) < least:
            best, least = fit, distance
    return best


def top_share(counts: Doubles, share: float) -> tuple[float, float]:
    """Part of the sum that the largest `share` of the counts holds, and its standard error; NaN without a sum.

    Source: Beach, Davidson, "Distribution-free statistical inference with Lorenz curves and income shares", Review of
        Economic Studies 1983: the counts are a sample of all there could be.
    """
    n, mean = max(round(share * len(counts)), 1), float(counts.mean())
    if not mean:
        return float("nan"), float("nan")
    top = np.partition(counts, -n)[-n:]
    held, least = float(top.sum()) / (mean * len(counts)), float(top.min())
    influence = (np.maximum(counts - least, 0) + least * share - held * counts) / mean
    return held, float(influence.std() / len(counts) ** 0.5)


def log_normal_rate(counts: Doubles, n_steps: int = 300) -> LogNormalRate:
    """Maximum likelihood of log-normal rates by expectation and maximisation, zeros included.

    Raises: ValueError when nothing was counted.
    Source: Bulmer, "On fitting the Poisson lognormal distribution to species-abundance data", Biometrics 1974; the
        standard error is from the observed information.
    """
    value, times = np.unique(counts, return_counts=True)
    if value[-1] <= 0:
        raise ValueError("a rate cannot be fitted to counts of which none is above 0")
    # The nodes must lie closer than the Poisson law of the largest count is wide.
    nodes = np.arange(-9.0, np.log(value[-1]) + 3.0, min(0.5 / value[-1] ** 0.5, 0.05))
    law = value[:, None] * nodes - np.exp(nodes)
    law = np.exp(law - law.max(axis=1, keepdims=True))  # a factor of its own for each count changes nothing below

    def likelihood(mean: float, sigma: float) -> float:
        prior = np.exp(-0.5 * ((nodes - mean) / sigma) ** 2) / sigma
        return float(times @ np.log(law @ prior))

    mean, sigma = float(np.log(np.average(value, weights=times))) - 0.5, 1.0
    for _ in range(n_steps):
        posterior = law * np.exp(-0.5 * ((nodes - mean) / sigma) ** 2)
        weight = (times / posterior.sum(axis=1)) @ posterior
        moved = float(weight @ nodes / weight.sum())
        spread = max(float(weight @ (nodes - moved) ** 2 / weight.sum()) ** 0.5, 0.01)  # above h below
        settled = abs(moved - mean) + abs(spread - sigma) < 1e-7
        mean, sigma = moved, spread
        if settled:
            break
    h = 1e-3
    at = {(i, j): likelihood(mean + i * h, sigma + j * h) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    by_mean = (at[1, 0] - 2 * at[0, 0] + at[-1, 0]) / h**2
    by_sigma = (at[0, 1] - 2 * at[0, 0] + at[0, -1]) / h**2
    both = (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]) / (4 * h**2)
    information = by_mean * by_sigma - both**2
    error = (-by_mean / information) ** 0.5 if information > 0 and by_mean < 0 else float("nan")
    return LogNormalRate(mean, sigma, float(error))


class Tails(NamedTuple):
    """What tells how unequal posts and users are."""

    figure: Figure
    impressions: Doubles
    """Of each post, (N,)."""
    clicks: Doubles
    expected_clicks: Doubles
    sessions: Doubles
    """Of each user who was there from the start and is no bot."""
    power: dict[str, PowerTail | None]
    """Of clicks and of impressions per post."""
    rate: LogNormalRate


def shares_drawn_again(n_sessions: int, activity: Doubles, rng: np.random.Generator) -> Doubles:
    """Shares of the top 1% and 10% of users when all sessions are drawn again by their activity, (draws, 2)."""
    rates = activity / activity.sum()
    draws = (rng.multinomial(n_sessions, rates).astype(np.float64) for _ in range(_DRAWS_OF_BAND))
    return np.array([[top_share(draw, share)[0] for share in _TOP] for draw in draws])


def tail_statistics(world: World, seen: Evidence) -> Tails:
    """How unequally posts are shown and clicked and how unequally users come."""
    users, n_posts = world.population.users, world.population.n_posts
    impressions = np.bincount(seen.post, minlength=n_posts).astype(np.float64)
    clicks = np.bincount(seen.post[seen.did(ACTION_TYPES.index("click"))], minlength=n_posts).astype(np.float64)
    expected: Doubles = np.bincount(seen.post, seen.click, n_posts).astype(np.float64)
    _, first = np.unique(seen.session, return_index=True)
    of_start = (users.created_at < world.population.start) & ~users.bot
    sessions = np.bincount(seen.user[first], minlength=len(users.id))[of_start].astype(np.float64)
    activity = users.activity[of_start]
    power, rate = {"clicks": power_tail(clicks), "impressions": power_tail(impressions)}, log_normal_rate(sessions)
    rng = np.random.default_rng(world.config.seed)
    clicks_again = [rng.poisson(expected).astype(np.float64) for _ in range(_DRAWS)]
    shares_again = shares_drawn_again(int(sessions.sum()), activity, rng)

    nothing = float("nan")
    rows: list[tuple[str, float, float, float, float, int]] = []
    for name, fit in power.items():
        if fit is not None:
            refits = [refit.exponent for draw in clicks_again if (refit := hill(draw, fit.start))]
            mean = float(np.mean(refits)) if name == "clicks" and refits else nothing
            rows.append((f"exponent, {name} per post", fit.exponent, fit.standard_error, nothing, mean, fit.n))
    error = rate.standard_error if rate.sigma > _NEAR_ZERO * rate.standard_error else nothing
    rows.append(("sigma, sessions per user", rate.sigma, error, world.config.activity_tail, nothing, len(sessions)))
    for share, again in zip(_TOP, shares_again.T, strict=True):
        name, mean = f"share of the top {share:.0%}", float(again.mean())
        held = top_share(sessions, share)[0]
        rows.append((f"{name}, sessions", held, float(again.std(ddof=1)), mean, mean, len(sessions)))
        mean = float(np.mean([top_share(draw, share)[0] for draw in clicks_again]))
        rows.append((f"{name}, clicks", *top_share(clicks, share), nothing, mean, n_posts))
        rows.append((f"{name}, impressions", *top_share(impressions, share), nothing, nothing, n_posts))
    estimate, errors, truth, means = (np.array([row[i] for row in rows]) for i in (1, 2, 3, 4))
    half = quantile(int(np.isfinite(truth + errors).sum())) * errors
    figure = Figure(
        "Inequality", "statistic", "see the cells",
        "normal, Šidák: users are given in shares of sessions, users and posts a sample in the rest",
        tuple(row[0] for row in rows), np.arange(len(rows), dtype=np.float64), np.array([row[5] for row in rows]),
        estimate, estimate - half, estimate + half, truth, {"drawn_again": means},
    )  # fmt: skip
    return Tails(figure, impressions, clicks, expected, sessions, power, rate)
