"""Inequality of posts and users: power-law exponents, top shares, the sigma of log-normal rates.

The fits take counts of anything. `tail_statistics` takes `Evidence` and gives each statistic beside its mean when
clicks and sessions are redrawn from their true rates. For sessions this mean is the truth, and the scatter of the draws
gives the band, since the users are fixed. For clicks it is only a reference: clicks bring a post further impressions,
so real clicks are a little more unequal than clicks redrawn for the same impressions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.types import Doubles
from recsys.world.report.evidence import Evidence
from recsys.world.report.statistics import Figure, quantile
from recsys.world.world import World
from recsys.world.writing.events import CLICK

_MIN_TAIL = 50
"""Fewest counts that a power law is fitted to."""
_MAX_STARTS = 100
"""Most starts of the tail that are tried."""
_DRAWS = 20
"""Times that clicks are redrawn from the truth, for a mean."""
_DRAWS_FOR_BAND = 200
"""Times that sessions are redrawn, for a standard deviation; its own standard error is about 5%."""
_TOP = (0.01, 0.1)
"""Top fractions of users or posts whose share is reported."""
_NEAR_ZERO = 4.0
"""A sigma within this many standard errors of 0 gets no band: it cannot be negative, so it is not normal."""


class PowerTail(NamedTuple):
    """P(X >= x) is proportional to x ** -(exponent - 1) for x >= start."""

    exponent: float
    standard_error: float
    start: float
    n: int
    """Counts in the tail."""


class LogNormalRate(NamedTuple):
    """Poisson counts whose log rate is normal with this mean and sigma."""

    mean: float
    sigma: float
    standard_error: float
    """Of sigma."""


def hill(counts: Doubles, start: float) -> PowerTail | None:
    """Maximum-likelihood exponent of the counts from a given start on; None without a count above it.

    Source: Clauset, Shalizi, Newman, "Power-law distributions in empirical data", SIAM Review 2009, equations 3.6
        and 3.7; start - 1/2 instead of start corrects for whole numbers.
    """
    tail = counts[counts >= start]
    logs = float(np.log(tail / (start - 0.5)).sum())
    if logs <= 0:
        return None
    exponent = 1.0 + len(tail) / logs
    return PowerTail(exponent, (exponent - 1.0) / len(tail) ** 0.5, float(start), len(tail))


def power_tail(counts: Doubles) -> PowerTail | None:
    """The fit at the start with the smallest Kolmogorov-Smirnov distance; None with too few counts.

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
        empirical = 1.0 - first / fit.n
        fitted = ((values - 0.5) / (start - 0.5)) ** (1.0 - fit.exponent)
        if (distance := float(np.abs(empirical - fitted).max())) < least:
            best, least = fit, distance
    return best


def top_share(counts: Doubles, share: float) -> tuple[float, float]:
    """Share of the sum in the largest `share` of the counts, and its standard error; NaN when the sum is 0.

    Source: Beach, Davidson, "Distribution-free statistical inference with Lorenz curves and income shares", Review of
        Economic Studies 1983; the counts are taken as a sample from a larger population.
    """
    n, mean = max(round(share * len(counts)), 1), float(counts.mean())
    if not mean:
        return float("nan"), float("nan")
    top = np.partition(counts, -n)[-n:]
    top_part, least = float(top.sum()) / (mean * len(counts)), float(top.min())
    influence = (np.maximum(counts - least, 0) + least * share - top_part * counts) / mean
    return top_part, float(influence.std() / len(counts) ** 0.5)


def log_normal_rate(counts: Doubles, n_steps: int = 300) -> LogNormalRate:
    """Fit log-normal rates to counts, zeros included, by expectation maximisation over a grid of log rates.

    Raises: ValueError when no count is above 0.
    Source: Bulmer, "On fitting the Poisson lognormal distribution to species-abundance data", Biometrics 1974; the
        standard error comes from the observed information.
    """
    value, times = np.unique(counts, return_counts=True)
    if value[-1] <= 0:
        raise ValueError("log-normal rates need a count above 0, but none is above 0")
    # Poisson likelihood of V distinct counts at G grid nodes. The grid must be finer than the narrowest likelihood,
    # that of the largest count.
    nodes = np.arange(-9.0, np.log(value[-1]) + 3.0, min(0.5 / value[-1] ** 0.5, 0.05))
    log_poisson = value[:, None] * nodes - np.exp(nodes)  # (V, G), up to a constant per count, which cancels below
    poisson = np.exp(log_poisson - log_poisson.max(axis=1, keepdims=True))

    def log_likelihood(mean: float, sigma: float) -> float:
        """Log likelihood of all counts, up to a constant."""
        prior = np.exp(-0.5 * ((nodes - mean) / sigma) ** 2) / sigma
        return float(times @ np.log(poisson @ prior))

    mean, sigma = float(np.log(np.average(value, weights=times))) - 0.5, 1.0
    for _ in range(n_steps):
        # E: posterior of the log rate for each count. M: mean and deviation of its mixture over all counts, (G,).
        posterior = poisson * np.exp(-0.5 * ((nodes - mean) / sigma) ** 2)
        weight = (times / posterior.sum(axis=1)) @ posterior
        moved = float(weight @ nodes / weight.sum())
        spread = max(float(weight @ (nodes - moved) ** 2 / weight.sum()) ** 0.5, 0.01)  # stays above h below
        settled = abs(moved - mean) + abs(spread - sigma) < 1e-7
        mean, sigma = moved, spread
        if settled:
            break
    # Second derivatives of the log likelihood by central differences.
    h = 1e-3
    at = {(i, j): log_likelihood(mean + i * h, sigma + j * h) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    by_mean = (at[1, 0] - 2 * at[0, 0] + at[-1, 0]) / h**2
    by_sigma = (at[0, 1] - 2 * at[0, 0] + at[0, -1]) / h**2
    both = (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]) / (4 * h**2)
    information = by_mean * by_sigma - both**2
    error = (-by_mean / information) ** 0.5 if information > 0 and by_mean < 0 else float("nan")
    return LogNormalRate(mean, sigma, float(error))


