"""One frozen tree of settings: defaults here, differences in a YAML file, overrides from the command line.

Takes a file and `key.path=value` overrides, gives a `Config`. A wrong setting is refused with the file, the line,
the key, the rule and the value. A component receives its own subsection only; it never sees this tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recsys.errors import ConfigError

DEFAULT_PATH = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OfflineConfig(Section):
    """The Parquet store."""

    url: str | None = None
    """Where the lake lives; empty means `<data_dir>/lake`."""
    impressions: Literal["explicit", "implied"] = "explicit"
    """What counts as exposure: the client's impression events, or everything the server returned. Never both."""
    label_window_s: float = Field(1800.0, gt=0)
    """Seconds after an exposure in which an action still counts as its label."""
    split: tuple[float, float, float, float] = (6.0, 5.0, 1.0, 2.0)
    """Shares of the logged time span for towers, rankers, calibrators and test, in this order."""

    @model_validator(mode="after")
    def _shares_are_positive(self) -> Self:
        if min(self.split) <= 0:
            raise ValueError(f"every share of split must be > 0, got {list(self.split)}")
        return self


class PolicyConfig(Section):
    """The mixture of policies that wrote the world's logs, and the candidates each request recorded."""

    random: float = Field(0.25, ge=0)
    """Share of requests served uniformly at random from their recorded candidates."""
    popularity: float = Field(0.25, ge=0)
    """Share of requests served by clicks so far."""
    personalised: float = Field(0.5, ge=0)
    """Share of requests served by a noisy guess of the user's taste."""
    n_candidates: int = Field(30, ge=2)
    """Posts recorded as candidates of one request."""
    slate_size: int = Field(10, ge=1)
    """Posts returned to one request."""

    @model_validator(mode="after")
    def _mixture_and_sizes(self) -> Self:
        if self.random <= 0 or self.random + self.popularity + self.personalised <= 0:
            raise ValueError(f"random must be > 0, got {self.random}: nothing else can be measured without bias")
        if self.n_candidates < self.slate_size:
            raise ValueError(f"n_candidates must be >= slate_size, got {self.n_candidates} < {self.slate_size}")
        return self


class WorldConfig(Section):
    """The synthetic world. Sizes are totals over the whole period."""

    seed: int = Field(0, ge=0)
    """Seed of everything the world draws."""
    n_users: int = Field(20_000, ge=20)
    """Users; a tenth of them join during the period."""
    n_posts: int = Field(100_000, ge=200)
    """Posts by the end of the period."""
    n_impressions: int = Field(2_000_000, ge=1000)
    """Impressions to write at least."""
    n_days: int = Field(14, ge=4)
    """Days of logs."""
    n_authors: int = Field(2_000, ge=10)
    """Users who also write."""
    start: str = "2026-01-05"
    """First day (UTC midnight). A fixed date, so that the same seed gives the same bytes."""
    follows_per_user: float = Field(12.0, gt=0)
    """Mean number of followed authors."""
    activity_tail: float = Field(1.1, gt=0)
    """Log-normal sigma of how much users use the feed."""
    missing_topic: float = Field(0.2, ge=0, lt=1)
    """Share of posts whose topic is not recorded."""
    missing_country: float = Field(0.1, ge=0, lt=1)
    """Share of users whose country is not recorded."""
    duplicate_share: float = Field(0.03, ge=0, lt=1)
    """Share of posts that repeat an earlier post's text."""
    hidden_share: float = Field(0.01, ge=0, lt=1)
    """Share of posts taken down: logged nowhere, never to be shown."""
    base_logit: float = -1.85
    """Log-odds of relevance of an average fresh post; sets the click rate."""
    taste: float = Field(0.42, ge=0)
    """Strength (logit) of a user's love for topics."""
    style: float = Field(0.18, ge=0)
    """Strength (logit) of the match between a user and an author's manner."""
    author_quality: float = Field(0.2, ge=0)
    """Standard deviation (logit) of author quality."""
    post_quality: float = Field(0.15, ge=0)
    """Standard deviation (logit) of a post's own appeal, known to nobody beforehand."""
    follow_bonus: float = Field(0.3, ge=0)
    """Logit added for a followed author."""
    foreign_language: float = Field(0.6, ge=0)
    """Logit taken away when the user does not read the post's language."""
    ageing: float = Field(1.7, ge=0)
    """Logit an old post has lost; half of it is gone at its topic's own pace, between 1.5 hours and 3 days."""
    daily_rhythm: float = Field(0.5, ge=0)
    """Logit amplitude of topics' hours of the day."""
    media_rhythm: float = Field(0.55, ge=0)
    """Logit amplitude of media's hours of the day: reading in the morning, watching in the evening."""
    drift: float = Field(0.3, ge=0, le=1)
    """Share of each user's taste that moves to other topics over the period."""
    fatigue: float = Field(0.3, ge=0)
    """Logit taken away per earlier post on the same topic in the session, beyond the first."""
    position_bias: float = Field(0.4, ge=0)
    """Exponent of examination: P(examined at k) = (1 + k) ** -position_bias."""
    late_share: float = Field(0.01, ge=0, lt=1)
    """Share of events that arrive minutes to hours late."""
    redelivered_share: float = Field(0.005, ge=0, lt=1)
    """Share of actions delivered twice under the same event id."""
    policy: PolicyConfig = PolicyConfig()

    @field_validator("start", mode="before")
    @classmethod
    def _start_is_a_day(cls, value: Any) -> Any:
        if isinstance(value, date):  # what YAML makes of it without quotes
            return value.isoformat()
        try:
            date.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValueError("must be a date such as 2026-01-05") from None
        return value


