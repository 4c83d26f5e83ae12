"""Statistics of the logs with 95% bands beside their true values: click rates, drift, calibration, actions, dwell.

Takes `Evidence`, gives `Figure`s. The bands of a figure are simultaneous (Šidák): the truth lies in all its cells in 95
of 100 worlds. Rates get Wilson's interval with continuity correction, differences a normal interval with the true
variance, mean dwells a Gamma interval. Given its probability, a click is an independent draw, so the variance of a sum
is the sum of p (1 - p) under any policy. Nothing here draws or prints.

Sources: Šidák, "Rectangular confidence regions", JASA 1967; Newcombe, "Two-sided confidence intervals for the single
proportion", Statistics in Medicine 1998, method 4; Wilson, Hilferty, "The distribution of chi-square", PNAS 1931.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.types import DAY, HOUR, Doubles, Floats, Ids, Mask, Rows
from recsys.world.behaviour.policies import POLICIES
from recsys.world.report.evidence import Evidence
from recsys.world.world import World
from recsys.world.writing.events import CLICK, DWELL

WILSON = "Wilson with continuity correction, Šidák"
NORMAL = "normal with the true variance, Šidák"
GAMMA = "Gamma with the true variance, Šidák"
_AGES = (0, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
"""Lower edges of bins, hours."""
_DEPTHS = (0, 1, 3, 6, 10, 20, 40)
"""Lower edges of bins, posts."""
_SAME = tuple(range(8))
"""Lower edges of bins, posts."""
_FAVOURITES = 3
"""Number of favourite topics per user: those with the highest taste on the first day."""


@dataclass(frozen=True)
class Figure:
    """One statistic over C cells, such as positions; NaN where a cell has no truth or no band."""

    title: str
    by: str
    """What the cells stand for."""
    unit: str
    band: str
    """The method of the bands."""
    cells: tuple[str, ...]
    x: Doubles
    """Place of each cell on the axis, (C,), as are all arrays below."""
    n: Ids
    """Rows in each cell."""
    estimate: Doubles
    low: Doubles
    high: Doubles
    truth: Doubles
    curves: dict[str, Doubles] = field(default_factory=dict)
    """Further values by cell, (C,) each."""

    @property
    def covered(self) -> Mask:
        """Whether the truth lies in the band, (C,); true where truth or band is unknown."""
        outside: Mask = (self.truth < self.low) | (self.truth > self.high)
        return ~outside

    def as_dict(self) -> dict[str, Any]:
        """The figure as JSON: NaN becomes null."""
        arrays = {name: getattr(self, name) for name in ("x", "estimate", "low", "high", "truth")} | self.curves
        return {
            "title": self.title, "by": self.by, "unit": self.unit, "band": self.band, "cells": list(self.cells),
            "n": self.n.tolist(), "covered": bool(self.covered.all()),
            **{name: [None if np.isnan(v) else v for v in values.tolist()] for name, values in arrays.items()},
        }  # fmt: skip


def quantile(n_cells: int, level: float = 0.95) -> float:
    """The z for which all of `n_cells` independent standard normal values lie in [-z, z] with P = level (Šidák)."""
    return NormalDist().inv_cdf(0.5 + 0.5 * level ** (1 / max(n_cells, 1)))


def wilson(k: Doubles | Ids, n: Ids, z: float) -> tuple[Doubles, Doubles]:
    """Wilson bounds of a rate with continuity correction, given k of n, in [0, 1]; NaN for n = 0."""
    size = np.maximum(n, 1).astype(np.float64)
    p = k / size
    low_root = np.sqrt(np.maximum(z**2 - 2 - 1 / size + 4 * p * (size * (1 - p) + 1), 0))
    high_root = np.sqrt(np.maximum(z**2 + 2 - 1 / size + 4 * p * (size * (1 - p) - 1), 0))
    low = np.where(k > 0, (2 * size * p + z**2 - 1 - z * low_root) / (2 * (size + z**2)), 0.0)
    high = np.where(k < n, (2 * size * p + z**2 + 1 + z * high_root) / (2 * (size + z**2)), 1.0)
    return np.where(n > 0, np.maximum(low, 0), np.nan), np.where(n > 0, np.minimum(high, 1), np.nan)


def gamma_quantiles(shape: Doubles, z: float) -> tuple[Doubles, Doubles]:
    """Quantiles of a Gamma distribution with mean 1 at the probabilities of -z and z under a standard normal.

    Args:
        shape: >= 1; then the lower quantile is above 0 for z up to 2.6.
    Source: the cube root is nearly normal (Wilson and Hilferty 1931).
    """
    middle, deviation = 1 - 1 / (9 * shape), (9 * shape) ** -0.5
    return (middle - z * deviation) ** 3, (middle + z * deviation) ** 3


def rate_figure(
    cell: Rows, cells: tuple[str, ...], happened: Mask, probability: Floats, title: str, by: str, unit: str,
    x: Doubles | None = None,
) -> Figure:  # fmt: skip
    """The figure of how often something happened in each cell; empty cells are left out.

    Args:
        cell: cell of each row, an index of `cells`; negative for none, (E,).
        happened: (E,).
        probability: the true probability of each row, (E,).
        x: place of each cell on the axis; None numbers them.
    """
    inside = cell >= 0
    cell, happened, probability = cell[inside], happened[inside], probability[inside]
    n = np.bincount(cell, minlength=len(cells))
    k = np.bincount(cell, happened, len(cells))
    expected = np.bincount(cell, probability, len(cells))
    used = np.flatnonzero(n)
    n, k, expected = n[used], k[used], expected[used]
    low, high = wilson(k, n, quantile(len(used)))
    place = np.arange(len(cells), dtype=np.float64) if x is None else x
    names = tuple(cells[i] for i in used)
    return Figure(title, by, unit, WILSON, names, place[used], n, k / n, low, high, expected / n)


def click_rates(world: World, evidence: Evidence) -> dict[str, Figure]:
    """Click rate on random-policy impressions by position, hour, age, earlier posts on the topic and session depth.

    Raises: DataError when there is no random-policy impression.
    """
    rows = np.flatnonzero(evidence.random)
    if not len(rows):
        raise DataError(
            f"click rates need impressions of the random policy, got none among {len(evidence.click)}; raise "
            "world.policy.random or world.n_impressions and run `recsys simulate` again"
        )
    click, true = evidence.has_action(CLICK)[rows], evidence.click[rows]
    now = evidence.now[evidence.request[rows]]
    age = (now - world.population.posts.created_at[evidence.post[rows]]) / HOUR
    depth = _shown_before(evidence)[rows]
    where = "of random-policy impressions"

    def by(cell: Rows, cells: tuple[str, ...], name: str, x: Doubles | None = None) -> Figure:
        return rate_figure(cell, cells, click, true, f"Click rate by {name}", name, f"clicks {where}", x)

    positions = tuple(str(k) for k in range(world.config.policy.slate_size))
    of_position = by(evidence.position[rows].astype(np.int32), positions, "position")
    return {
        "position": _with_examination(of_position, world),
        "examination": _examination(world, evidence, rows),
        "hour": by((now % DAY // HOUR).astype(np.int32), tuple(f"{h:02d}" for h in range(24)), "hour of day (UTC)"),
        "age": by(_bin(age, _AGES), _names(_AGES), "age of the post (hours)", _middles(_AGES)),
        "same_topic": by(_bin(evidence.n_same_topic[rows], _SAME), _names(_SAME, 1), "earlier posts on the topic"),
        "depth": by(_bin(depth, _DEPTHS), _names(_DEPTHS, 1), "posts seen before in the session"),
    }


def _with_examination(figure: Figure, world: World) -> Figure:
    """Add the examination curve, scaled to the same number of clicks."""
    curve = (1.0 + figure.x) ** -world.config.position_bias
    scale = (figure.estimate * figure.n).sum() / (curve * figure.n).sum()
    return replace(figure, curves={"scaled_examination": scale * curve})


def _examination(world: World, evidence: Evidence, rows: Ids) -> Figure:
    """Clicks over expected clicks if all were examined, by position: an estimate of examination alone, without bots."""
    rows = rows[~world.population.users.bot[evidence.user[evidence.request[rows]]]]
    position, n_positions = evidence.position[rows].astype(np.int32), world.config.policy.slate_size
    cells = tuple(str(k) for k in range(n_positions))
    figure = rate_figure(
        position, cells, evidence.has_action(CLICK)[rows], evidence.click[rows], "Examination by position", "position",
        "clicks over expected clicks if all were examined",
    )  # fmt: skip
    relevance = np.bincount(position, evidence.relevance[rows], n_positions)[figure.x.astype(np.int64)] / figure.n
    scaled = {name: getattr(figure, name) / relevance for name in ("estimate", "low", "high")}
    return replace(figure, **scaled, truth=(1.0 + figure.x) ** -world.config.position_bias)


def drift(world: World, evidence: Evidence) -> tuple[Figure, Doubles]:
    """Click rate of each user's favourite topics of the first day less that of other topics, by day.

    Gives: the figure; the true correlation over topics of taste on each day with the first day's, mean over users,
        (days,).
    """
    # 1. For each random-policy impression (I,): day, and whether its topic is a favourite of its user.
    users, start = world.population.users, world.population.start
    rows = np.flatnonzero(evidence.random)
    request = evidence.request[rows]
    is_favourite = np.zeros(users.taste_start.shape, bool)
    np.put_along_axis(is_favourite, np.argsort(-users.taste_start, axis=1)[:, :_FAVOURITES], True, axis=1)
    favourite = is_favourite[evidence.user[request], world.population.posts.topic[evidence.post[rows]]]
    day = np.maximum((evidence.now[request] - start) // DAY, 0)
    n_days = world.config.n_days
    cell = np.minimum(day, n_days - 1) * 2 + favourite  # a session may run over the last midnight
    p = evidence.click[rows]
    # 2. Impressions, clicks, expected clicks and their variance, by day and side, (days, 2); side 1 is favourites.
    n, k, expected, variance = (
        np.bincount(cell, weights, 2 * n_days).reshape(n_days, 2)
        for weights in (
            np.ones(len(cell)), evidence.has_action(CLICK)[rows], p, p * (1 - p),
        )
    )  # fmt: skip
    used = np.flatnonzero(n.min(axis=1))
    n, k, expected, variance = n[used], k[used], expected[used], variance[used]
    # 3. Difference of the two click rates, in the logs and in truth, (days,).
    lift, true = (np.subtract(*(of[:, side] / n[:, side] for side in (1, 0))) for of in (k, expected))
    half = quantile(len(used)) * np.sqrt((variance / n**2).sum(axis=1))
    figure = Figure(
        f"Click rate of the first day's {_FAVOURITES} favourite topics over others", "day", "difference of click rates",
        NORMAL, tuple(str(d) for d in used), used.astype(np.float64), n.sum(axis=1).astype(np.int64), lift, lift - half,
        lift + half, true,
    )  # fmt: skip
    return figure, _taste_correlation(world, used)


def _taste_correlation(world: World, days: Ids, n_users: int = 20_000) -> Doubles:
    """Mean over some users of the correlation of taste at noon of each day with the first day's, (days,)."""
    users = world.population.users
    some = slice(None, None, -(-len(users.id) // n_users))
    first, last = users.taste_start[some].astype(np.float64), users.taste_end[some]
    centred = first - first.mean(axis=1, keepdims=True)
    correlation = np.empty(len(days))
    for i, day in enumerate(days.tolist()):
        done = min((day + 0.5) / world.config.n_days, 1.0)
        taste = first * (1 - done) + last * done
        taste *= np.where(world.population.start + day * DAY >= world.population.topic_flips_at, -1.0, 1.0)
        taste -= taste.mean(axis=1, keepdims=True)
        norm = np.sqrt((taste**2).sum(axis=1) * (centred**2).sum(axis=1))
        correlation[i] = ((taste * centred).sum(axis=1) / np.maximum(norm, 1e-12)).mean()
    return correlation


def calibration(evidence: Evidence) -> Figure:
    """Click rate by tenth of true click probability, over all impressions."""
    cuts = np.quantile(evidence.click, np.arange(1, 10) / 10)
    cell = np.searchsorted(cuts, evidence.click, side="right").astype(np.int32)
    figure = rate_figure(
        cell, tuple(str(d) for d in range(1, 11)), evidence.has_action(CLICK), evidence.click,
        "Calibration of the truth", "tenth by true click probability", "clicks of all impressions",
    )  # fmt: skip
    return replace(figure, x=figure.truth)


def action_rates(evidence: Evidence) -> Figure:
    """Rates of clicks, likes, shares and hides, over all impressions and by policy."""
    policy = evidence.policy[evidence.request]
    cells, parts = [], []
    for kind, name in enumerate(ACTION_TYPES[:DWELL]):
        true, did = getattr(evidence, name), evidence.has_action(kind)
        for row, rows in [("all", np.ones(len(did), bool)), *((p, policy == i) for i, p in enumerate(POLICIES))]:
            cells.append(f"{name}, {row}")
            parts.append((int(rows.sum()), float(did[rows].sum()), float(true[rows].sum(dtype=np.float64))))
    n, k, expected = (np.array(column) for column in zip(*parts, strict=True))
    used = np.flatnonzero(n)
    n, k, expected = n[used].astype(np.int64), k[used], expected[used]
    low, high = wilson(k, n, quantile(len(used)))
    names = tuple(cells[i] for i in used)
    return Figure(
        "Actions by policy", "action, policy", "of impressions", WILSON, names, used.astype(np.float64), n, k / n, low,
        high, expected / n,
    )  # fmt: skip


def dwell(evidence: Evidence) -> Figure:
    """Mean dwell after a click, over all and by policy; each dwell is exponential around its own mean."""
    rows = np.flatnonzero(np.isfinite(evidence.dwelt))
    policy, dwelt = evidence.policy[evidence.request[rows]], evidence.dwelt[rows]
    mean = evidence.dwell_s[rows].astype(np.float64)
    groups = [("all", np.ones(len(rows), bool)), *((name, policy == i) for i, name in enumerate(POLICIES))]
    groups = [(name, of) for name, of in groups if of.any()]
    n = np.array([of.sum() for _, of in groups], np.int64)
    estimate = np.array([dwelt[of].mean(dtype=np.float64) for _, of in groups])
    true = np.array([mean[of].mean() for _, of in groups])
    # A sum of exponentials is nearly Gamma with this shape, exactly so for equal means.
    shape = np.array([mean[of].sum() ** 2 / (mean[of] ** 2).sum() for _, of in groups])
    least, most = gamma_quantiles(shape, quantile(len(groups)))
    return Figure(
        "Dwell by policy", "policy", "seconds after a click", GAMMA, tuple(name for name, _ in groups),
        np.arange(len(groups), dtype=np.float64), n, estimate, estimate / most, estimate / least, true,
    )  # fmt: skip


def _shown_before(evidence: Evidence) -> Rows:
    """Posts on screen in the session before each impression, (I,)."""
    session = evidence.session[evidence.request]
    starts = np.flatnonzero(np.diff(session, prepend=session[:1] - 1))
    size = np.diff(np.append(starts, len(session)))
    return (np.arange(len(session)) - np.repeat(starts, size)).astype(np.int32)


def _bin(values: np.ndarray, edges: tuple[float, ...]) -> Rows:
    """The bin of each value, by lower edges."""
    return (np.searchsorted(np.asarray(edges), values, side="right") - 1).clip(0).astype(np.int32)


def _names(edges: tuple[float, ...], unit: int = 0) -> tuple[str, ...]:
    """Names of the bins, each from its edge to the next; `unit` is 1 for whole numbers, 0 for real ones."""
    pairs = ((a, b - unit) for a, b in pairwise(edges))
    return (*(f"{a:g}" if a == b else f"{a:g} to {b:g}" for a, b in pairs), f"{edges[-1]:g}+")


def _middles(edges: tuple[float, ...]) -> Doubles:
    """Geometric middles of the bins, for a log axis."""
    edge = np.array([edges[1] / 2, *edges[1:], 2 * edges[-1]])
    middles: Doubles = np.sqrt(edge[:-1] * edge[1:])
    return middles