class Tails(NamedTuple):
    """The inequality figure and the counts behind it."""

    figure: Figure
    impressions: Doubles
    """Of each post, (N,); `clicks` and `expected_clicks` likewise."""
    clicks: Doubles
    expected_clicks: Doubles
    sessions: Doubles
    """Of each user who joined before the logs and is not a bot."""
    power: dict[str, PowerTail | None]
    """Fits to clicks and to impressions per post."""
    rate: LogNormalRate


def redrawn_session_shares(n_sessions: int, activity: Doubles, rng: np.random.Generator) -> Doubles:
    """Shares of the top 1% and 10% of users when all sessions are redrawn by the users' activity, (draws, 2)."""
    rates = activity / activity.sum()
    draws = (rng.multinomial(n_sessions, rates).astype(np.float64) for _ in range(_DRAWS_FOR_BAND))
    return np.array([[top_share(draw, share)[0] for share in _TOP] for draw in draws])


def tail_statistics(world: World, evidence: Evidence) -> Tails:
    """Inequality of impressions and clicks over posts, and of sessions over users."""
    # 1. Counts per post (N,) and per user (of those from before the logs, no bots).
    users, n_posts = world.population.users, world.population.n_posts
    impressions = np.bincount(evidence.post, minlength=n_posts).astype(np.float64)
    clicked = evidence.post[evidence.has_action(CLICK)]
    clicks = np.bincount(clicked, minlength=n_posts).astype(np.float64)
    expected: Doubles = np.bincount(evidence.post, evidence.click, n_posts).astype(np.float64)
    _, first = np.unique(evidence.session, return_index=True)
    counted = (users.created_at < world.population.start) & ~users.bot
    sessions = np.bincount(evidence.user[first], minlength=len(users.id))[counted].astype(np.float64)
    activity = users.activity[counted]
    # 2. Fits, and the same statistics on redrawn clicks and sessions.
    power, rate = {"clicks": power_tail(clicks), "impressions": power_tail(impressions)}, log_normal_rate(sessions)
    rng = np.random.default_rng(world.config.seed)
    redrawn_clicks = [rng.poisson(expected).astype(np.float64) for _ in range(_DRAWS)]
    redrawn_shares = redrawn_session_shares(int(sessions.sum()), activity, rng)

    # 3. One row per statistic: name, estimate, standard error, truth, mean when redrawn, counts.
    nan = float("nan")
    rows: list[tuple[str, float, float, float, float, int]] = []
    for name, fit in power.items():
        if fit is not None:
            refits = [refit.exponent for draw in redrawn_clicks if (refit := hill(draw, fit.start))]
            mean = float(np.mean(refits)) if name == "clicks" and refits else nan
            rows.append((f"exponent, {name} per post", fit.exponent, fit.standard_error, nan, mean, fit.n))
    error = rate.standard_error if rate.sigma > _NEAR_ZERO * rate.standard_error else nan
    rows.append(("sigma, sessions per user", rate.sigma, error, world.config.activity_tail, nan, len(sessions)))
    for share, redrawn in zip(_TOP, redrawn_shares.T, strict=True):
        name, mean = f"share of the top {share:.0%}", float(redrawn.mean())
        top_part = top_share(sessions, share)[0]
        rows.append((f"{name}, sessions", top_part, float(redrawn.std(ddof=1)), mean, mean, len(sessions)))
        mean = float(np.mean([top_share(draw, share)[0] for draw in redrawn_clicks]))
        rows.append((f"{name}, clicks", *top_share(clicks, share), nan, mean, n_posts))
        rows.append((f"{name}, impressions", *top_share(impressions, share), nan, nan, n_posts))
    estimate, errors, truth, means = (np.array([row[i] for row in rows]) for i in (1, 2, 3, 4))
    half = quantile(int(np.isfinite(truth + errors).sum())) * errors
    figure = Figure(
        "Inequality", "statistic", "see the cells",
        "normal, Šidák: users are given in shares of sessions, users and posts a sample in the rest",
        tuple(row[0] for row in rows), np.arange(len(rows), dtype=np.float64), np.array([row[5] for row in rows]),
        estimate, estimate - half, estimate + half, truth, {"drawn_again": means},
    )  # fmt: skip
    return Tails(figure, impressions, clicks, expected, sessions, power, rate)
