"""Settings of the synthetic world, and of the changes that happen in it on a given day."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from recsys.config.section import Section


class PolicyConfig(Section):
    """The mixture of policies that wrote the world's logs, and the candidates recorded per request."""

    random: float = Field(0.25, ge=0)
    """Share of requests answered uniformly at random from their recorded candidates. It must be positive: unbiased
    figures need such requests."""
    popularity: float = Field(0.25, ge=0)
    """Share of requests answered by clicks so far."""
    personalised: float = Field(0.5, ge=0)
    """Share of requests answered by a noisy guess of the user's taste."""
    n_candidates: int = Field(30, ge=2)
    """Posts recorded as candidates per request."""
    slate_size: int = Field(10, ge=1, le=100)
    """Posts returned per request."""

    @model_validator(mode="after")
    def _mixture_and_sizes(self) -> Self:
        if self.random <= 0 or self.random + self.popularity + self.personalised <= 0:
            raise ValueError(f"random must be > 0, got {self.random}: nothing else can be measured without bias")
        if self.n_candidates < self.slate_size:
            raise ValueError(f"n_candidates must be >= slate_size, got {self.n_candidates} < {self.slate_size}")
        return self


class CovariateShift(Section):
    """Users from a new country join."""

    kind: Literal["covariate_shift"]
    """Names this kind of change."""
    day: int = Field(ge=0)
    """Day of the logs, from 0, on which they join."""
    country: str = Field("BR", min_length=1)
    """Their country, which no user had before."""
    language: Literal["en", "de", "fr", "es"] = "es"
    """The language they read."""
    share: float = Field(0.3, gt=0, lt=1)
    """Their share of all users, which is about their share of the traffic from that day on."""


class ConceptShift(Section):
    """The taste for a topic changes sign: users who liked it dislike it, and the reverse."""

    kind: Literal["concept_shift"]
    """Names this kind of change."""
    day: int = Field(ge=0)
    """Day of the logs, from 0, from which the sign is reversed."""
    topic: str
    """Name of the topic."""


class BrokenFeature(Section):
    """A field of the logs breaks. Behaviour stays the same; only what is written changes."""

    kind: Literal["broken_feature"]
    """Names this kind of change."""
    day: int = Field(ge=0)
    """Day of the logs, from 0, from which broken rows are written."""
    field: Literal[
        "users.country", "users.language", "posts.topic", "posts.language", "posts.media", "posts.text",
        "impressions.position", "actions.value",
    ]  # fmt: skip
    """Table and column that break."""
    how: Literal["missing", "scale"] = "missing"
    """How it breaks: `missing` writes nulls, `scale` writes another unit (only for `actions.value`)."""
    factor: float = Field(1000.0, gt=0)
    """Factor of `scale`. The default turns seconds into milliseconds."""

    @field_validator("how", mode="before")
    @classmethod
    def _null_is_missing(cls, value: Any) -> Any:
        return "missing" if value is None else value  # YAML reads the word null as None

    @model_validator(mode="after")
    def _only_numbers_have_a_unit(self) -> Self:
        if self.how == "scale" and self.field != "actions.value":
            raise ValueError(f"how: scale is for actions.value only, got {self.field}")
        return self


Change = Annotated[CovariateShift | ConceptShift | BrokenFeature, Field(discriminator="kind")]


