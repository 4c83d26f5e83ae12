"""Every difficulty of the world can be switched off, which moves its statistic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from recsys.config import WorldConfig

from . import effects
from .conftest import Simulated
from .effects import Figure

WORLD = {"n_users": 1000, "n_posts": 4000, "n_authors": 200, "n_impressions": 40_000, "n_days": 7}

RANDOM = {"policy": {"random": 1, "popularity": 0, "personalised": 0}}
"""Only the random policy, so that the choice of posts does not look like an effect."""
PLAIN = RANDOM | {"homophily": 0, "reach": 0, "ageing": 0, "fatigue": 0}
"""Without other causes of who sees what: follows, reach, age and fatigue."""

NOT_EFFECTS = {
    "seed", "start", "n_users", "n_posts", "n_impressions", "n_days", "n_authors", "follows_per_user", "base_logit",
    "changes", "policy",
}  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """A setting, the statistic that shows it, and what that is."""

    setting: str
    statistic: Callable[[Simulated], Figure]
    direction: int
    """+1: the effect makes the statistic larger."""
    without: float | None = None
    """The statistic when the effect is off; None: other effects move it too."""
    given: dict[str, Any] = field(default_factory=dict)
    """Settings of both worlds."""
    off: float = 0

    def __str__(self) -> str:
        return f"{self.setting}-{self.statistic.__name__}"


LABELLED = RANDOM | {"spam_share": 0.1, "violation_share": 0.05}
DRIFTERS = PLAIN | {"n_users": 4000, "n_impressions": 100_000, "activity_tail": 0, "style": 0, "media_rhythm": 0}

EFFECTS = [
    Effect("activity_tail", effects.sessions_of_the_busiest_tenth, +1),
    Effect("reach", effects.impressions_of_the_most_seen_tenth_of_authors, +1),
    Effect("reach", effects.clicks_of_the_most_clicked_tenth_of_authors, +1),
    Effect("spread", effects.impressions_of_the_most_seen_tenth_of_posts, +1, given={"reach": 0}),
    Effect("reach", effects.impressions_of_the_most_seen_tenth_of_posts, +1, given={"spread": 0}),
    Effect("crowding", effects.candidates_clicked_in_the_day_before, +1, given={"reach": 0, "spread": 0}),
    Effect("daily_use", effects.sessions_from_five_to_midnight, +1, without=7 / 24),
    Effect(
        "weekly_use", effects.sessions_and_posts_of_the_weekend, +1, without=2 / 7,
        given={"n_posts": 40_000, "n_impressions": 300_000},
    ),
    Effect("joining_share", effects.users_who_join, +1, without=0),
    Effect("new_post_share", effects.posts_born_in_the_period, +1, without=0),
    Effect("n_languages", effects.languages, +1, without=1, off=1),
    Effect("bot_share", effects.bots, +1, without=0, given={"n_users": 20_000}),
    Effect("missing_topic", effects.posts_without_topic, +1, without=0),
    Effect("missing_country", effects.users_without_country, +1, without=0),
    Effect("duplicate_share", effects.posts_in_the_group_of_another, +1, without=0),
    Effect("edited_share", effects.undeclared_copies, +1, without=0),
    Effect("hidden_share", effects.invisible_posts, +1, without=0, given={"n_posts": 12_000}),
    Effect("spam_share", effects.posts_labelled_spam, +1, without=0),
    Effect("violation_share", effects.posts_labelled_violation, +1, without=0, given={"n_posts": 24_000}),
    Effect("drift", effects.change_of_the_slope_on_the_first_days_taste, -1, without=0, given=DRIFTERS),
    Effect("taste", effects.slope_on_interest, +1, without=0, given=PLAIN),
    Effect("style", effects.slope_on_style, +1, without=0, given=PLAIN),
    Effect("follow_bonus", effects.followed_less_other_authors, +1, without=0, given=PLAIN | {"foreign_language": 0}),
    Effect("foreign_language", effects.unread_less_read_languages, -1, given=PLAIN | {"follow_bonus": 0}),
    Effect("ageing", effects.posts_older_than_a_day_less_younger, -1, given=RANDOM),
    Effect("fatigue", effects.slope_on_earlier_posts_of_the_topic, -1, without=0, given=RANDOM | {"ageing": 0}),
    Effect("author_quality", effects.likeness_of_an_authors_posts, +1, without=0, given={"reach": 0}),
    Effect("post_quality", effects.spread_of_quality_within_an_author, +1, without=0),
    Effect("homophily", effects.love_for_topics_of_followed_authors, +1, without=0),
    Effect("daily_rhythm", effects.slope_on_a_topics_hour, +1, without=0, given=RANDOM),
    Effect("media_rhythm", effects.video_in_the_evening_and_text_in_the_morning, +1, without=0, given=RANDOM),
    Effect("position_bias", effects.clicks_down_the_slate, -1, without=0, given=RANDOM | {"fatigue": 0}),
    Effect("own_ways", effects.spread_of_likes_beyond_relevance, +1, without=0, given={"spam_dislike": 0}),
    Effect("own_ways", effects.spread_of_shares_beyond_relevance, +1, without=0, given={"spam_dislike": 0}),
    Effect("own_ways", effects.spread_of_dwell_beyond_relevance, +1, without=0, given={"spam_dislike": 0}),
    Effect("spam_dislike", effects.relevance_of_labelled_less_other_posts, -1, given=LABELLED),
    Effect("spam_dislike", effects.hides_of_labelled_over_other_posts, +1, given=LABELLED),
    Effect("spam_dislike", effects.dwell_on_labelled_over_other_posts, -1, given=LABELLED),
    Effect("delayed_share", effects.clicks_after_a_minute, +1, without=0, given={"base_logit": -0.5}),
    Effect("late_share", effects.impressions_that_arrive_after_a_minute, +1, without=0),
    Effect("redelivered_share", effects.impressions_that_arrive_again, +1, without=0),
]  # fmt: skip


@pytest.mark.parametrize("effect", EFFECTS, ids=str)
def test_switching_an_effect_off_moves_its_statistic(simulated, effect):
    settings = WORLD | effect.given
    on = effect.statistic(simulated(**settings))
    off = effect.statistic(simulated(**settings | {effect.setting: effect.off}))
    assert effect.direction * (on.value - off.value) > 5 * np.hypot(on.error, off.error), (on, off)
    if effect.without is not None:
        assert abs(off.value - effect.without) <= 4 * off.error + 1e-9, off


def test_every_setting_except_sizes_has_a_statistic():
    assert {effect.setting for effect in EFFECTS} == set(WorldConfig.model_fields) - NOT_EFFECTS