class OnlineConfig(Section):
    """The Redis store and the event stream."""

    url: str | None = None
    """Redis URL; empty starts (or joins) a redis-server of our own with its data below `data_dir`."""
    history_size: int = Field(50, ge=1)
    """Clicked posts remembered per user."""
    returned_size: int = Field(1000, ge=1)
    """Returned posts remembered per user, to never return them again."""
    ttl_s: float = Field(70 * 86_400.0, gt=0)
    """Lifetime of a row since its last event; at least ten of the longest half-life (a week)."""
    dedup_window_s: int = Field(3600, ge=1)
    """Seconds in which a repeated event id is recognised."""
    trending_size: int = Field(1000, ge=1)
    """Trending posts kept per language."""
    batch_size: int = Field(2000, ge=1)
    """Events the consumer applies at once."""


class TowersConfig(Section):
    """The two-tower model."""

    embedding_size: int = Field(64, ge=4)
    """Length D of the towers' vectors, freshness dimensions included."""
    hidden_size: int = Field(128, ge=4)
    """Width of each tower's hidden layer."""
    epochs: int = Field(8, ge=1)
    """Passes over the clicks of the towers' share of time."""
    batch_size: int = Field(1024, ge=2)
    """Clicks per step; also the in-batch negatives."""
    n_uniform_negatives: int = Field(2048, ge=0)
    """Negatives drawn uniformly from the catalogue, shared by a batch."""
    learning_rate: float = Field(3e-3, gt=0)
    """Adam step size at the start; decays to a tenth along a cosine."""
    temperature: float = Field(0.1, gt=0)
    """Divides the cosine in the softmax."""
    n_text_buckets: int = Field(16_384, ge=16)
    """Hash buckets for words."""
    author_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of author embeddings hidden in training, so that new authors have a useful vector."""
    history_size: int = Field(20, ge=1)
    """Most recent clicks the user tower reads."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, batches and negatives."""


class IndexConfig(Section):
    """The nearest-neighbour index."""

    exact_below: int = Field(200_000, ge=0)
    """Catalogues smaller than this are searched exactly."""
    nlist_factor: float = Field(4.0, gt=0)
    """Inverted lists per square root of the catalogue size."""
    nprobe_share: float = Field(0.03, gt=0, le=1)
    """Share of the lists a search visits."""


class SourcesConfig(Section):
    """How many candidates each source may bring."""

    budget: int = Field(500, ge=1)
    """Candidates after the merge."""
    two_tower: int = Field(350, ge=0)
    """Guaranteed places for two-tower candidates; it also fills what others leave."""
    followed: int = Field(100, ge=0)
    """Guaranteed places for the newest posts of followed authors."""
    trending: int = Field(50, ge=0)
    """Guaranteed places for trending posts."""

    @model_validator(mode="after")
    def _quotas_fit(self) -> Self:
        if (places := self.two_tower + self.followed + self.trending) > self.budget:
            raise ValueError(f"two_tower + followed + trending must be <= budget, got {places} > {self.budget}")
        return self


