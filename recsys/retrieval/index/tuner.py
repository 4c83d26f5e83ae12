"""Which index: the cheapest that finds enough of the exact best.

Takes vectors and a sample of the queries to come, gives an index with every configuration that was tried, what each
found and cost, and why one was chosen. Costs are of a model, bytes and rows read, so that the same vectors always give
the same index; `measure` adds times of this machine. It does not know posts or users.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from recsys.config import IndexConfig
from recsys.errors import DataError
from recsys.progress import Report
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.fast_lists.inverted_file import Effort, InvertedFile
from recsys.retrieval.index.fast_lists.quantizer import Prepared
from recsys.retrieval.index.index import PostIndex, checked, checked_queries, number_of_lists
from recsys.types import Doubles, Floats

LIST_FACTORS = (1.0, 2.0, 4.0)
"""Lists per square root of the number of posts. Where few lists are visited, scoring the centres of many costs more
than the codes of longer lists."""
CODE_BYTES = (16, 24, 32)
REFINES = (1.4, 1.7, 2.0, 2.5, 3.0, 4.0, 6.0)
SHARES = tuple(float(f"{0.0005 * 1.06**i:.3g}") for i in range(124))
"""Shares of the lists that may be visited, each a sixteenth more than the one before."""

SURE = 2.0
"""Standard errors by which the recall of the tuning queries must exceed the target, so that others reach it as well."""

# Nanoseconds on one core with 512-bit vectors, fitted to 144 kinds of searches of 1, 3 and 10 million made-up posts,
# eight of ten within a tenth; they only weigh parts of a search against each other.
_PER_SEARCH = 8_000.0
_PER_CENTRE_BYTE = 0.032
_PER_CODE_BYTE = 0.046
_PER_LANE = 0.044
_PER_RESCORED = 30.0
"""Among a million posts; a post's bytes lie the further away the more there are."""
_PER_RESCORED_TENFOLD = 31.0
_LEAST_PER_RESCORED = 10.0
_PER_EXACT_BYTE = 0.032

_HOPELESS = 1.5
"""Configurations that cost so many times the cheapest before they visit any list are not tried."""
_TIED = 1e-6
"""Relative difference of scores below which two posts are as good."""