class WorldConfig(Section):
    """The synthetic world. Sizes are totals over the whole period; every effect can be switched off."""

    seed: int = Field(0, ge=0)
    """Seed of every random draw of the world."""
    n_users: int = Field(20_000, ge=20)
    """Users in total; `joining_share` of them join during the period."""
    n_posts: int = Field(100_000, ge=200)
    """Posts by the end of the period."""
    n_impressions: int = Field(2_000_000, ge=1000)
    """Impressions to write. The world writes at least this many, unless it runs out of posts to fill slates."""
    n_days: int = Field(14, ge=4)
    """Days of logs. The default is two weeks, so that every weekday appears twice."""
    n_authors: int = Field(2_000, ge=10)
    """Users who also write posts."""
    start: str = "2026-01-05"
    """First day, from midnight UTC. It is fixed, so that the same seed gives the same bytes."""

    activity_tail: float = Field(1.1, ge=0)
    """Log-normal sigma of how much users use the feed."""
    joining_share: float = Field(0.1, ge=0, lt=1)
    """Share of users who join during the period."""
    new_post_share: float = Field(0.78, ge=0, le=1)
    """Share of posts born during the period; the others are up to four days older than it."""
    daily_use: float = Field(1.0, ge=0, le=1)
    """Strength of the daily rhythm of reading and writing; 0 is the same at every hour."""
    weekly_use: float = Field(1.0, ge=0, le=1)
    """Strength of the weekly rhythm of reading and writing; 0 is the same on every day."""
    n_languages: int = Field(4, ge=1, le=4)
    """Languages in use, in this order: English, German, French, Spanish."""
    bot_share: float = Field(0.005, ge=0, lt=0.5)
    """Share of users that are bots: they look at everything and click at a fixed rate."""
    reach: float = Field(1.0, ge=0)
    """Strength of the inequality between authors in readers and in productivity; 0 makes them equal."""
    spread: float = Field(1.0, ge=0)
    """Log-normal sigma of how widely a post is offered, beyond its author's reach. A few posts are offered to almost
    everybody."""
    crowding: float = Field(0.1, ge=0, le=0.5)
    """Share of candidates drawn from the last day's clicks, so that clicked posts are shown more often."""
    follows_per_user: float = Field(12.0, gt=0)
    """Mean number of followed authors."""
    homophily: float = Field(1.0, ge=0, le=1)
    """Share of follows chosen by interest and language. The others are chosen by reach alone."""

    missing_topic: float = Field(0.2, ge=0, lt=1)
    """Share of posts whose topic is not recorded."""
    missing_country: float = Field(0.1, ge=0, lt=1)
    """Share of users whose country is not recorded."""
    duplicate_share: float = Field(0.03, ge=0, lt=1)
    """Share of posts that repeat an earlier post's text exactly. The lake says which."""
    edited_share: float = Field(0.03, ge=0, lt=1)
    """Share of posts that repeat an earlier text edited, shortened or in other case. The lake does not say so; only the
    truth does."""
    hidden_share: float = Field(0.01, ge=0, lt=1)
    """Share of posts taken down: never returned and never logged as shown."""
    spam_share: float = Field(0.02, ge=0, lt=0.5)
    """Share of posts that are labelled spam. A few authors write all of it and nothing else."""
    spam_dislike: float = Field(0.8, ge=0)
    """Logit that spam and violations lose. Readers also hide them more often and leave them sooner."""
    violation_share: float = Field(0.005, ge=0, lt=0.5)
    """Share of posts labelled as violations. The label comes after they were shown."""

    base_logit: float = -1.85
    """Log-odds of relevance of an average fresh post. It sets the click rate."""
    taste: float = Field(0.42, ge=0)
    """Strength (logit) of a user's interest in topics."""
    style: float = Field(0.18, ge=0)
    """Strength (logit) of the match between a user and an author's style."""
    author_quality: float = Field(0.2, ge=0)
    """Standard deviation (logit) of author quality."""
    post_quality: float = Field(0.15, ge=0)
    """Standard deviation (logit) of a post's own quality, which no log field reveals."""
    follow_bonus: float = Field(0.3, ge=0)
    """Logit added for a followed author."""
    foreign_language: float = Field(0.6, ge=0)
    """Logit subtracted when the user does not read the post's language."""
    ageing: float = Field(1.7, ge=0)
    """Logit a post loses with age. Half of it is lost within the topic's own half-life, between 1.5 hours and 3
    days."""
    daily_rhythm: float = Field(0.5, ge=0)
    """Logit amplitude of the hours at which each topic is preferred."""
    media_rhythm: float = Field(0.55, ge=0)
    """Logit amplitude of the hours at which each medium is preferred: text in the morning, video in the evening."""
    drift: float = Field(0.3, ge=0, le=1)
    """Share of each user's taste that moves to other topics during the period."""
    fatigue: float = Field(0.3, ge=0)
    """Logit subtracted per earlier post on the same topic in the session, beyond the first."""
    position_bias: float = Field(0.4, ge=0)
    """Exponent of examination: P(examined at k) = (1 + k) ** -position_bias."""
    own_ways: float = Field(1.0, ge=0)
    """Strength of the tastes in liking, sharing and dwelling that are independent of clicking."""

    delayed_share: float = Field(0.03, ge=0, lt=1)
    """Share of clicks that come minutes to hours after the impression, as from an open tab or a notification."""
    late_share: float = Field(0.01, ge=0, lt=1)
    """Share of events that arrive minutes to hours late."""
    redelivered_share: float = Field(0.005, ge=0, lt=1)
    """Share of impressions whose events the client sends twice, under the same event ids."""
    changes: tuple[Change, ...] = ()
    """Changes that start on a given day: `covariate_shift`, `concept_shift`, `broken_feature`."""
    policy: PolicyConfig = PolicyConfig()

    @field_validator("start", mode="before")
    @classmethod
    def _start_is_a_day(cls, value: Any) -> Any:
        if isinstance(value, date):  # YAML reads an unquoted date as a date
            return value.isoformat()
        try:
            return date.fromisoformat(value).isoformat()
        except (TypeError, ValueError):
            raise ValueError("must be a date such as 2026-01-05") from None

    @model_validator(mode="after")
    def _changes_lie_within_the_period(self) -> Self:
        for change in self.changes:
            if change.day >= self.n_days:
                raise ValueError(f"the day of a change must be < n_days ({self.n_days}), got {change.day}")
        return self
