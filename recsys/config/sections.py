"""Settings of the stages: offline store, online store, retrieval, ranking, re-ranking, serving, evaluation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from recsys.config.section import Section


class OfflineConfig(Section):
    """The Parquet lake, and how its logs become labels and shares of time."""

    url: str | None = None
    """Folder or object-store URL of the lake. Empty means `<data_dir>/lake`."""
    impressions: Literal["explicit", "implied"] = "explicit"
    """What counts as an exposure: `explicit` takes the client's impression events, `implied` takes every returned post.
    Never both, which would count each exposure twice."""
    label_window_s: float = Field(1800.0, gt=0)
    """Seconds after an exposure in which an action still counts as its label. A longer window catches more delayed
    clicks, but drops more exposures at the cuts of the time split."""
    split: tuple[float, float, float, float] = (6.0, 5.0, 1.0, 2.0)
    """Shares of the exposures in order of time, for the towers, rankers, calibrators and test, in this order. The
    default reads as days of a two-week log."""
    sampled_negatives: int = Field(4, ge=1)
    """Posts drawn as negatives per click, for logs with fewer impressions than clicks. Predicted probabilities depend
    on this number, since it sets the base rate."""

    @model_validator(mode="after")
    def _shares_are_positive(self) -> Self:
        if min(self.split) <= 0:
            raise ValueError(f"every share of split must be > 0, got {list(self.split)}")
        return self


class OnlineConfig(Section):
    """The Redis store, the event stream and its consumer."""

    url: str | None = None
    """Redis URL. Empty starts (or joins) a local redis-server that keeps its data below `data_dir`."""
    history_size: int = Field(50, ge=1)
    """Clicked posts kept per user, newest first. Both towers and features read this history."""
    returned_size: int = Field(1000, ge=1)
    """Returned posts remembered per user, so that they are not returned again. The default is fifty slates of 20."""
    timeout_s: float = Field(2.0, ge=1)
    """Seconds before a Redis command fails. At least 1, because the consumer's blocking read waits half a second for
    events."""
    ttl_s: float = Field(280 * 86_400.0, ge=71 * 86_400.0, le=36_500 * 86_400.0)
    """Seconds a row lives after its last event, or up to a day less. After w weeks 2^-w of a weekly count is
    left, so the default of 40 weeks loses nothing visible and the minimum of ten weeks a thousandth."""
    dedup_window_s: int = Field(3600, ge=1)
    """Seconds in which a repeated event id is recognised and dropped. An hour covers a client's retries; later repeats
    count again online and are dropped in the batch build."""
    trending_size: int = Field(1000, ge=1, le=1_000_000)
    """Trending posts kept per language. It must exceed what the trending source asks for, since some of them are
    filtered out."""
    batch_size: int = Field(500, ge=1)
    """Stream records the consumer applies in one write. Redis serves no other client during a write: about 8 ms for 500
    events, 35 ms for 2,000."""


class FitConfig(Section):
    """How a retrieval model is trained."""

    epochs: int = Field(8, ge=1)
    """Passes over the training examples, at most."""
    patience: int = Field(2, ge=1)
    """Passes without improvement on held-back examples before training stops. Unused when no examples are held back."""
    batch_size: int = Field(1024, ge=2)
    """Examples per step. The other clicks of a batch are its in-batch negatives, so a larger batch also means more
    negatives."""
    n_uniform_negatives: int = Field(2048, ge=0)
    """Negatives drawn uniformly from the catalogue and shared by a batch. They cover posts that in-batch negatives,
    drawn by popularity, miss."""
    learning_rate: float = Field(3e-3, gt=0)
    """Adam step size at the start. It decays along a cosine to `final_rate` of this."""
    final_rate: float = Field(0.1, gt=0, le=1)
    """Step size at the end, relative to the start."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty, added to the gradient; in large tables only for the rows a step reads. Off by default."""
    temperature: float = Field(0.1, gt=0)
    """Divides the cosine in the softmax: lower is sharper. On a million posts 0.07 and 0.14 gave the same recall within
    noise."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, batches and negatives."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: `auto` uses a CUDA GPU if there is one. Random draws are the same on both; rounding differs."""