@dataclass(frozen=True, slots=True)
class ExactAnswers:
    """What an exact search gives: the k-th score of each query, (M,)."""

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
        """Share of the k results of each query that score at least the k-th exact score, (M,); ties count whichever
        post was found."""
        found = np.empty(len(self.queries))
        for i, (query, kth, row) in enumerate(zip(self.queries, self.kth, rows, strict=True)):
            scores = vectors[np.unique(row[row >= 0])] @ query
            found[i] = min(int(np.count_nonzero(scores >= kth - _TIED * abs(kth))), self.k) / self.k
        return found


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration: what it found and cost."""

    index: PostIndex
    recall: float
    """Of the moment at which it is least."""
    surely: float
    """Recall, less `SURE` standard errors; of the moment at which that is least."""
    cost_ms: float
    """By the model, on average over all moments."""
    bytes_per_vector: float
    build_s: float = 0.0
    """Seconds that its lists and codes took here; no figure of the choice."""
    p50_ms: float | None = None
    """Of single queries on one thread of this machine, where it was measured."""
    p99_ms: float | None = None
    queries_per_s: float | None = None

    @property
    def name(self) -> str:
        return self.index.name

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        names = ("recall", "surely", "cost_ms", "bytes_per_vector", "p50_ms", "p99_ms", "queries_per_s")
        values = {name: getattr(self, name) for name in names}
        return {"name": self.name} | {
            name: None if value is None else float(f"{value:.4g}") for name, value in values.items()
        }


@dataclass(frozen=True, slots=True)
class Tuning:
    """Everything tried, what was chosen of it, and why."""

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
    """Build and choose.

    Args:
        vectors: (N, D).
        queries: a sample of those to come, (M, D), or of each of S moments, (S, M, D), M >= 4: every other one shapes
            the lists, the others tell, and at each moment enough must be found.
        k: results of a search.
        thorough: try every configuration, also those that the model rejects before they are tried, and lists also
            where the catalogue is small enough for an exact scan. For whoever times them: the model may be wrong on
            another processor.
    Raises: DataError when there is no vector, one is not finite or of another size, or there are too few queries.
    """
    vectors = checked(vectors)
    n, size = vectors.shape
    exact = PostIndex.exact(vectors)
    trials = [Trial(exact, 1.0, 1.0, (_PER_SEARCH + _PER_EXACT_BYTE * 4 * n * size) / 1e6, exact.segment.n_bytes / n)]
    if config.kind != "lists" and not thorough and (config.kind == "exact" or _is_small(n, k, config)):
        return choose(trials, n, k, config)
    if queries.ndim not in (2, 3):
        raise DataError(f"queries must have shape (queries, {size}) or (moments, queries, {size}), got {queries.shape}")
    by_moment = queries if queries.ndim == 3 else queries[None]
    shaping = checked_queries(by_moment[:, 0::2].reshape(-1, by_moment.shape[-1]), size)
    telling = checked_queries(by_moment[:, 1::2].reshape(-1, by_moment.shape[-1]), size)
    if by_moment.shape[1] < 4:
        raise DataError(
            f"an index is tuned with at least 4 queries of a moment, got {by_moment.shape[1]}; simulate or import more "
            "users"
        )
    moments = _Moments(ExactAnswers.of(exact, telling, k), len(by_moment))
    if config.kind == "lists":
        as_set = PostIndex.lists(vectors, shaping, config)
        return choose([_tried(vectors, as_set, moments), *trials], n, k, config)
    least = math.inf
    start = time.perf_counter()
    posts = Prepared.of(vectors, shaping)
    prepared_s = time.perf_counter() - start
    numbers = sorted({number_of_lists(n, factor) for factor in LIST_FACTORS})
    for nth, n_lists in enumerate(numbers):
        before = least
        if not thorough and _cost_ns(4 * n_lists * size) / 1e6 > _HOPELESS * least:
            break
        for coded, build_s in _coded(posts, n_lists, config.max_bytes, _part_of(report, nth, len(numbers))):
            for refine in REFINES:
                if not thorough and _cost_ns(coded.centres.nbytes, n, refine * k) / 1e6 > _HOPELESS * least:
                    break
                found = _cheapest(vectors, coded, exact.built_from, refine, moments, config.target_recall)
                trials += [replace(trial, build_s=prepared_s + build_s) for trial in found]
                least = min([least, *(trial.cost_ms for trial in found if trial.surely >= config.target_recall)])
        if not thorough and least == before < math.inf:
            break  # more lists cost more: still more would too
    report(len(numbers) * n, len(numbers) * n)
    return choose(trials, n, k, config)


def for_rebuilding(vectors: Floats, queries: Floats, k: int, config: IndexConfig, report: Report) -> IndexConfig:
    """Settings by which lists are built over and over without tuning each time, while posts come and go.

    What holds for the posts that were tuned with holds less for those of a hundred builds later: half of what may be
    missed is kept in reserve. Arguments as of `tune`; lists also where the catalogue is small or the settings ask for
    another kind, since a live index is rebuilt as it grows.
    """
    reserve = {"kind": "tuned", "exact_below": 0, "target_recall": (1 + config.target_recall) / 2}
    return as_tuned(config, tune(vectors, queries, k, config.model_copy(update=reserve), report).chosen.index)


def as_tuned(config: IndexConfig, tuned: PostIndex) -> IndexConfig:
    """Settings that build lists as these are, of other posts; of an exact index, lists as the settings have them."""
    lists: dict[str, Any] = {"kind": "lists"}
    if isinstance(tuned.segment, InvertedFile):
        lists |= {
            "nlist_factor": tuned.segment.n_lists / math.sqrt(tuned.n_posts),
            "code_bytes": tuned.segment.code_bytes,
            "nprobe_share": tuned.effort.lists / tuned.segment.n_lists,
            "refine_factor": tuned.effort.refine,
        }
    return config.model_copy(update=lists)


def choose(trials: list[Trial], n_posts: int, k: int, config: IndexConfig) -> Tuning:
    """The cheapest that reaches the target: by measured times where all have one, by the model otherwise.

    An exact scan, which must be among them unless the settings ask for lists, is taken whatever its cost where the
    catalogue is small.
    """
    measured = all(trial.p50_ms is not None for trial in trials)

    def cost(trial: Trial) -> float:
        return trial.p50_ms if measured and trial.p50_ms is not None else trial.cost_ms

    if config.kind != "tuned":
        return Tuning(trials, trials[0], f"{trials[0].name}: retrieval.index.kind is {config.kind}")
    how = "measured" if measured else "by the model"
    if _is_small(n_posts, k, config):
        least = max(config.exact_below, k + 1)
        chosen = next(trial for trial in trials if trial.index.is_exact)
        why = (
            f"{n_posts:,} posts are fewer than {least:,} (retrieval.index.exact_below), and a scan of all takes "
            f"{cost(chosen):.2f} ms {how}"
        )
        return Tuning(trials, chosen, f"exact: {why}")
    good = [trial for trial in trials if trial.surely >= config.target_recall]
    chosen = min(good, key=cost)
    return Tuning(
        trials,
        chosen,
        f"{chosen.name}: of {len(trials)} configurations {len(good)} surely find {config.target_recall:.1%} of the "
        f"exact best at every moment, and this is the cheapest of them (finds {chosen.recall:.1%} at the worst, "
        f"{cost(chosen):.3f} ms {how})",
    )


def _is_small(n_posts: int, k: int, config: IndexConfig) -> bool:
    return n_posts < config.exact_below or n_posts <= k


def measure(trial: Trial, queries: Floats, k: int, allowed: Bitmap | None) -> Trial:
    """The same trial with times of single queries through the index."""
    trial.index.search(queries[:3], k, allowed)
    times = []
    for i in range(len(queries)):
        start = time.perf_counter()
        trial.index.search(queries[i : i + 1], k, allowed)
        times.append(time.perf_counter() - start)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return replace(trial, p50_ms=float(p50), p99_ms=float(p99), queries_per_s=len(times) / sum(times))


def _part_of(report: Report, nth: int, parts: int) -> Report:
    """Progress of one of several parts as that of the whole."""
    return lambda done, total: report(nth * total + done, parts * total)


def _coded(posts: Prepared, n_lists: int, max_bytes: float, report: Report) -> Iterator[tuple[InvertedFile, float]]:
    """So many lists with codes of each length that memory allows, and the seconds that both took."""
    start = time.perf_counter()
    lists = InvertedFile.grouped(posts, n_lists, report)
    grouped_s = time.perf_counter() - start
    for code_bytes in CODE_BYTES:
        if code_bytes == CODE_BYTES[0] or lists.n_bytes_with(code_bytes) <= max_bytes * lists.n_posts:
            start = time.perf_counter()
            coded = lists.coded(posts, code_bytes)
            yield coded, grouped_s + time.perf_counter() - start


class _Moments(NamedTuple):
    """Queries of several moments, as many of each, one moment after the other."""

    truth: ExactAnswers
    n: int

    def least(self, recall: Doubles) -> tuple[float, float]:
        """Of each query's recall, (M,): the least mean of a moment, and the least of such means less their errors."""
        of_moment = recall.reshape(self.n, -1)
        mean = of_moment.mean(axis=1)
        error = of_moment.std(axis=1, ddof=1) / math.sqrt(of_moment.shape[1])
        return float(mean.min()), float((mean - SURE * error).min())


