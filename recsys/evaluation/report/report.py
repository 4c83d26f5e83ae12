"""The whole report of `recsys evaluate`, as a JSON object and as tables.

Takes settings; gives figures. It does not make a missing world or release; the command line does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.config import Config
from recsys.evaluation.report.material import gather
from recsys.evaluation.report.ranking import ranking_report
from recsys.evaluation.report.retrieval import retrieval_report
from recsys.evaluation.report.slates import slate_report
from recsys.progress import Progress


def evaluate(config: Config, progress: Progress) -> dict[str, Any]:
    """Compare the current release with baselines and, in a synthetic world, with the truth.

    `negatives` says what unclicked exposures are: `shown` to users, or `sampled` if the logs do not say what was shown.
    """
    with progress.stage("read release and lake"):
        material = gather(config)
    retrieval = retrieval_report(material, progress)
    with progress.stage("evaluate ranking"):
        ranking = ranking_report(material)
    with progress.stage("evaluate slates") as report:
        slate = slate_report(material, report)
    return {
        "release": material.release.version,
        "negatives": material.logs.negatives,
        "retrieval": retrieval,
        "ranking": ranking,
        "slate": slate,
    }


def over_seeds(reports: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Combine the reports of several worlds: the mean of every figure with its interval, and each report by seed."""
    first = next(iter(reports.values()))
    return {**_mean(list(reports.values()), first), "seeds": {str(seed): report for seed, report in reports.items()}}


def _mean(values: list[Any], example: Any) -> Any:
    """Mean of a figure over the reports, or a dictionary of means; `example` is the value in the first report."""
    if isinstance(example, dict):
        mean: dict[str, Any] = {}
        for key in example:
            if key == "release":
                mean[key] = None
            elif key.endswith("_ci"):
                mean[key] = _mean_interval([value[key] for value in values], [value.get(key[:-3]) for value in values])
            else:
                mean[key] = _mean([value[key] for value in values], example[key])
        return mean
    if isinstance(example, str):
        return example if all(value == example for value in values) else None
    return None if any(value is None for value in values) else float(np.mean(values))


def _mean_interval(intervals: list[Any], figures: list[Any]) -> Any:
    """95% interval of a mean over worlds. Worlds are independent, so the squares of their half-widths add up."""
    if isinstance(intervals[0], dict):
        return {name: _mean_interval([i[name] for i in intervals], [f[name] for f in figures]) for name in intervals[0]}
    if any(interval is None for interval in intervals):
        return None
    half = float(np.sqrt(sum(((high - low) / 2) ** 2 for low, high in intervals)) / len(intervals))
    mean = float(np.mean(figures))
    return [mean - half, mean + half]


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as tables."""
    recall = next(key for key in report["retrieval"] if key.startswith("recall@") and not key.endswith("_ci"))
    requests = f"{report['retrieval']['requests']:.0f} requests"
    if report["retrieval"]["policy"] is not None:
        requests = f"{report['retrieval']['requests']:.0f} {report['retrieval']['policy']}-policy requests"
    table = Table("retrieval", recall, "95%", title=f"clicks of {requests}")
    for name, value in report["retrieval"][recall].items():
        table.add_row(name, _number(value), _interval((report["retrieval"][f"{recall}_ci"] or {}).get(name)))
    console.print(table)
    console.print(_by_popularity(report["retrieval"], recall))
    title = "test share of the logs"
    if report["negatives"] == "sampled":
        title += ", clicks against sampled posts: no click rates"
    table = Table("ranking", "AUC", "95%", "GAUC", "log loss", "NE", "ECE", "calibration error", title=title)
    for name, row in report["ranking"].items():
        columns = [_number(row[key]) for key in ("gauc", "log_loss", "ne", "ece", "calibration_error")]
        table.add_row(name, _number(row["auc"]), _interval(row["auc_ci"]), *columns)
    console.print(table)
    slate = report["slate"]
    table = Table("slate", "true clicks", "95%", title=f"expected clicks on a slate, {slate['requests']:.0f} users")
    for name in ("random", "popularity", "full", "oracle"):
        table.add_row(name, _number(slate[name]["true_clicks"]), _interval(slate[name]["true_clicks_ci"]))
    table.add_section()
    table.add_row("share of oracle", _number(slate["share_of_oracle"]), _interval(slate["share_of_oracle_ci"]))
    console.print(table)


def _by_popularity(retrieval: dict[str, Any], recall: str) -> Table:
    """Recall of every row by the post's earlier clicks, and for young posts."""
    table = Table("clicks before", *retrieval[recall], "clicks", title=f"{recall} by the post's clicks before")
    named = [
        (f"{_count(group['least_clicks_before'])} .. {_count(group['most_clicks_before'])}", group)
        for group in retrieval["by_popularity"].values()
    ]
    for name, group in [*named, ("younger than a day", retrieval["younger_than_a_day"])]:
        table.add_row(name, *(_number(group[row]) for row in retrieval[recall]), _count(group["clicks"]))
    return table


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(bounds: list[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:.4f} .. {bounds[1]:.4f}"
