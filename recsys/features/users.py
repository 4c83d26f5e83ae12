"""Users at the moment of their requests: attributes, follows and click history, for one request or many.

Built from a `Context` in serving, and from catalogue rows and rebuilt histories in training and evaluation. The user
tower and the feature matrix read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.types import Context, Ids, Rows, Times


@dataclass(frozen=True, slots=True)
class UserBatch:
    """B users at B moments. A wholly unknown user (row, language and country -1, empty history) is valid."""

    user_row: Rows
    """Row in the catalogue, (B,), -1 unknown."""
    history: Rows
    """Clicked posts, newest first, -1 padded, (B, L)."""
    language: Rows
    """(B,), -1 unknown."""
    country: Rows
    """(B,), -1 unknown."""
    follows_start: Ids
    """User b follows the authors `follows[follows_start[b]:follows_start[b + 1]]`, (B + 1,)."""
    follows: Rows
    """Author rows, ascending within a user."""
    now: Times
    """Moment of the request, microseconds, (B,)."""

    def __len__(self) -> int:
        return len(self.language)

    @classmethod
    def from_context(cls, context: Context) -> Self:
        """The user of one request, B = 1."""
        return cls(
            user_row=np.array([context.user_row], np.int32),
            history=context.history[None, :],
            language=np.array([context.language], np.int32),
            country=np.array([context.country], np.int32),
            follows_start=np.array([0, len(context.follows)], np.int64),
            follows=context.follows,
            now=np.array([context.now], np.int64),
        )

    @classmethod
    def from_rows(cls, catalogue: Catalogue, user_row: Rows, history: Rows, now: Times) -> Self:
        """B users of the catalogue; row -1 is an unknown user.

        Args:
            history: newest first, -1 padded, (B, L); see `histories.histories_at`.
        """
        known = user_row >= 0
        row = np.where(known, user_row, 0).astype(np.int64)
        if not catalogue.n_users:
            unknown = np.full(len(user_row), -1, np.int32)
            return cls(unknown, history, unknown, unknown, np.zeros(len(row) + 1, np.int64), np.empty(0, np.int32), now)
        # Copy each user's follows from the catalogue's list into one list, user after user.
        first = catalogue.follows_start[row]  # (B,)
        length = np.where(known, catalogue.follows_start[row + 1] - first, 0)
        start = np.concatenate([[0], np.cumsum(length)])  # (B + 1,)
        place = np.arange(start[-1]) - np.repeat(start[:-1] - first, length)  # where each follow is in the catalogue
        return cls(
            user_row=np.asarray(user_row, np.int32),
            history=history,
            language=np.where(known, catalogue.user_language[row], -1).astype(np.int32),
            country=np.where(known, catalogue.user_country[row], -1).astype(np.int32),
            follows_start=start,
            follows=np.asarray(catalogue.follows[place]),
            now=now,
        )

    def part(self, start: int, end: int) -> Self:
        """The users `start` to `end - 1`."""
        low, high = self.follows_start[[start, min(end, len(self))]]
        rows = {name: getattr(self, name)[start:end] for name in ("user_row", "history", "language", "country", "now")}
        follows_start = self.follows_start[start : end + 1] - low
        return type(self)(**rows, follows_start=follows_start, follows=self.follows[low:high])
