"""Settings of everything but the world: stores, models, re-ranking, serving, evaluation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config.section import Section


class OfflineConfig(Section):
    """The Parquet store."""

    url: str | None = None
    """Where the lake lives; empty means `<data_dir>/lake`."""
    impressions: Literal["explicit", "implied"] = "explicit"
    """What counts as exposure: the client's impression events, or everything the server returned. Never both."""
    label_window_s: float = Field(1800.0, gt=0)
    """Seconds after an exposure in which an action still counts as its label."""
    split: tuple[float, float, float, float] = (6.0, 5.0, 1.0, 2.0)
    """Shares of the exposures in order of time, for towers, rankers, calibrators and test, in this order."""
    sampled_negatives: int = Field(4, ge=1)
    """Unclicked posts drawn per click where impressions are fewer than clicks; probabilities then depend on this."""

    @model_validator(mode="after")
    def _shares_are_positive(self) -> Self:
        if min(self.split) <= 0:
            raise ValueError(f"every share of split must be > 0, got {list(self.split)}")
        return self


class OnlineConfig(Section):
    """The Redis store and the event stream."""

    url: str | None = None
    """Redis URL; empty starts (or joins) a redis-server of our own with its data below `data_dir`."""
    history_size: int = Field(50, ge=1)
    """Clicked posts remembered per user."""
    returned_size: int = Field(1000, ge=1)
    """Returned posts remembered per user, to never return them again."""
    timeout_s: float = Field(2.0, ge=1)
    """Seconds after which a command to Redis is given up; the consumer waits half a second for events in one."""
    ttl_s: float = Field(280 * 86_400.0, ge=71 * 86_400.0, le=36_500 * 86_400.0)
    """Lifetime of a row since its last event, up to a day less. Of a count of w weeks ago 2^-w is left, which a shorter
    lifetime loses: nothing to speak of after 40, a thousandth after the ten of the least allowed."""
    dedup_window_s: int = Field(3600, ge=1)
    """Seconds in which a repeated event id is recognised."""
    trending_size: int = Field(1000, ge=1, le=1_000_000)
    """Trending posts kept per language."""
    batch_size: int = Field(500, ge=1)
    """Records the consumer applies at once. Redis answers nobody else meanwhile: some 8 ms for 500 events."""


class FitConfig(Section):
    """How a retrieval model is fitted."""

    epochs: int = Field(8, ge=1)
    """Passes over the examples, at most."""
    patience: int = Field(2, ge=1)
    """Passes without a better model after which fitting stops, where part of the examples is kept to tell."""
    batch_size: int = Field(1024, ge=2)
    """Examples per step; also the in-batch negatives."""
    n_uniform_negatives: int = Field(2048, ge=0)
    """Negatives drawn uniformly from the catalogue, shared by a batch."""
    learning_rate: float = Field(3e-3, gt=0)
    """Adam step size at the start; decays along a cosine."""
    final_rate: float = Field(0.1, gt=0, le=1)
    """Step size at the end, relative to the start."""
    weight_decay: float = Field(0.0, ge=0)
    """Pull towards zero: this part of each weight is added to its gradient; of large tables, of rows that a step
    reads."""
    temperature: float = Field(0.1, gt=0)
    """Divides the cosine in the softmax."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, batches and negatives."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: `auto` takes a CUDA GPU where there is one. Draws are the same on both, rounding is not."""


