"""Draw recall against latency for every configuration.

Takes figures, writes a PNG. It does not know how they were measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_OURS, _FAISS, _PEERS = "#2f6db3", ("#7a4fb5", "#8a8f98", "#5b616b"), ("#d1495b", "#e08e2b", "#3c8d5a", "#8fc7a3")


def draw(panels: dict[str, dict[str, Any]], k: int, path: Path) -> None:
    """A panel per set of vectors; the file appears whole or not at all, folders are made.

    Args:
        panels: title to what `bench_retrieval` measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(panels), 5.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, figures) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _panel(axes, title, figures, k)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    canvas.print_figure(str(partial), format="png")
    os.replace(partial, path)


def _panel(axes: Any, title: str, figures: dict[str, Any], k: int) -> None:
    lists = [trial for trial in figures["trials"] if trial["name"] != "exact"]
    axes.plot(*_columns(lists), ".", color=_OURS, alpha=0.45, label="fast lists, every trial")
    chosen = figures["chosen"]
    axes.plot(chosen["p50_ms"], chosen[f"recall@{k}"], "*", color=_OURS, markersize=16, label="fast lists, chosen")
    if figures["exact_p50_ms"]:
        axes.plot(figures["exact_p50_ms"], 1.0, "s", color="black", label="exact scan")
    for color, (name, curve) in zip(_FAISS, figures["faiss"]["curves"].items(), strict=False):
        axes.plot(*_columns(curve), "o-", color=color, markersize=4, label=f"FAISS {name}")
    for color, (name, peer) in zip(_PEERS, figures["peers"].items(), strict=True):
        if peer and "curve" in peer:
            axes.plot(*_columns(peer["curve"]), "o-", color=color, markersize=4, label=name)
    axes.axhline(0.95, color="#c0c4cb", linewidth=1, zorder=0)
    axes.set(
        title=f"{title}: {figures['posts']:,} posts, {figures['embedding_size']} dimensions",
        xlabel="p50 of one query on one core, ms", ylabel=f"recall@{k}", xscale="log", ylim=(0.8, 1.005),
    )  # fmt: skip
    axes.legend(fontsize=8, loc="lower right")


def _columns(points: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [point["p50_ms"] for point in points], [point["recall"] for point in points]
