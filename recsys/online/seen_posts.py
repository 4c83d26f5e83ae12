"""Load what users were sent before: the lake's `returned` table into the sets that requests read.

Takes the table, adds to Redis; adding again changes nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import redis

from recsys.config import OnlineConfig
from recsys.online import keys
from recsys.online.connection.commands import send_together
from recsys.online.rows.trending import to_members
from recsys.online.tombstones import read_erased
from recsys.types import Ids, Times

_MEMBERS_AT_ONCE = 5000
"""Posts per transaction, unless one user has more: Redis serves nobody else for the 5 ms that takes."""


def load_returned(client: redis.Redis, returned: pa.Table, config: OnlineConfig) -> None:
    """Store each user's newest `returned_size` posts; for erased people only those sent since.

    A post that was sent more than once gets the last time it was sent; a later time in Redis is kept.

    Args:
        returned: columns user_id, post_id, now.
    Raises: DependencyError when Redis does not answer.
    """
    user, post, time = _newest(returned)
    members = to_members(post)
    users, starts = np.unique(user, return_index=True)
    ends = np.minimum(np.append(starts[1:], len(user)), starts + config.returned_size)
    commands: list[list[object]] = []
    n_members = 0
    for user_id, start, end in zip(users.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if commands and n_members + end - start > _MEMBERS_AT_ONCE:
            send_together(client, commands)
            commands, n_members = [], 0
        n_members += end - start
        name = keys.returned(user_id)
        pairs = zip(time[start:end].tolist(), members[start:end], strict=True)
        commands += [
            ["ZADD", name, "GT", *itertools.chain.from_iterable(pairs)],
            ["ZREMRANGEBYRANK", name, 0, -1 - config.returned_size],
            ["PEXPIRE", name, int(config.ttl_s * 1000)],
        ]
    if commands:
        send_together(client, commands)
    erased = read_erased(client)
    # Read tombstones after writing: an erasure that comes later removes what was written.
    erased_rows = np.flatnonzero(np.isin(erased.user_id, users))
    for first in range(0, len(erased_rows), _MEMBERS_AT_ONCE):
        some = erased_rows[first : first + _MEMBERS_AT_ONCE]
        commands = [
            ["ZREMRANGEBYSCORE", keys.returned(user_id), "-inf", until]
            for user_id, until in zip(erased.user_id[some].tolist(), erased.until[some].tolist(), strict=True)
        ]
        send_together(client, commands)


def _newest(returned: pa.Table) -> tuple[Ids, Ids, Times]:
    """User, post and time of the last time each user was sent each post; by user, newest first."""
    user, post = returned["user_id"].to_numpy(), returned["post_id"].to_numpy()
    time = returned["now"].cast(pa.int64()).to_numpy()
    order = np.lexsort((-time, post, user))
    user, post, time = user[order], post[order], time[order]
    first = np.ones(len(user), bool)
    first[1:] = (user[1:] != user[:-1]) | (post[1:] != post[:-1])
    user, post, time = user[first], post[first], time[first]
    order = np.lexsort((-time, user))
    return user[order], post[order], time[order]
