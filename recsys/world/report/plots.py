"""Draw the report of a world as one picture: small panels, logs as dots with bands, truth as a line.

Takes a report, writes a PNG. It does not know how a figure is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recsys.types import Doubles
from recsys.world.behaviour.policies import POLICIES
from recsys.world.report.report import WorldReport
from recsys.world.report.statistics import Figure

_LOGS, _TRUTH, _OTHER = "#2f6db3", "#d1495b", "#8a8f98"


def draw(report: WorldReport, path: Path) -> None:
    """Write the picture atomically; creates missing folders."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(20, 16), dpi=100, layout="constrained")
    FigureCanvasAgg(canvas)
    panels: list[Callable[[Any], None]] = [
        lambda axes: _posts(axes, report),
        lambda axes: _users(axes, report),
        lambda axes: _rate(axes, report.figures["position"], curve="scaled_examination"),
        lambda axes: _rate(axes, report.figures["examination"]),
        lambda axes: _rate(axes, report.figures["hour"]),
        lambda axes: _rate(axes, report.figures["age"], log_x=True),
        lambda axes: _rate(axes, report.figures["same_topic"]),
        lambda axes: _rate(axes, report.figures["depth"]),
        lambda axes: _correlation(axes, report),
        lambda axes: _rate(axes, report.figures["drift"]),
        lambda axes: _calibration(axes, report.figures["calibration"]),
        lambda axes: _actions(axes, report.figures["actions"]),
        lambda axes: _bars(axes, report.figures["dwell"]),
        lambda axes: _bars(axes, report.figures["shares"]),
        lambda axes: _copies(axes, report),
        lambda axes: _bars(axes, report.figures["tails"], only="share of the top"),
    ]
    for axes, panel in zip(canvas.subplots(4, 4).ravel(), panels, strict=True):
        panel(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
    canvas.suptitle(
        f"The world against its own truth: {report.n_impressions:,} impressions, {report.dates[0]} to"
        f" {report.dates[-1]}\ndots: logs with simultaneous 95% bands; red: truth", fontsize=15,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        canvas.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)


def _dots(axes: Any, figure: Figure, rows: Any, at: Doubles, horizontal: bool = False) -> None:
    """Plot estimates with bands; horizontal plots also mark the truth in red."""
    middle = figure.estimate[rows]
    error = np.nan_to_num([middle - figure.low[rows], figure.high[rows] - middle])
    style = {"fmt": "o", "color": _LOGS, "markersize": 4, "elinewidth": 1.4, "capsize": 2}
    if horizontal:
        axes.errorbar(middle, at, xerr=error, **style)
        axes.scatter(figure.truth[rows], at, marker="|", s=120, color=_TRUTH, zorder=3)
    else:
        axes.errorbar(at, middle, yerr=error, **style)


def _rate(axes: Any, figure: Figure, log_x: bool = False, curve: str | None = None) -> None:
    """Estimates with bands over the figure's axis, the truth as a line."""
    every = slice(None)
    _dots(axes, figure, every, figure.x)
    axes.plot(figure.x, figure.truth, color=_TRUTH, linewidth=1.6)
    if curve is not None:
        axes.plot(figure.x, figure.curves[curve], color=_OTHER, linestyle="--", label=curve.replace("_", " "))
        axes.legend(fontsize=8, frameon=False)
    if log_x:
        axes.set_xscale("log")
        axes.set_xticks(figure.x, figure.cells, rotation=40, ha="right")
        axes.minorticks_off()
    else:
        step = 1 if len(figure.cells) <= 16 else 3
        axes.set_xticks(figure.x[::step], figure.cells[::step])
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(figure.low))))
    _label(axes, figure.title, figure.by, figure.unit)


def _survival(counts: Doubles) -> tuple[Doubles, Doubles]:
    """The distinct values above 0, ascending, and the share of counts at or above each."""
    ascending = np.sort(counts)
    values, first = np.unique(ascending, return_index=True)
    above = values > 0
    return values[above], 1.0 - first[above] / len(counts)


def _posts(axes: Any, report: WorldReport) -> None:
    """Survival curves of impressions, clicks and expected clicks per post, with fitted power laws."""
    tails = report.tails
    for name, counts, color in (("impressions", tails.impressions, _OTHER), ("clicks", tails.clicks, _LOGS)):
        values, share = _survival(counts)
        axes.plot(values, share, ".", markersize=4, color=color, label=name)
        if fit := tails.power[name]:
            line = np.array([fit.start, values[-1]])
            height = float((counts >= fit.start).mean()) * (line / fit.start) ** (1 - fit.exponent)
            label = f"exponent {fit.exponent:.2f} ± {fit.standard_error:.2f}"
            axes.plot(line, height, "-" if name == "clicks" else ":", color="black", linewidth=1.2, label=label)
    values, share = _survival(np.round(tails.expected_clicks))
    axes.plot(values, share, color=_TRUTH, linewidth=1.4, label="expected clicks")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=8, frameon=False)
    _label(axes, "Popularity of posts", "count per post", "share of posts with at least as many")


