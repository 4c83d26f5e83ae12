"""The world held against its own truth: every figure computed, tabulated and drawn.

Takes the settings of a data folder that holds a world, gives one dict of figures, tables for a person and a picture.
It does not know how a figure is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.config import Config
from recsys.offline.lake.lake import Lake
from recsys.progress import Progress
from recsys.types import Doubles
from recsys.world.report.composition import composition
from recsys.world.report.evidence import Evidence, read_evidence
from recsys.world.report.statistics import Figure, action_rates, calibration, click_rates, drift, dwell
from recsys.world.report.tails import Tails, tail_statistics
from recsys.world.world import World


@dataclass(frozen=True)
class WorldReport:
    """What the logs of a world say about it, beside the truth."""

    dates: tuple[str, ...]
    """Days that were read."""
    n_impressions: int
    n_left_out: int
    """Impressions of later days."""
    n_repeated: int
    """Events that were delivered twice."""
    figures: dict[str, Figure]
    taste_correlation: Doubles
    """Of a user's taste on each day of the figure `drift` with that of the first day."""
    tails: Tails
    duplicates: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what does not apply is null."""
        return {
            "impressions": self.n_impressions,
            "impressions_left_out": self.n_left_out,
            "events_delivered_twice": self.n_repeated,
            "first_date": self.dates[0],
            "last_date": self.dates[-1],
            "covered": all(bool(figure.covered.all()) for figure in self.figures.values()),
            "figures": {name: figure.as_dict() for name, figure in self.figures.items()},
            "taste_correlation": self.taste_correlation.tolist(),
            "power_tails": {name: fit._asdict() if fit else None for name, fit in self.tails.power.items()},
            "activity": {name: _known(value) for name, value in self.tails.rate._asdict().items()},
            "duplicates": self.duplicates,
        }


def world_report(config: Config, n_impressions: int, progress: Progress) -> WorldReport:
    """Everything that can be said of the first days with at most this many impressions.

    Raises: DataError when the data folder holds no world.
    """
    truth_folder = config.world_path / "truth"
    with progress.stage("draw the population again"):
        world = World.open(config.world_path)
    lake = Lake(config.lake_url)
    lake.info()  # refuses logs that an interrupted run left
    with progress.stage("read logs and truth") as report:
        seen = read_evidence(world, lake, truth_folder, n_impressions, report)
    with progress.stage("hold logs against truth"):
        return report_of(world, lake, truth_folder, seen)


def report_of(world: World, lake: Lake, truth_folder: Path, seen: Evidence) -> WorldReport:
    """The figures of evidence that was read."""
    shares, duplicates = composition(world, lake, truth_folder)
    by_day, correlation = drift(world, seen)
    tails = tail_statistics(world, seen)
    figures = {
        "tails": tails.figure, **click_rates(world, seen), "drift": by_day, "calibration": calibration(seen),
        "actions": action_rates(seen), "dwell": dwell(seen), "shares": shares,
    }  # fmt: skip
    return WorldReport(
        seen.dates, len(seen.click), seen.n_left_out, seen.n_repeated, figures, correlation, tails, duplicates
    )


def show(report: WorldReport, console: Console) -> None:
    """The report as tables."""
    for figure in report.figures.values():
        table = Table(
            figure.by, "rows", "logs", "95% band", "truth", "",
            title=f"{figure.title} ({figure.unit})", caption=figure.band,
        )  # fmt: skip
        for i, cell in enumerate(figure.cells):
            low, high = _number(figure.low[i]), _number(figure.high[i])
            table.add_row(
                cell, f"{figure.n[i]:,}", _number(figure.estimate[i]), "-" if low == "-" else f"{low} .. {high}",
                _number(figure.truth[i]), "" if figure.covered[i] else "outside",
            )  # fmt: skip
        console.print(table)
    kinds = Table("copy", "posts", "declared", "word overlap", title="Repeated texts")
    for name, row in report.duplicates["kinds"].items():
        overlap, declared = row["word_overlap"], row["declared"]
        kinds.add_row(
            name, f"{row['posts']:,}", "-" if declared is None else f"{declared:,}",
            "-" if overlap is None else f"{overlap:.2f}",
        )  # fmt: skip
    console.print(kinds)
    for name, fit in report.tails.power.items():
        if fit:
            console.print(
                f"{name} per post: exponent {fit.exponent:.2f} +- {fit.standard_error:.2f} from {fit.start:g} on"
                f" ({fit.n:,} posts)"
            )
    outside = [name for name, figure in report.figures.items() if not figure.covered.all()]
    console.print(
        f"{report.n_impressions:,} impressions of {report.dates[0]} to {report.dates[-1]}"
        f" ({report.n_left_out:,} of later days left out), {report.n_repeated:,} events delivered twice;"
        f" {report.duplicates['groups']:,} repeated texts, the most frequent {report.duplicates['largest']} times"
    )
    said = "inside all bands" if not outside else f"outside the bands of: {', '.join(outside)}"
    console.print(f"truth lies {said} (of {len(report.figures)} figures, one in twenty misses by chance)")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"
