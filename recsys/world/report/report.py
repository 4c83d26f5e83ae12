"""`recsys world report`: compare the logs of a world with its truth.

Takes the settings of a data folder that holds a world, gives one dict of figures and tables for the terminal. It does
not know how a figure is computed.
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
    """All figures of a world: its logs beside its truth."""

    dates: tuple[str, ...]
    """Days that were read."""
    n_impressions: int
    n_left_out: int
    """Impressions of later days."""
    n_repeated: int
    """Rows that repeat an event."""
    figures: dict[str, Figure]
    taste_correlation: Doubles
    """Correlation of a user's taste on each day of the figure `drift` with the first day's."""
    tails: Tails
    duplicates: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON; values that do not apply are null."""
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
            "activity": {name: _null_if_nan(value) for name, value in self.tails.rate._asdict().items()},
            "duplicates": self.duplicates,
        }


def world_report(config: Config, n_impressions: int, progress: Progress) -> WorldReport:
    """Compute the report from the first days with at most this many impressions.

    Raises: DataError when the data folder holds no world.
    """
    truth_folder = config.world_path / "truth"
    with progress.stage("draw the population again"):
        world = World.open(config.world_path)
    lake = Lake(config.lake_url)
    lake.info()  # refuses a lake that an interrupted run left incomplete
    with progress.stage("read logs and truth") as report:
        evidence = read_evidence(world, lake, truth_folder, n_impressions, report)
    with progress.stage("compare logs with truth"):
        return report_of(world, lake, truth_folder, evidence)


def report_of(world: World, lake: Lake, truth_folder: Path, evidence: Evidence) -> WorldReport:
    """Compute all figures of the evidence."""
    shares, duplicates = composition(world, lake, truth_folder)
    by_day, correlation = drift(world, evidence)
    tails = tail_statistics(world, evidence)
    figures = {
        "tails": tails.figure, **click_rates(world, evidence), "drift": by_day, "calibration": calibration(evidence),
        "actions": action_rates(evidence), "dwell": dwell(evidence), "shares": shares,
    }  # fmt: skip
    return WorldReport(
        dates=evidence.dates,
        n_impressions=len(evidence.click),
        n_left_out=evidence.n_left_out,
        n_repeated=evidence.n_repeated,
        figures=figures,
        taste_correlation=correlation,
        tails=tails,
        duplicates=duplicates,
    )


def show(report: WorldReport, console: Console) -> None:
    """Print the report as tables."""
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
    place = "inside all bands" if not outside else f"outside the bands of: {', '.join(outside)}"
    console.print(f"truth lies {place} (of {len(report.figures)} figures; one in twenty misses by chance)")


def _null_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"