class TowersConfig(FitConfig):
    """The two-tower model."""

    embedding_size: int = Field(64, ge=4)
    """Length D of the towers' vectors, freshness dimensions included."""
    hidden_size: int = Field(128, ge=4)
    """Width of each tower's hidden layer."""
    n_text_buckets: int = Field(16_384, ge=16)
    """Hash buckets for words, and for pairs of words where they are read."""
    text_ngrams: Literal[1, 2] = 1
    """What the post tower reads of a text: 1 its words, 2 also pairs of neighbouring words, which want more buckets."""
    author_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of author embeddings hidden in training, so that new authors have a useful vector."""
    min_post_clicks: int = Field(20, ge=1)
    """Clicks in training that a post needs for an embedding of its own, beside what it says."""
    post_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of these embeddings hidden in training, so that a post without one has a useful vector."""
    min_user_clicks: int = Field(0, ge=0)
    """Clicks in training that a user needs for an embedding of its own, beside history and attributes; 0 gives none
    one."""
    user_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of these embeddings hidden in training, so that a user without one has a useful vector."""
    held_share: float = Field(0.0, ge=0, lt=0.5)
    """Share of the clicks, the latest, by which the number of passes is found before all are learned from, which takes
    up to twice as long; 0 makes all passes."""
    history_size: int = Field(20, ge=1)
    """Most recent clicks the user tower reads."""
    history: Literal["weighted", "attention"] = "weighted"
    """How clicked posts are weighed: by how many clicks ago alone, or also by what they say."""
    history_cut: float = Field(0.0, ge=0, le=1)
    """Share of the examples whose history is cut to a random number of the newest clicks, so that users of few clicks
    are learned from more often."""


class IdTowersConfig(FitConfig):
    """Towers of ids alone, for logs that say who clicked what and nothing else."""

    epochs: int = Field(12, ge=1)
    """Passes over the clicks, at most."""
    learning_rate: float = Field(0.01, gt=0)
    """Step size at the start; rows of tables that a batch does not touch stand still, so it is larger than others."""
    n_uniform_negatives: int = Field(1024, ge=0)
    """Negatives drawn uniformly from all posts, shared by a batch."""
    embedding_size: int = Field(64, ge=1)
    """Length D of the vectors, a post's popularity apart."""
    user_ids: bool = False
    """Whether a user has a vector of its own beside the history."""
    history_size: int = Field(50, ge=0)
    """Clicks that stand for a user in training; 0 leaves the id alone, which is matrix factorisation."""
    history_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a history that is hidden in training."""

    @model_validator(mode="after")
    def _users_are_known(self) -> Self:
        if not self.user_ids and not self.history_size:
            raise ValueError("towers of ids need user_ids or a history_size above 0, got neither")
        return self


class CovisitationConfig(Section):
    """Posts that are clicked by the same people."""

    n_neighbours: int = Field(300, ge=1)
    """Neighbours kept per post."""
    shrinkage: float = Field(20.0, ge=0)
    """Added to the denominator of the similarity, so that rare posts are not everything's nearest."""


class IndexConfig(Section):
    """The nearest-neighbour index."""

    kind: Literal["tuned", "exact", "lists"] = "tuned"
    """What `recsys train` builds: an exact scan, inverted lists as set below, or what the tuner finds cheapest."""
    exact_below: int = Field(200_000, ge=0)
    """Catalogues smaller than this are searched exactly by the tuner's choice: in two milliseconds, and nothing is
    lost."""
    target_recall: float = Field(0.95, gt=0, lt=1)
    """Share of the exact best that tuned lists must find."""
    max_bytes: float = Field(100.0, gt=0)
    """Memory of tuned lists, bytes a post; lists of the shortest codes are tried whatever they take."""
    n_tuning_queries: int = Field(500, ge=10)
    """Users drawn to shape the lists by and to tune with, half of them for each, all at several moments."""
    nlist_factor: float = Field(4.0, gt=0)
    """Inverted lists per square root of the catalogue size. The tuner tries 1, 2 and 4 itself."""
    code_bytes: Literal[8, 16, 24, 32] = 24
    """Bytes that a search reads of each post in the lists it visits. The tuner tries 16, 24 and 32."""
    nprobe_share: float = Field(0.08, gt=0, le=1)
    """Share of the lists a search visits. The tuner finds its own."""
    refine_factor: float = Field(2.0, ge=1)
    """Posts rescored for each result, by a byte per dimension. The tuner finds its own."""