class RetrievalConfig(Section):
    """Millions of posts to about five hundred."""

    towers: TowersConfig = TowersConfig()
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


class Config(Section):
    """Everything that can be set."""

    data_dir: Path = Path("data")
    """Folder for all generated data; relative paths start at the working directory."""
    releases_dir: Path | None = None
    """Folder of releases; empty means `<data_dir>/releases`."""
    offline: OfflineConfig = OfflineConfig()
    world: WorldConfig = WorldConfig()
    online: OnlineConfig = OnlineConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    ranking: RankingConfig = RankingConfig()
    reranking: RerankingConfig = RerankingConfig()
    serving: ServingConfig = ServingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def lake_url(self) -> str:
        return self.offline.url or str(self.data_dir / "lake")

    @property
    def releases_path(self) -> Path:
        return self.releases_dir or self.data_dir / "releases"

    @property
    def world_path(self) -> Path:
        """Truth and the world's own notes: outside the lake, out of reach of training."""
        return self.data_dir / "world"


def load(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply `key.path=value` overrides, validate.

    Args:
        path: YAML file; None takes `configs/demo.yaml`.
        overrides: settings such as `world.n_users=300`; values are read as YAML.
    Raises: ConfigError with file, line, key, rule and value of everything that is wrong.
    """
    path = Path(path) if path is not None else DEFAULT_PATH
    tree, lines = _read_yaml(path)
    origin: dict[tuple[str, ...], str] = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        keys, value = _parse_override(override)
        _assign(tree, keys, value, override)
        for depth in range(1, len(keys) + 1):
            origin.setdefault(keys[:depth], f"--set {override}")
        origin[keys] = f"--set {override}"
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, origin, path) for item in error.errors())) from None


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error}; pass an existing file to --config"
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split()).replace('"<unicode string>"', str(path))
        raise ConfigError(f"configuration file {path} is not valid YAML: {reason}") from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"configuration file {path} must hold a mapping of settings, got {type(tree).__name__}")
    lines: dict[tuple[str, ...], int] = {}
    _collect_lines(node, (), lines, path)
    return tree, lines


def _collect_lines(
    node: yaml.MappingNode, prefix: tuple[str, ...], lines: dict[tuple[str, ...], int], path: Path
) -> None:
    for key_node, value_node in node.value:
        key = (*prefix, str(key_node.value))
        line = key_node.start_mark.line + 1
        if key in lines:
            raise ConfigError(f"{'.'.join(key)} is set twice ({path}:{lines[key]} and {path}:{line}); keep one")
        lines[key] = line
        if isinstance(value_node, yaml.MappingNode):
            _collect_lines(value_node, key, lines, path)


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    key, separator, value = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not separator or not all(keys):
        raise ConfigError(f"--set takes key.path=value, got {override!r}")
    try:
        return keys, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):  # also dates that no calendar has
        return keys, value


def _assign(tree: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{'.'.join(keys[: depth + 1])} is a value, not a section (--set {override})")
        tree = below
    tree[keys[-1]] = value


def _explain(item: Mapping[str, Any], origin: Mapping[tuple[str, ...], str], path: Path) -> str:
    keys = tuple(str(part) for part in item["loc"])
    where = next((origin[keys[:depth]] for depth in range(len(keys), 0, -1) if keys[:depth] in origin), str(path))
    name = ".".join(keys)
    if item["type"] == "extra_forbidden":
        return f"{name} is not a known setting ({where}); `recsys show-config` lists them all"
    rule = item["msg"].removeprefix("Value error, ")
    if item["type"] == "model_type":
        rule = "Input should be a section of settings"
    rule = rule.replace("Input should be", "must be", 1)
    rule = rule if rule.startswith("must be") else f"breaks a rule: {rule}"
    rule = rule.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    rule = rule.replace("greater than", ">").replace("less than", "<")
    value = "" if isinstance(item["input"], (dict, BaseModel)) else f", got {item['input']!r}"
    return f"{name or 'configuration'} {rule}{value} ({where})"
