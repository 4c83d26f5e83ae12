"""Settings of the synthetic world, and what changes in it on a given day."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from recsys.config.section import Section


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
    slate_size: int = Field(10, ge=1, le=100)
    """Posts returned to one request."""

    @model_validator(mode="after")
    def _mixture_and_sizes(self) -> Self:
        if self.random <= 0 or self.random + self.popularity + self.personalised <= 0:
            raise ValueError(f"random must be > 0, got {self.random}: nothing else can be measured without bias")
        if self.n_candidates < self.slate_size:
            raise ValueError(f"n_candidates must be >= slate_size, got {self.n_candidates} < {self.slate_size}")
        return self


class CovariateShift(Section):
    """Users of a new country flood in."""

    kind: Literal["covariate_shift"]
    """Names this kind of change."""
    day: int = Field(ge=0)
    """Day of the logs, from 0, on which they come."""
    country: str = Field("BR", min_length=1)
    """Where they come from; nobody did before."""
    language: Literal["en", "de", "fr", "es"] = "es"
    """What they read."""
    share: float = Field(0.3, gt=0, lt=1)
    """Of all users; about their share of the traffic from that day on."""


class ConceptShift(Section):
    """A topic's appeal flips: who loved it turns away, who ignored it comes."""

    kind: Literal["concept_shift"]
    """Names this kind of change."""
    day: int = Field(ge=0)
    """Day of the logs, from 0, from which the taste for the topic has the other sign."""
    topic: str
    """Name of the topic."""


class BrokenFeature(Section):
    """A field of the logs breaks: the world goes on as before, what is written about it does not."""

    kind: Literal["broken_feature"]
    """Names this kind of change."""
    day: int = Field(ge=0)
    """Day of the logs, from 0, from which rows are written broken."""
    field: Literal[
        "users.country", "users.language", "posts.topic", "posts.language", "posts.media", "posts.text",
        "impressions.position", "actions.value",
    ]  # fmt: skip
    """Table and column."""
    how: Literal["missing", "scale"] = "missing"
    """Gone (null), or in another unit; only `actions.value` has one."""
    factor: float = Field(1000.0, gt=0)
    """What `scale` multiplies by: seconds become milliseconds."""

    @field_validator("how", mode="before")
    @classmethod
    def _null_is_missing(cls, value: Any) -> Any:
        return "missing" if value is None else value  # what YAML makes of the word null

    @model_validator(mode="after")
    def _only_numbers_have_a_unit(self) -> Self:
        if self.how == "scale" and self.field != "actions.value":
            raise ValueError(f"how: scale is for actions.value only, got {self.field}")
        return self


Change = Annotated[CovariateShift | ConceptShift | BrokenFeature, Field(discriminator="kind")]


class WorldConfig(Section):
    """The synthetic world. Sizes are totals over the whole period; every effect can be switched off."""

    seed: int = Field(0, ge=0)
    """Seed of everything the world draws."""
    n_users: int = Field(20_000, ge=20)
    """Users; `joining_share` of them join during the period."""
    n_posts: int = Field(100_000, ge=200)
    """Posts by the end of the period."""
    n_impressions: int = Field(2_000_000, ge=1000)
    """Impressions to write: at least as many, as long as there are posts enough to fill the slates."""
    n_days: int = Field(14, ge=4)
    """Days of logs."""
    n_authors: int = Field(2_000, ge=10)
    """Users who also write."""
    start: str = "2026-01-05"
    """First day (UTC midnight). A fixed date, so that the same seed gives the same bytes."""

    activity_tail: float = Field(1.1, ge=0)
    """Log-normal sigma of how much users use the feed."""
    joining_share: float = Field(0.1, ge=0, lt=1)
    """Share of users who join during the period."""
    new_post_share: float = Field(0.78, ge=0, le=1)
    """Share of posts born during the period; the others are up to four days older than it."""
    daily_use: float = Field(1.0, ge=0, le=1)
    """How much the hour of the day matters for when people read and write; 0 is round the clock."""
    weekly_use: float = Field(1.0, ge=0, le=1)
    """How much the day of the week matters for when people read and write."""
    n_languages: int = Field(4, ge=1, le=4)
    """Languages spoken: English, German, French, Spanish, in this order."""
    bot_share: float = Field(0.005, ge=0, lt=0.5)
    """Share of users that are programs: they look at everything and click at one rate, whatever it is."""
    reach: float = Field(1.0, ge=0)
    """Strength of the inequality between authors in readers and productivity; 0 makes them equal."""
    spread: float = Field(1.0, ge=0)
    """Log-normal sigma of how far posts travel, beyond their author's reach: a few are offered to everybody."""
    crowding: float = Field(0.1, ge=0, le=0.5)
    """Share of candidates that come from the last day's clicks, more clicked posts more often: the rich get richer."""
    follows_per_user: float = Field(12.0, gt=0)
    """Mean number of followed authors."""
    homophily: float = Field(1.0, ge=0, le=1)
    """Share of follows that go by interest and language; the others go to anyone, by reach."""

    missing_topic: float = Field(0.2, ge=0, lt=1)
    """Share of posts whose topic is not recorded."""
    missing_country: float = Field(0.1, ge=0, lt=1)
    """Share of users whose country is not recorded."""
    duplicate_share: float = Field(0.03, ge=0, lt=1)
    """Share of posts that repeat an earlier post's text to the letter; the lake says so."""
    edited_share: float = Field(0.03, ge=0, lt=1)
    """Share of posts that repeat an earlier text edited, cut short or in other case; only the truth knows."""
    hidden_share: float = Field(0.01, ge=0, lt=1)
    """Share of posts taken down: logged nowhere, never to be shown."""
    spam_share: float = Field(0.02, ge=0, lt=0.5)
    """Share of posts that are spam, by a few authors who write nothing else; labelled."""
    spam_dislike: float = Field(0.8, ge=0)
    """Logit that spam and violations lose; readers also hide them more and leave them sooner."""
    violation_share: float = Field(0.005, ge=0, lt=0.5)
    """Share of posts that break the rules; labelled, shown before anyone noticed."""

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
    own_ways: float = Field(1.0, ge=0)
    """How much liking, sharing and dwelling follow tastes of their own, apart from what draws clicks."""

    delayed_share: float = Field(0.03, ge=0, lt=1)
    """Share of clicks that come minutes to hours after the post was on screen: an open tab, a notification."""
    late_share: float = Field(0.01, ge=0, lt=1)
    """Share of events that arrive minutes to hours late."""
    redelivered_share: float = Field(0.005, ge=0, lt=1)
    """Share of shown posts whose events the client sends twice, under the same event ids."""
    changes: tuple[Change, ...] = ()
    """What changes from a given day on: `covariate_shift`, `concept_shift`, `broken_feature`."""
    policy: PolicyConfig = PolicyConfig()

    @field_validator("start", mode="before")
    @classmethod
    def _start_is_a_day(cls, value: Any) -> Any:
        if isinstance(value, date):  # what YAML makes of it without quotes
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