def _users(axes: Any, report: WorldReport) -> None:
    """Survival curve of sessions per user, with the fitted and the true log-normal."""
    values, share = _survival(report.tails.sessions)
    axes.plot(values, share, ".", markersize=4, color=_LOGS)
    rate, sigma = report.tails.rate, float(report.figures["tails"].truth[_cell(report.figures["tails"], "sigma")])
    error = "" if np.isnan(rate.standard_error) else f" ± {rate.standard_error:.2f}"
    for spread, color, label in (
        (rate.sigma, "black", f"fitted sigma {rate.sigma:.2f}{error}"),
        (sigma, _TRUTH, f"true sigma {sigma:g}"),
    ):
        axes.plot(*_expected_survival(rate.mean, spread, values), color=color, linewidth=1.3, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5 / len(report.tails.sessions))
    axes.legend(fontsize=8, frameon=False)
    _label(axes, "Activity of users", "sessions per user", "share of users with at least as many")


def _expected_survival(mean: float, sigma: float, values: Doubles) -> tuple[Doubles, Doubles]:
    """The values, and P(Poisson count with a log-normal rate >= value), from 200,000 draws."""
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.poisson(np.exp(mean + sigma * rng.standard_normal(200_000))))
    return values, np.maximum(1.0 - np.searchsorted(drawn, values) / len(drawn), 1e-9)


def _correlation(axes: Any, report: WorldReport) -> None:
    """Correlation of taste with the first day's, by day."""
    axes.plot(report.figures["drift"].x, report.taste_correlation, "-o", color=_TRUTH, markersize=3)
    axes.set_ylim(0, 1.02)
    _label(axes, "Drift of taste (truth)", "day", "correlation with the first day's taste")


def _calibration(axes: Any, figure: Figure) -> None:
    """Click rate over true click probability."""
    _dots(axes, figure, slice(None), figure.x)
    axes.plot(figure.x, figure.truth, color=_TRUTH, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _label(axes, figure.title, "mean true click probability in each tenth", "click rate")


def _actions(axes: Any, figure: Figure) -> None:
    """Rates of each action, over all impressions and by policy."""
    names = [*dict.fromkeys(cell.split(", ")[0] for cell in figure.cells)]
    groups = ("all", *POLICIES)
    for i, group in enumerate(groups):
        rows = [j for j, cell in enumerate(figure.cells) if cell.endswith(f", {group}")]
        at = np.array([names.index(figure.cells[j].split(", ")[0]) for j in rows]) + 0.18 * (i - 1.5)
        _dots(axes, figure, rows, at)
        axes.scatter(at, figure.truth[rows], marker="_", s=120, color=_TRUTH, zorder=3)
    axes.set_xticks(range(len(names)), names)
    axes.set_yscale("log")
    _label(axes, figure.title, f"each from left: {', '.join(groups)}", f"{figure.unit}")


def _bars(axes: Any, figure: Figure, only: str = "") -> None:
    """Cells from top to bottom; `only` keeps those that start with it."""
    rows = [i for i, cell in enumerate(figure.cells) if cell.startswith(only)]
    at = -np.arange(len(rows), dtype=np.float64)
    _dots(axes, figure, rows, at, horizontal=True)
    axes.set_yticks(at, [figure.cells[i].removeprefix(f"{only} ") for i in rows])
    axes.set_xlim(left=0)
    _label(axes, figure.title, only or figure.unit, "")


def _copies(axes: Any, report: WorldReport) -> None:
    """Posts of each kind of copy, and those declared in the lake."""
    kinds = {name: row for name, row in report.duplicates["kinds"].items() if row["declared"] is not None}
    at = -np.arange(len(kinds))
    axes.barh(at + 0.2, [row["posts"] for row in kinds.values()], 0.4, color=_LOGS, label="posts")
    axes.barh(at - 0.2, [row["declared"] for row in kinds.values()], 0.4, color=_OTHER, label="declared in the lake")
    names = [
        name if row["word_overlap"] is None else f"{name}\n{row['word_overlap']:.0%} of words"
        for name, row in kinds.items()
    ]
    axes.set_yticks(at, names)
    axes.legend(fontsize=8, frameon=False)
    sizes = ", ".join(f"{n:,} of {size}" for size, n in list(report.duplicates["sizes"].items())[:5])
    _label(axes, "Repeated texts", f"posts; groups by size: {sizes}", "")


def _cell(figure: Figure, start: str) -> int:
    """The first cell whose name starts with this."""
    return next(i for i, cell in enumerate(figure.cells) if cell.startswith(start))