class TowersConfig(FitConfig):
    """The two-tower model."""

    embedding_size: int = Field(64, ge=4)
    """Length D of the user and post vectors, including the dimensions for freshness."""
    hidden_size: int = Field(128, ge=4)
    """Width of the hidden layer of each tower."""
    n_text_buckets: int = Field(16_384, ge=16)
    """Hash buckets for words (and word pairs, if they are read). More buckets mean fewer collisions and a larger
    table."""
    text_ngrams: Literal[1, 2] = 1
    """What the post tower reads of a text: 1 for words, 2 for words and pairs of neighbouring words. Pairs need more
    buckets, and on the made-up texts they lower recall."""
    author_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of author embeddings hidden during training, so that posts of new authors get a useful vector."""
    min_post_clicks: int = Field(20, ge=1)
    """Training clicks a post needs for an embedding of its own, in addition to its content. With fewer than 20 it would
    be mostly noise."""
    post_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of post embeddings hidden during training, so that posts without one get a useful vector from their
    content."""
    min_user_clicks: int = Field(0, ge=0)
    """Training clicks a user needs for an embedding of its own, in addition to history and attributes. 0, the default,
    gives no user one: with 20, recall did not improve."""
    user_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of user embeddings hidden during training, so that users without one get a useful vector."""
    held_share: float = Field(0.0, ge=0, lt=0.5)
    """Share of the clicks, the latest, held back to choose the number of passes before training on all clicks. This
    takes up to twice as long; 0 makes all `epochs`."""
    history_size: int = Field(20, ge=1)
    """Clicks the user tower reads, newest first."""
    history: Literal["weighted", "attention"] = "weighted"
    """How clicked posts are weighted: `weighted` by recency alone, `attention` also by content. Attention gained
    nothing on the demo world."""
    history_cut: float = Field(0.0, ge=0, le=1)
    """Share of examples whose history is cut to a random length, so that training sees more users with few clicks. Off
    by default: it did not change recall on the demo world."""


class IdTowersConfig(FitConfig):
    """Towers that read ids only, for logs that say who clicked what and nothing else."""

    epochs: int = Field(12, ge=1)
    """Passes over the clicks, at most."""
    learning_rate: float = Field(0.01, gt=0)
    """Adam step size at the start. It is larger than for the two towers, because a step moves only the table rows its
    batch reads."""
    n_uniform_negatives: int = Field(1024, ge=0)
    """Negatives drawn uniformly from all posts and shared by a batch."""
    embedding_size: int = Field(64, ge=1)
    """Length D of the vectors, not counting the popularity dimension."""
    user_ids: bool = False
    """Whether a user has an id embedding in addition to the history. Off by default: on Gowalla it gained nothing."""
    history_size: int = Field(50, ge=0)
    """Clicks that represent a user in training. 0 uses the id alone, which is matrix factorisation."""
    history_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each history hidden during training, as regularisation."""

    @model_validator(mode="after")
    def _users_are_known(self) -> Self:
        if not self.user_ids and not self.history_size:
            raise ValueError("towers of ids need user_ids or a history_size above 0, got neither")
        return self


class CovisitationConfig(Section):
    """Posts that were clicked by the same users."""

    n_neighbours: int = Field(300, ge=1)
    """Neighbours kept per post while fitting. A release keeps `retrieval.sources.covisited_neighbours` of them."""
    shrinkage: float = Field(20.0, ge=0)
    """Added to the denominator of the cosine, so that posts with few clicks do not become everybody's nearest
    neighbour."""


class IndexConfig(Section):
    """The nearest-neighbour index."""

    kind: Literal["auto", "exact", "faiss", "fast_lists"] = "auto"
    """What `recsys train` builds: an exact scan, FAISS's inverted lists, or the compiled lists of
    `retrieval/index/fast_lists`. `auto` scans below `exact_below` posts and takes FAISS above."""
    exact_below: int = Field(200_000, ge=0)
    """Posts below which `auto` scans all: two milliseconds, and nothing is lost."""
    target_recall: float = Field(0.95, gt=0, lt=1)
    """Share of the exact best that a tuned index must find at four ages: new, one day, five days, and very old."""
    tuned: bool = True
    """Whether the tuner finds the number of lists, how many are visited and how many posts are rescored. Off: the
    numbers below are taken as they are."""
    n_tuning_queries: int = Field(500, ge=10)
    """Users drawn to tune with, at several moments each; half of them shape the lists, half measure recall."""
    factory: str | None = Field(None, pattern=r"^IVF[1-9]\d*,")
    """FAISS's factory string, as `IVF2000,PQ64x4fsr,RFlat`; the tuner still finds how many lists to visit. Empty: 4-bit
    codes and half-precision floats, with the number of lists that the tuner finds."""
    max_bytes: float = Field(100.0, gt=0)
    """Memory of tuned fast lists, bytes a post; FAISS's take about 170. The shortest codes are always tried."""
    nlist_factor: float = Field(4.0, gt=0)
    """Inverted lists per square root of the number of posts, where they are not tuned. The tuner tries 1, 2 and 4."""
    nprobe_share: float = Field(0.08, gt=0, le=1)
    """Share of the lists that a search visits, where it is not tuned."""
    refine_factor: float = Field(2.0, ge=1)
    """Posts rescored for each result, where it is not tuned."""
    code_bytes: Literal[8, 16, 24, 32] = 24
    """Bytes of each post that a search of fast lists reads, where it is not tuned. The tuner tries 16, 24 and 32."""

    @field_validator("kind", mode="before")
    @classmethod
    def _kind_has_a_new_name(cls, kind: object) -> object:
        renamed = {"tuned": "auto", "lists": "fast_lists, with tuned: false"}
        if isinstance(kind, str) and kind in renamed:
            raise ValueError(f"{kind} is now called {renamed[kind]}")
        return kind


