"""Read the logs of a world together with the truth: one row per impression.

Takes a world, its lake and its truth tables, gives columns. An event id contains request, position and kind, so actions
find their impression without a join. Events delivered twice count once; late events count. It does not know what is
computed from the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.lookup import lookup
from recsys.offline.lake.lake import Lake
from recsys.types import Floats, Ids, Mask, Rows, Times
from recsys.world.behaviour.policies import POLICIES, RANDOM
from recsys.world.world import World
from recsys.world.writing.events import DWELL, EVENTS_PER_POSITION

_PROBABILITIES = {
    "examination": "examination", "relevance": "relevance", "click": "click_probability", "like": "like_probability",
    "share": "share_probability", "hide": "hide_probability", "dwell_s": "dwell_s",
}  # fmt: skip
"""Field of `Evidence` to column of the truth tables."""


@dataclass(frozen=True)
class Evidence:
    """I impressions in order of request and position, and their R requests."""

    dates: tuple[str, ...]
    """Days that were read, oldest first."""
    n_left_out: int
    """Impressions of later days, not read."""
    n_repeated: int
    """Rows of impressions and actions that repeat an event id."""
    request: Rows
    """Row among the requests, ascending, (I,)."""
    position: np.ndarray
    post: Rows
    """Row in the population."""
    n_same_topic: np.ndarray
    """Earlier posts on the same topic in the session."""
    examination: Floats
    """True probabilities from here to `hide`; `dwell_s` is the true mean of seconds after a click."""
    relevance: Floats
    click: Floats
    like: Floats
    share: Floats
    hide: Floats
    dwell_s: Floats
    done: np.ndarray
    """Bit k is set when the action of row k in ACTION_TYPES was logged, uint8."""
    dwelt: Floats
    """Logged seconds, NaN without a dwell."""
    now: Times
    """Of each request, (R,), as are all below."""
    user: Rows
    """Row in the population."""
    policy: Rows
    """Row of POLICIES."""
    session: Ids

    @property
    def random(self) -> Mask:
        """Whether the random policy showed it, (I,)."""
        is_random: Mask = self.policy[self.request] == RANDOM
        return is_random

    def has_action(self, kind: int) -> Mask:
        """Whether the action of this row in ACTION_TYPES was logged, (I,)."""
        return (self.done >> kind & 1).astype(bool)


def read_evidence(
    world: World, lake: Lake, truth_folder: Path, n_impressions: int, progress: Callable[[int, int], None]
) -> Evidence:
    """Read the oldest whole days with at most `n_impressions` impressions in total, at least the first day.

    The oldest, because drift is measured from the first day.

    Raises: DataError when the truth is missing or was written by an earlier version.
    """
    sizes: dict[str, list[Path]] = {}
    for path in sorted((truth_folder / "impressions").glob("*.parquet")):
        sizes.setdefault(path.name[:10], []).append(path)
    if not sizes:
        raise DataError(f"no truth in {truth_folder}; run `recsys simulate` to make a world")
    rows = {date: sum(pq.read_metadata(path).num_rows for path in paths) for date, paths in sizes.items()}
    total = np.cumsum(list(rows.values()))
    dates = [date for date, so_far in zip(rows, total.tolist(), strict=True) if so_far <= n_impressions] or [*rows][:1]
    days, n_requests = [], 0
    for done, date in enumerate(dates):
        days.append(_read_day(world, lake, sizes[date], date, n_requests))
        n_requests += len(days[-1]["now"])
        progress(done + 1, len(dates))
    columns = {name: np.concatenate([day.pop(name) for day in days]) for name in [*days[0]] if name != "n_repeated"}
    return Evidence(
        dates=tuple(dates),
        n_left_out=int(sum(rows.values()) - sum(rows[date] for date in dates)),
        n_repeated=sum(day["n_repeated"] for day in days),
        **columns,
    )


def _read_day(world: World, lake: Lake, truth_paths: list[Path], date: str, first_request: int) -> dict[str, Any]:
    """The columns of `Evidence` for one day.

    Args:
        first_request: requests of all days before.
    """
    # 1. Truth: one row per impression, in order of its key, (I,).
    truth = _read(truth_paths, ["request_id", "position", "post_id", "n_same_topic", *_PROBABILITIES.values()])
    width = np.int64(world.config.policy.slate_size)
    key = truth["request_id"].to_numpy() * width + truth["position"].to_numpy()
    if (np.diff(key) <= 0).any():  # files are ordered by name, so part 10 comes before part 2
        order = np.argsort(key, kind="stable")
        truth, key = truth.take(pa.array(order)), key[order]
    # 2. Logs: which of these impressions were logged, and which actions, as bits, (I,).
    place, n_twice = _places(lake, "impressions", date, key)
    on_screen = np.zeros(len(key), bool)
    on_screen[place] = True
    kind, at, values, n_again = _actions(lake, date, key)
    done, dwelt = np.zeros(len(key), np.uint8), np.full(len(key), np.nan, np.float32)
    for row in range(DWELL + 1):
        done[at[kind == row]] |= np.uint8(1 << row)
    dwelt[at[kind == DWELL]] = values[kind == DWELL]
    truth, done, dwelt = truth.filter(pa.array(on_screen)), done[on_screen], dwelt[on_screen]
    # 3. Requests of the logged impressions, (R,).
    requests = _read_lake(lake, "requests", date, ["request_id", "user_id", "now", "policy", "session_id"])
    asked = np.unique(truth["request_id"].to_numpy())
    requests = requests.filter(pa.array(lookup(asked, requests["request_id"].to_numpy()) >= 0)).sort_by("request_id")
    return {
        "request": first_request + lookup(requests["request_id"].to_numpy(), truth["request_id"].to_numpy()),
        "position": truth["position"].to_numpy(),
        "post": world.post_rows(truth["post_id"].to_numpy()),
        "n_same_topic": truth["n_same_topic"].to_numpy(),
        **{name: truth[column].to_numpy() for name, column in _PROBABILITIES.items()},
        "done": done,
        "dwelt": dwelt,
        "now": requests["now"].cast(pa.int64()).to_numpy(),
        "user": lookup(world.population.users.id, requests["user_id"].to_numpy()),
        "policy": pc.index_in(requests["policy"], value_set=pa.array(POLICIES)).fill_null(-1).to_numpy(),
        "session": requests["session_id"].to_numpy(),
        "n_repeated": n_twice + n_again,
    }


def _places(lake: Lake, table: str, date: str, key: Ids) -> tuple[Rows, int]:
    """Truth rows of the events of a day, without repeats; and the number of repeated events."""
    events = _read_lake(lake, table, date, ["event_id"])["event_id"].to_numpy()
    place = lookup(key, events // EVENTS_PER_POSITION)
    place = place[place >= 0]
    once = np.unique(place)
    return once, len(place) - len(once)


def _actions(lake: Lake, date: str, key: Ids) -> tuple[np.ndarray, Rows, Floats, int]:
    """Of each action of a day: row of ACTION_TYPES, truth row, value; and the number of repeated actions."""
    rows = _read_lake(lake, "actions", date, ["event_id", "value"])
    events, first = np.unique(rows["event_id"].to_numpy(), return_index=True)
    values = rows["value"].to_numpy(zero_copy_only=False).astype(np.float32)[first]
    place = lookup(key, events // EVENTS_PER_POSITION)
    known = place >= 0  # a live server over this world logs under other ids
    return (events % EVENTS_PER_POSITION - 1)[known], place[known], values[known], len(rows) - len(events)


def _read_lake(lake: Lake, table: str, date: str, columns: list[str]) -> pa.Table:
    """These columns of a lake table on one date."""
    paths = [path for path in lake.files(table) if f"/{table}/date={date}/" in path]
    return _read(paths, columns, lake.filesystem)


def _read(paths: list[Any], columns: list[str], filesystem: Any = None) -> pa.Table:
    """Read these columns of Parquet files. Raises: DataError when one cannot be read or lacks a column."""
    try:
        tables = [pq.read_table(path, columns=columns, filesystem=filesystem, partitioning=None) for path in paths]
        return pa.concat_tables([table.select(columns) for table in tables])
    except (pa.ArrowException, KeyError) as error:
        raise DataError(
            f"the world's tables cannot be read: {error}; an earlier version may have written them; "
            "run `recsys simulate` again"
        ) from None
