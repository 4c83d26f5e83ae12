"""The recommender: one request through three stages. Reads top to bottom as the architecture.

Takes a `FeedRequest`, gives a `Slate`. Everything it uses comes from one release and one online store; it writes
nothing and knows neither HTTP nor how models were trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import faiss
import numpy as np

from recsys.config import Config
from recsys.features.assemble import assemble
from recsys.features.inputs import make_inputs
from recsys.features.users import UserBatch
from recsys.online.store import OnlineStore, UserRead
from recsys.ranking.rankers import Rankers
from recsys.release import Release
from recsys.reranking.author_cap import AuthorCap
from recsys.reranking.duplicates import Duplicates
from recsys.reranking.filters import Blocked, NotVisible, ReturnedBefore
from recsys.reranking.mmr import MaximalMarginalRelevance
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.sources.learned import LearnedSources
from recsys.retrieval.towers.inference import Towers
from recsys.types import Candidates, Context, FeedRequest, Filter, Floats, Slate


@dataclass(frozen=True, slots=True)
class ReleaseParts:
    """The loaded parts of one release that answer requests."""

    version: str
    logs_end: int
    """End of the logs that it learned from, microseconds."""
    towers: Towers
    index: PostIndex
    post_vectors: Floats
    """Vectors of the whole catalogue, (N, D)."""
    learned_sources: LearnedSources
    rankers: Rankers


class Recommender:
    """Retrieval, ranking and re-ranking over one release. Immutable; safe to share between threads."""

    def __init__(self, config: Config, store: OnlineStore, parts: ReleaseParts) -> None:
        """`store`: over the release's own catalogue, which is used here too."""
        faiss.omp_set_num_threads(config.serving.n_threads)
        catalogue = store.catalogue
        self.catalogue = catalogue
        self.release_name = parts.version
        self.rankers = parts.rankers
        self._logs_end = parts.logs_end
        self._store = store
        self._click_weight = config.ranking.click_weight
        self._retriever = Retriever(
            catalogue, parts.towers, parts.index, parts.post_vectors, parts.learned_sources, config.retrieval.sources
        )
        self._filters: tuple[Filter, ...] = (NotVisible(catalogue), Blocked(catalogue), ReturnedBefore(catalogue))
        content_vectors = parts.post_vectors[:, : len(parts.towers.post_output_bias)]
        self._rerankers = (
            Duplicates(catalogue),
            AuthorCap(catalogue, config.reranking.max_per_author),
            MaximalMarginalRelevance(content_vectors, config.reranking),
        )

    @classmethod
    def open(cls, config: Config, release: Release, store: OnlineStore) -> Self:
        """Load a release's parts; large arrays are memory-mapped and shared between processes."""
        path = release.path
        parts = ReleaseParts(
            version=release.version,
            logs_end=release.manifest.logs_end,
            towers=Towers.load(path / "towers"),
            index=PostIndex.load(path / "index"),
            post_vectors=np.load(path / "index" / "post_vectors.npy", mmap_mode="r"),
            learned_sources=LearnedSources.load(path / "sources"),
            rankers=Rankers.load(path / "ranking", config.serving.n_threads),
        )
        return cls(config, store, parts)

    def recommend(self, request: FeedRequest) -> Slate:
        """Make a slate of up to `request.limit` posts.

        Raises: DependencyError or DataError when the online store cannot answer.
        """
        context, user = self.understand(request)
        candidates = self.retrieve(context)  # 500 posts at most by default, less what the filters remove
        candidates, watermark = self.rank(context, user, candidates)
        chosen = candidates
        for rerank in self._rerankers:
            chosen = rerank(context, chosen)
        # Re-ranking is deterministic given the recorded candidates, so every choice had probability 1.
        propensity = np.ones(len(chosen), np.float32)
        degraded = tuple(f"source:{name}" for name in candidates.missing_sources)
        return Slate(context, chosen, candidates.post_row, propensity, watermark, degraded)

    def understand(self, request: FeedRequest) -> tuple[Context, UserRead]:
        """Read the user from the catalogue and, in one round trip, from the online store.

        Returns: the request's context; the user's row as read, from which `rank` takes the user's counters.
        """
        row = int(self.catalogue.user_rows([request.user_id])[0])
        language = int(self.catalogue.user_language[row]) if row >= 0 else -1
        country = int(self.catalogue.user_country[row]) if row >= 0 else -1
        user = self._store.read_user(request.user_id, language, request.now)
        if user.erased_at is not None and user.erased_at >= self._logs_end:
            # This user was erased after the logs ended, so the release's data about them must not be used.
            row = language = country = -1
        shown = self.catalogue.post_rows(request.shown.post_ids)
        context = Context(
            request=request,
            user_row=row,
            language=language,
            country=country,
            follows=self.catalogue.follows_of(row),
            blocks=self.catalogue.blocks_of(row),
            history=user.history,
            returned=np.concatenate([user.returned, shown[shown >= 0]]),
            trending=user.trending,
            user_watermark=user.watermark,
        )
        return context, user

    def retrieve(self, context: Context) -> Candidates:
        """Merge the candidates of all sources, then apply the hard filters to all of them."""
        candidates = self._retriever(context, exclude=context.returned)
        for keep_allowed in self._filters:
            candidates = keep_allowed(context, candidates)
        return candidates

    def rank(self, context: Context, user: UserRead, candidates: Candidates) -> tuple[Candidates, str]:
        """Read the candidates' counters in one round trip, then compute features, probabilities and scores.

        Returns: the scored candidates; the stream position that the posts' counters reflect.
        """
        rows = candidates.post_row
        read = self._store.read_counts(context.request.user_id, rows, context.now, user.row)
        request = np.zeros(len(rows), np.int32)  # (C,): every candidate belongs to request 0 of the batch
        users = UserBatch.from_context(context)
        inputs = make_inputs(self.catalogue, users, read.counts, request, rows, candidates.retrieval_score)
        features = assemble(self.catalogue, inputs)  # (C, F)
        probability = self.rankers.probability(features).astype(np.float32) if len(rows) else np.empty(0, np.float32)
        # (C,) both: the score is the weighted probability of a click.
        score = (self._click_weight * probability).astype(np.float32)
        return replace(candidates, features=features, probability=probability, score=score), read.watermark
