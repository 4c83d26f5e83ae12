"""Choose an index: the cheapest configuration that reaches the target recall.

Takes vectors and a sample of queries, gives the chosen index, the reason, and every configuration that was tried with
its recall and cost. Costs come from a model, so that the same vectors always give the same index;
`measure` adds times of this machine. It does not know posts or users.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsys.config import IndexConfig
from recsys.errors import DataError
from recsys.progress import Report
from recsys.retrieval.index import faiss_index
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.effort import Effort
from recsys.retrieval.index.fast_lists import tuning as fast_lists
from recsys.retrieval.index.index import PostIndex, checked, checked_queries, number_of_lists
from recsys.types import Doubles, Floats

LIST_FACTORS = (1.0, 2.0, 4.0)
"""Numbers of lists to try, per square root of the number of posts. With very many lists, scoring their centres costs
more than the shorter lists save."""
SHARES = tuple(float(f"{0.0005 * 1.06**i:.3g}") for i in range(124))
"""Shares of the lists to visit that are tried, each 6% more than the one before."""

STANDARD_ERRORS = 2.0
"""Safety margin: standard errors by which recall on the tuning queries must exceed the target."""

_EXACT_COST_NS = (8_000.0, 0.032)
"""Modelled cost of an exact scan: nanoseconds per search and per byte of the vectors."""
_HOPELESS = 1.5
"""Skip configurations whose fixed cost alone is this many times the cost of the cheapest."""
_TIED = 1e-6
"""Relative difference of scores below which two posts count as tied."""


class TunedKind(Protocol):
    """Interface of a kind of index that can be tuned: a module with these functions."""

    REFINES: tuple[float, ...]

    def prepare(self, vectors: Floats, queries: Floats) -> Any: ...

    def variants(
        self, posts: Any, n_lists: int, config: IndexConfig, report: Report
    ) -> Iterator[tuple[Any, float]]: ...

    def as_set(self, posts: Any, n_lists: int, config: IndexConfig) -> Any: ...

    def cost_ns(self, index: Any, queries: Floats, effort: Effort, k: int) -> float: ...

    def least_cost_ns(self, n_lists: int, size: int, n_posts: int, rescored: float) -> float: ...


KINDS: dict[str, Any] = {"faiss": faiss_index, "fast_lists": fast_lists}
"""Tunable kinds of index by name."""


@dataclass(frozen=True, slots=True)
class ExactAnswers:
    """Answers of an exact search: the k-th best score of each query, (M,)."""

    queries: Floats
    """(M, D)."""
    k: int
    kth: Floats

    @classmethod
    def of(cls, exact: PostIndex, queries: Floats, k: int, allowed: Bitmap | None = None) -> ExactAnswers:
        return cls(queries, k, exact.search(queries, k, allowed)[0][:, -1])

    def first(self, n: int) -> ExactAnswers:
        """Of the first n queries."""
        return ExactAnswers(self.queries[:n], self.k, self.kth[:n])

    def recall(self, vectors: Floats, rows: np.ndarray) -> Doubles:
        """Share of the k results of each query that score at least the k-th exact score, (M,); among posts that tie at
        the k-th score any counts."""
        found = np.empty(len(self.queries))
        for i, (query, kth, row) in enumerate(zip(self.queries, self.kth, rows, strict=True)):
            scores = vectors[np.unique(row[row >= 0])] @ query
            found[i] = min(int(np.count_nonzero(scores >= kth - _TIED * abs(kth))), self.k) / self.k
        return found


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration with its recall and cost."""

    index: PostIndex
    recall: float
    """Recall at the worst moment."""
    recall_lower_bound: float
    """The lowest of all moments of the mean recall minus `STANDARD_ERRORS`; it must reach the target."""
    cost_ms: float
    """Modelled cost, mean over all moments."""
    bytes_per_vector: float
    build_s: float = 0.0
    """Seconds of the build on this machine; not used in the choice."""
    p50_ms: float | None = None
    """Measured time of single queries on one thread of this machine; None if not measured."""
    p99_ms: float | None = None
    queries_per_s: float | None = None

    @property
    def name(self) -> str:
        return self.index.name

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        names = (
            "recall", "recall_lower_bound", "cost_ms", "bytes_per_vector", "p50_ms", "p99_ms", "queries_per_s",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        return {"name": self.name} | {
            name: None if value is None else float(f"{value:.4g}") for name, value in values.items()
        }


@dataclass(frozen=True, slots=True)
class Tuning:
    """Result of tuning: all trials, the chosen one and the reason."""

    trials: list[Trial]
    chosen: Trial
    why: str

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        trials = sorted(self.trials, key=lambda trial: (trial.cost_ms, trial.name))
        return {"chosen": self.chosen.name, "why": self.why, "trials": [trial.figures() for trial in trials]}


def tune(
    vectors: Floats, queries: Floats, k: int, config: IndexConfig, report: Report, thorough: bool = False
) -> Tuning:
    """Build configurations and choose one.

    Args:
        vectors: (N, D).
        queries: a sample of those to come, (M, D), or of each of S moments, (S, M, D), M >= 4. Every other one shapes
            the index, the rest measure recall; the target must hold at each moment.
        k: results of a search.
        thorough: try every configuration, also those that the model rejects before they are built, and try lists also
            where the catalogue is small enough for an exact scan. For benchmarks, which time them: the model may be
            wrong on another processor.
    Raises: DataError when there is no vector, one is not finite or of another size, or there are too few queries.
    """
    vectors = checked(vectors)
    n, size = vectors.shape
    exact = PostIndex.exact(vectors)
    per_search, per_byte = _EXACT_COST_NS
    trials = [Trial(exact, 1.0, 1.0, (per_search + per_byte * 4 * n * size) / 1e6, exact.segment.n_bytes / n)]
    if config.kind == "exact" or (config.kind == "auto" and not thorough and _is_small(n, k, config)) or n <= k:
        return choose(trials, n, k, config)
    if queries.ndim not in (2, 3):
        raise DataError(f"queries must have shape (queries, {size}) or (moments, queries, {size}), got {queries.shape}")
    by_moment = queries if queries.ndim == 3 else queries[None]
    shaping = checked_queries(by_moment[:, 0::2].reshape(-1, by_moment.shape[-1]), size)
    measuring = checked_queries(by_moment[:, 1::2].reshape(-1, by_moment.shape[-1]), size)
    if by_moment.shape[1] < 4:
        raise DataError(
            f"an index is tuned with at least 4 queries of a moment, got {by_moment.shape[1]}; simulate or import more "
            "users"
        )
    moments = _Moments(ExactAnswers.of(exact, measuring, k), len(by_moment))
    name = "faiss" if config.kind == "auto" else config.kind
    kind: TunedKind = KINDS[name]
    if not config.tuned:
        return choose([_tried(kind, vectors, PostIndex.build(vectors, shaping, config), moments)], n, k, config)
    start = time.perf_counter()
    posts = kind.prepare(vectors, shaping)
    prepared_s = time.perf_counter() - start
    lowest_cost = math.inf
    numbers = _numbers_of_lists(n, name, config)
    for nth, n_lists in enumerate(numbers):
        before = lowest_cost
        if not thorough and kind.least_cost_ns(n_lists, size, n, 0.0) / 1e6 > _HOPELESS * lowest_cost:
            break
        part = _part_of(report, nth, len(numbers))
        for segment, build_s in kind.variants(posts, n_lists, config, part):
            for refine in kind.REFINES:
                if not thorough and kind.least_cost_ns(n_lists, size, n, refine * k) / 1e6 > _HOPELESS * lowest_cost:
                    break
                start_index = PostIndex(segment, Effort(1, refine), exact.built_from)
                found = _cheapest(kind, vectors, start_index, moments, config.target_recall)
                trials += [replace(trial, build_s=prepared_s + build_s) for trial in found]
                enough = [t.cost_ms for t in found if t.recall_lower_bound >= config.target_recall]
                lowest_cost = min([lowest_cost, *enough])
        if not thorough and lowest_cost == before < math.inf:
            break  # cost has begun to rise with the number of lists
    report(len(numbers) * n, len(numbers) * n)
    return choose(trials, n, k, config)


def for_rebuilding(vectors: Floats, queries: Floats, k: int, config: IndexConfig, report: Report) -> IndexConfig:
    """Tune once; return settings that build the same index over and over while posts come and go.

    Recall drifts down over many rebuilds, so the target is stricter: half of the allowed loss is kept in reserve.
    Arguments as in `tune`. Lists are built even for a small catalogue or `kind: exact`, since a live index grows.
    """
    kind = config.kind if config.kind in KINDS else "faiss"
    reserve = {"kind": kind, "tuned": True, "target_recall": (1 + config.target_recall) / 2}
    return as_tuned(config, tune(vectors, queries, k, config.model_copy(update=reserve), report).chosen.index)


def as_tuned(config: IndexConfig, tuned: PostIndex) -> IndexConfig:
    """Settings that build an index like this one from other posts; for an exact index, lists as the settings have
    them."""
    fixed: dict[str, Any] = {"kind": config.kind if config.kind in KINDS else "faiss", "tuned": False}
    if not tuned.is_exact:
        n_lists = tuned.segment.n_lists
        fixed |= {
            "kind": tuned.kind,
            "nlist_factor": n_lists / math.sqrt(tuned.n_posts),
            "nprobe_share": min(tuned.effort.lists / n_lists, 1.0),
            "refine_factor": tuned.effort.refine,
        }
        if hasattr(tuned.segment, "code_bytes"):
            fixed["code_bytes"] = tuned.segment.code_bytes
    return config.model_copy(update=fixed)


def choose(trials: list[Trial], n_posts: int, k: int, config: IndexConfig) -> Tuning:
    """The cheapest trial that reaches the target: by measured times where all have one, by the model otherwise.

    Where `kind` is `auto` and the catalogue small, the exact scan is taken whatever it costs.
    """
    measured = all(trial.p50_ms is not None for trial in trials)

    def cost(trial: Trial) -> float:
        return trial.p50_ms if measured and trial.p50_ms is not None else trial.cost_ms

    if config.kind == "exact" or not config.tuned:
        how = f"kind is {config.kind}" + ("" if config.tuned else " and retrieval.index.tuned is off")
        return Tuning(trials, trials[0], f"{trials[0].name}: retrieval.index.{how}")
    how = "measured" if measured else "by the model"
    if n_posts <= k or (config.kind == "auto" and _is_small(n_posts, k, config)):
        least = max(config.exact_below, k + 1)
        chosen = next(trial for trial in trials if trial.index.is_exact)
        why = (
            f"{n_posts:,} posts are fewer than {least:,} (retrieval.index.exact_below), and a scan of all takes "
            f"{cost(chosen):.2f} ms {how}"
        )
        return Tuning(trials, chosen, f"exact: {why}")
    good = [trial for trial in trials if trial.recall_lower_bound >= config.target_recall]
    # A configured kind wins if it reaches the target; the scan competes only under `auto`.
    of_kind = [trial for trial in good if not trial.index.is_exact]
    chosen = min((config.kind != "auto" and of_kind) or good, key=cost)
    return Tuning(
        trials,
        chosen,
        f"{chosen.name}: of {len(trials)} configurations {len(good)} find {config.target_recall:.1%} of the exact best "
        f"at every moment, with {STANDARD_ERRORS:g} standard errors to spare, and this is the cheapest of them (finds "
        f"{chosen.recall:.1%} at the worst moment, {cost(chosen):.3f} ms {how})",
    )


def _is_small(n_posts: int, k: int, config: IndexConfig) -> bool:
    return n_posts < config.exact_below or n_posts <= k


def _numbers_of_lists(n_posts: int, kind: str, config: IndexConfig) -> list[int]:
    """Numbers of lists to try, ascending; a factory string fixes one."""
    if kind == "faiss" and config.factory:
        return [faiss_index.lists_of(config.factory)]
    return sorted({number_of_lists(n_posts, factor) for factor in LIST_FACTORS})


def measure(trial: Trial, queries: Floats, k: int, allowed: Bitmap | None) -> Trial:
    """Measure the times of single queries; gives the trial with them."""
    trial.index.search(queries[:3], k, allowed)
    times = []
    for i in range(len(queries)):
        start = time.perf_counter()
        trial.index.search(queries[i : i + 1], k, allowed)
        times.append(time.perf_counter() - start)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return replace(trial, p50_ms=float(p50), p99_ms=float(p99), queries_per_s=len(times) / sum(times))


def _part_of(report: Report, nth: int, parts: int) -> Report:
    """Progress of one of several equal parts as progress of the whole."""
    return lambda done, total: report(nth * total + done, parts * total)


class _Moments(NamedTuple):
    """Queries of several moments, the same number of each, grouped by moment."""

    truth: ExactAnswers
    n: int

    def worst(self, recall: Doubles) -> tuple[float, float]:
        """From the recall of each query, (M,): the lowest mean of a moment, and the lowest mean minus its margin."""
        of_moment = recall.reshape(self.n, -1)
        mean = of_moment.mean(axis=1)
        error = of_moment.std(axis=1, ddof=1) / math.sqrt(of_moment.shape[1])
        return float(mean.min()), float((mean - STANDARD_ERRORS * error).min())


def _cheapest(kind: TunedKind, vectors: Floats, index: PostIndex, moments: _Moments, target: float) -> list[Trial]:
    """Find the fewest lists that reach the target by bisection, since recall grows with them; gives all trials."""
    n_lists = index.segment.n_lists
    numbers = sorted({max(1, round(share * n_lists)) for share in SHARES})
    trials = []
    low, high = 0, len(numbers) - 1
    while low <= high:
        middle = (low + high) // 2
        effort = replace(index.effort, lists=numbers[middle])
        trials.append(trial := _tried(kind, vectors, replace(index, effort=effort), moments))
        low, high = (low, middle - 1) if trial.recall_lower_bound >= target else (middle + 1, high)
    return trials


def _tried(kind: TunedKind, vectors: Floats, index: PostIndex, moments: _Moments) -> Trial:
    """Measure recall and modelled cost of an index with its effort."""
    segment, effort, truth = index.segment, index.effort, moments.truth
    cost_ns = kind.cost_ns(segment, truth.queries, effort, truth.k)
    # Ask the segment: the index may visit more lists than the effort, which the cost model does not count.
    recall = truth.recall(vectors, segment.search(truth.queries, truth.k, None, effort)[1])
    return Trial(index, *moments.worst(recall), cost_ns / 1e6, segment.n_bytes / segment.n_posts)