def _cheapest(
    vectors: Floats, lists: InvertedFile, built_from: str, refine: float, moments: _Moments, target: float
) -> list[Trial]:
    """Trials on the way to the fewest lists that reach the target; recall grows with their number."""
    numbers = sorted({max(1, round(share * lists.n_lists)) for share in SHARES})
    trials = []
    low, high = 0, len(numbers) - 1
    while low <= high:
        middle = (low + high) // 2
        effort = Effort(numbers[middle], refine)
        trials.append(trial := _tried(vectors, PostIndex(lists, effort, built_from), moments))
        low, high = (low, middle - 1) if trial.surely >= target else (middle + 1, high)
    return trials


def _tried(vectors: Floats, index: PostIndex, moments: _Moments) -> Trial:
    """What these lists find with their effort."""
    lists, effort, truth = index.segment, index.effort, moments.truth
    if not isinstance(lists, InvertedFile):
        raise TypeError(f"only lists are tried, got {index.name}")
    visited = lists.visited(truth.queries, effort)
    cost_ns = _cost_ns(lists.centres.nbytes, lists.n_posts, effort.refine * truth.k, visited, lists.code_bytes)
    # By the lists themselves: the index would visit more where these hold too few posts, at a cost not counted here.
    recall = truth.recall(vectors, lists.search(truth.queries, truth.k, None, effort)[1])
    return Trial(index, *moments.least(recall), cost_ns / 1e6, lists.n_bytes / lists.n_posts)


def _cost_ns(
    centre_bytes: int, n_posts: int = 0, rescored: float = 0.0, lanes: float = 0.0, code_bytes: int = 0
) -> float:
    """Of one search that reads so many lanes; what is left out is a bound from below."""
    per_rescored = _PER_RESCORED + _PER_RESCORED_TENFOLD * math.log10(max(n_posts, 1) / 1e6)
    return (
        _PER_SEARCH
        + _PER_CENTRE_BYTE * centre_bytes
        + (_PER_CODE_BYTE * code_bytes + _PER_LANE) * lanes
        + max(per_rescored, _LEAST_PER_RESCORED) * rescored
    )
