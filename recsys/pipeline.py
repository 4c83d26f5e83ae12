"""The recommender: one request through three stages. Reads top to bottom as the architecture.

Takes a `FeedRequest`, gives a `Slate`. Everything it uses comes from one release and one online store; it writes
nothing and knows neither HTTP nor how models were trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import faiss
import numpy as np

from recsys.config import Config
from recsys.features.assemble import assemble
from recsys.features.inputs import make_inputs
from recsys.features.users import UserBatch
from recsys.offline.catalogue.catalogue import Catalogue
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


class Recommender:
    """Retrieval, ranking, re-ranking over one release. Holds nothing that changes; safe to share between threads."""

    def __init__(
        self, config: Config, release_name: str, logs_end: int, store: OnlineStore, catalogue: Catalogue,
        towers: Towers, index: PostIndex, post_vectors: Floats, learned: LearnedSources, rankers: Rankers,
    ) -> None:  # fmt: skip
        faiss.omp_set_num_threads(config.serving.n_threads)
        self.catalogue = catalogue
        self.release_name = release_name
        self._logs_end = logs_end
        self._store = store
        self.rankers = rankers
        self._click_weight = config.ranking.click_weight
        self._retriever = Retriever(catalogue, towers, index, post_vectors, learned, config.retrieval.sources)
        self._filters: tuple[Filter, ...] = (NotVisible(catalogue), Blocked(catalogue), ReturnedBefore(catalogue))
        content_vectors = post_vectors[:, : len(towers.post_output_bias)]
        self._rerankers = (
            Duplicates(catalogue),
            AuthorCap(catalogue, config.reranking.max_per_author),
            MaximalMarginalRelevance(content_vectors, config.reranking),
        )

    @classmethod
    def open(cls, config: Config, release: Release, store: OnlineStore) -> Self:
        """Load a release's parts; large arrays are memory-mapped and shared between processes.

        Args:
            store: over the release's own catalogue, which is used here too.
        """
        path = release.path
        return cls(
            config,
            release.version,
            release.manifest.logs_end,
            store,
            store.catalogue,
            Towers.load(path / "towers"),
            PostIndex.load(path / "index"),
            np.load(path / "index" / "post_vectors.npy", mmap_mode="r"),
            LearnedSources.load(path / "sources"),
            Rankers.load(path / "ranking", config.serving.n_threads),
        )

    def recommend(self, request: FeedRequest) -> Slate:
        """A slate of up to `request.limit` posts.

        Raises: DependencyError or DataError when the online store cannot answer.
        """
        context, user = self.understand(request)
        candidates = self.retrieve(context)
        candidates, watermark = self.rank(context, user, candidates)
        chosen = candidates
        for rerank in self._rerankers:
            chosen = rerank(context, chosen)
        # The choice is deterministic given the recorded candidates: each post stands where it had to.
        propensity = np.ones(len(chosen), np.float32)
        degraded = tuple(f"source:{name}" for name in candidates.missing_sources)
        return Slate(context, chosen, candidates.post_row, propensity, watermark, degraded)

    def understand(self, request: FeedRequest) -> tuple[Context, UserRead]:
        """Read the user from the catalogue and the online store: one round trip.

        Returns: the request's context, and the user's row as read, which `rank` takes its counters from.
        """
        row = int(self.catalogue.user_rows([request.user_id])[0])
        language = int(self.catalogue.user_language[row]) if row >= 0 else -1
        country = int(self.catalogue.user_country[row]) if row >= 0 else -1
        user = self._store.read_user(request.user_id, language, request.now)
        if user.erased_at is not None and user.erased_at >= self._logs_end:
            # What this release knows is of the person who asked to be forgotten.
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
        """All sources merged, then the hard filters, so that no source escapes them."""
        candidates = self._retriever(context, exclude=context.returned)
        for keep_allowed in self._filters:
            candidates = keep_allowed(context, candidates)
        return candidates

    def rank(self, context: Context, user: UserRead, candidates: Candidates) -> tuple[Candidates, str]:
        """Read the candidates' counters (one round trip), make features, probabilities and scores.

        Returns: the scored candidates, and the stream position that the posts' counters reflect.
        """
        rows = candidates.post_row
        read = self._store.read_counts(context.request.user_id, rows, context.now, user.row)
        request = np.zeros(len(rows), np.int32)  # all candidates belong to the one request
        users = UserBatch.from_context(context)
        inputs = make_inputs(self.catalogue, users, read.counts, request, rows, candidates.retrieval_score)
        features = assemble(self.catalogue, inputs)  # (C, F)
        probability = self.rankers.probability(features).astype(np.float32) if len(rows) else np.empty(0, np.float32)
        score = (self._click_weight * probability).astype(np.float32)
        return replace(candidates, features=features, probability=probability, score=score), read.watermark