class SourcesConfig(Section):
    """How many candidates each source may bring."""

    budget: int = Field(500, ge=1)
    """Candidates after the merge."""
    two_tower: int = Field(290, ge=0)
    """Guaranteed places for two-tower candidates; it also fills what others leave."""
    followed: int = Field(100, ge=0)
    """Guaranteed places for the newest posts of followed authors."""
    trending: int = Field(75, ge=0)
    """Guaranteed places for trending posts."""
    fresh: int = Field(25, ge=0)
    """Guaranteed places for posts of the last hours: half of them the newest, half of authors whom few have seen."""
    fresh_window_s: float = Field(6 * 3600.0, gt=0)
    """Age in seconds up to which a post is fresh; older ones have had their impressions."""
    covisited: int = Field(10, ge=0)
    """Guaranteed places for posts clicked by the people who clicked the user's last ones."""
    covisited_neighbours: int = Field(50, ge=1)
    """Neighbours that a release keeps of each post; eight bytes each."""
    covisited_fading: float = Field(0.9, gt=0, le=1)
    """What a click's vote counts relative to that of the click after it."""

    @model_validator(mode="after")
    def _quotas_fit(self) -> Self:
        names = ("two_tower", "followed", "trending", "fresh", "covisited")
        if (places := sum(getattr(self, name) for name in names)) > self.budget:
            raise ValueError(f"{' + '.join(names)} must be <= budget, got {places} > {self.budget}")
        return self


class RetrievalConfig(Section):
    """Millions of posts to about five hundred."""

    towers: TowersConfig = TowersConfig()
    id_towers: IdTowersConfig = IdTowersConfig()
    covisitation: CovisitationConfig = CovisitationConfig()
    index: IndexConfig = IndexConfig()
    sources: SourcesConfig = SourcesConfig()


class RankingConfig(Section):
    """Scores for the candidates."""

    n_trees: int = Field(220, ge=1)
    """LightGBM trees at most; early stopping on the last tenth of the rankers' time may use fewer."""
    n_leaves: int = Field(31, ge=2)
    """Leaves per tree."""
    learning_rate: float = Field(0.06, gt=0)
    """LightGBM shrinkage."""
    min_leaf_rows: int = Field(100, ge=1)
    """Rows a leaf must hold."""
    max_rows: int = Field(2_000_000, ge=100)
    """Training rows at most; the newest are kept."""
    n_threads: int = Field(2, ge=1)
    """Threads in training. Results depend on it in the last bits, so it is a setting, not the machine's count."""
    scaling: Literal["standard", "quantile"] = "standard"
    """How the logistic regression sees numbers: mean 0 and deviation 1, or normal scores of their training rank."""
    min_category_rows: int = Field(20, ge=1)
    """Training rows a category needs for a weight of its own; rarer and unseen ones share one."""
    click_weight: float = Field(1.0, gt=0)
    """Value of one expected click in the final score."""


class RerankingConfig(Section):
    """From scores to a slate."""

    max_per_author: int = Field(2, ge=1)
    """Posts one author may hold in a slate and its pages; relaxed before the slate would come up short."""
    diversity: float = Field(0.15, ge=0, le=1)
    """MMR's weight of difference against score."""
    mmr_pool: int = Field(150, ge=1)
    """Best-scored candidates MMR chooses from."""


class ServingConfig(Section):
    """The HTTP server."""

    host: str = "127.0.0.1"
    """Address to bind. Anything but loopback is refused without an API key."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port; 0 lets the system choose."""
    workers: int = Field(1, ge=1)
    """Server processes."""
    api_key: str | None = None
    """When set, writes need the header `X-API-Key`."""
    cursor_ttl_s: int = Field(3600, ge=1)
    """Lifetime of a cursor."""
    n_threads: int = Field(1, ge=1)
    """Threads one request may use for scoring and search."""
    clock: Literal["auto", "wall", "logs"] = "auto"
    """What time it is: `wall`, or `logs`: their end + what went by, to try old logs; `auto` is `logs` for a world."""


class EvaluationConfig(Section):
    """The report."""

    n_requests: int = Field(2000, ge=10)
    """Requests behind the retrieval and slate figures."""
    n_bootstrap: int = Field(200, ge=20)
    """Bootstrap draws (over users) behind each interval."""
    slate_size: int = Field(20, ge=1)
    """Length of the slates compared with the oracle's."""
    seed: int = Field(0, ge=0)
    """Seed of sampled requests and bootstraps."""