class SourcesConfig(Section):
    """How many candidates each source may bring."""

    budget: int = Field(500, ge=1)
    """Candidates after the merge. Ranking 500 takes about 1.2 ms on one thread."""
    two_tower: int = Field(290, ge=0)
    """Places reserved for the two towers, the strongest source. They also fill the places that other sources leave
    empty."""
    followed: int = Field(100, ge=0)
    """Places reserved for the newest posts of followed authors."""
    trending: int = Field(75, ge=0)
    """Places reserved for trending posts."""
    fresh: int = Field(25, ge=0)
    """Places reserved for fresh posts: half for the newest, half for those of authors with few impressions."""
    fresh_window_s: float = Field(6 * 3600.0, gt=0)
    """Age in seconds up to which a post is fresh. After six hours most posts have had their impressions."""
    covisited: int = Field(10, ge=0)
    """Places reserved for posts clicked by users who share the user's last clicks. Few by default: alone this source
    finds about 2% of the clicks."""
    covisited_neighbours: int = Field(50, ge=1)
    """Neighbours a release keeps per post, eight bytes each."""
    covisited_fading: float = Field(0.9, gt=0, le=1)
    """Weight of a click's vote relative to the next newer click's. With 0.9 the seventh click counts about half."""

    @model_validator(mode="after")
    def _quotas_fit(self) -> Self:
        names = ("two_tower", "followed", "trending", "fresh", "covisited")
        if (places := sum(getattr(self, name) for name in names)) > self.budget:
            raise ValueError(f"{' + '.join(names)} must be <= budget, got {places} > {self.budget}")
        return self


class RetrievalConfig(Section):
    """From millions of posts to about 500 candidates."""

    towers: TowersConfig = TowersConfig()
    id_towers: IdTowersConfig = IdTowersConfig()
    covisitation: CovisitationConfig = CovisitationConfig()
    index: IndexConfig = IndexConfig()
    sources: SourcesConfig = SourcesConfig()


class RankingConfig(Section):
    """Scores for the candidates."""

    n_trees: int = Field(220, ge=1)
    """LightGBM trees, at most. Early stopping on the newest tenth of the training rows may use fewer."""
    n_leaves: int = Field(31, ge=2)
    """Leaves per tree, LightGBM's own default."""
    learning_rate: float = Field(0.06, gt=0)
    """LightGBM shrinkage per tree."""
    min_leaf_rows: int = Field(100, ge=1)
    """Training rows a leaf must contain. At a click rate of 5% a leaf of 100 has about five clicks."""
    max_rows: int = Field(2_000_000, ge=100)
    """Training rows, at most; the newest are kept. This bounds memory and time."""
    n_threads: int = Field(2, ge=1)
    """Training threads. The result depends on it in the last bits, so it is a setting and not the number of cores."""
    scaling: Literal["standard", "quantile"] = "standard"
    """How the logistic regression scales numbers: `standard` to mean 0 and deviation 1, `quantile` to normal scores.
    Most columns are logarithms already, so `standard` did better."""
    min_category_rows: int = Field(20, ge=1)
    """Training rows a category needs for a weight of its own. Rarer and unseen categories share one weight."""
    click_weight: float = Field(1.0, gt=0)
    """Value of one expected click in the final score."""


class RerankingConfig(Section):
    """From scores to a slate."""

    max_per_author: int = Field(2, ge=1)
    """Posts per author in a slate and its earlier pages. The cap is raised if the slate would come up short."""
    diversity: float = Field(0.15, ge=0, le=1)
    """MMR's weight of dissimilarity against the score, 0 to 1. The default costs about 1% of the true clicks."""
    mmr_pool: int = Field(150, ge=1)
    """Candidates MMR chooses from, the best by score. 150 keeps it at about 0.1 ms."""


class ServingConfig(Section):
    """The HTTP server."""

    host: str = "127.0.0.1"
    """Address to bind. An address other than loopback requires `api_key`."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port. 0 lets the system choose one."""
    workers: int = Field(1, ge=1)
    """Server processes. They share one port, Redis and event consumer."""
    api_key: str | None = None
    """Secret that writes must send in the header `X-API-Key`. Empty requires none."""
    cursor_ttl_s: int = Field(3600, ge=1)
    """Seconds a paging cursor stays valid. An hour is longer than a session."""
    n_threads: int = Field(1, ge=1)
    """Threads one request may use for scoring and search. One by default, since requests run side by side."""
    clock: Literal["auto", "wall", "logs"] = "auto"
    """Which time the server uses: `wall` time, or `logs`, the end of the logs plus the time since the start, to try old
    logs. `auto` is `logs` for a synthetic world and `wall` otherwise."""


class EvaluationConfig(Section):
    """The offline report."""

    n_requests: int = Field(2000, ge=10)
    """Requests behind the retrieval figures, and users behind the slate figures. 2,000 give a recall interval of about
    0.02 to each side."""
    n_bootstrap: int = Field(200, ge=20)
    """Bootstrap draws of users behind each interval."""
    slate_size: int = Field(20, ge=1)
    """Posts per slate in the slate report."""
    seed: int = Field(0, ge=0)
    """Seed of the sampled requests and the bootstrap."""
