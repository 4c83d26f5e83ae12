"""What users were sent before, as a batch: the lake's `returned` table into the sets that requests read.

Takes the table, adds to Redis; adding again changes nothing. It does not know who sent it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import redis

from recsys.config import OnlineConfig
from recsys.online import keys
from recsys.online.commands import send_together
from recsys.online.erased import read_erased
from recsys.online.trending import to_members

_USERS_AT_ONCE = 1000


def load_returned(client: redis.Redis, returned: pa.Table, config: OnlineConfig) -> None:
    """Remember each user's newest `returned_size` posts, of erased people only those sent since.

    Args:
        returned: columns user_id, post_id, now.
    Raises: DependencyError when Redis does not answer.
    """
    user, post = returned["user_id"].to_numpy(), returned["post_id"].to_numpy()
    time = returned["now"].cast(pa.int64()).to_numpy()
    order = np.lexsort((-time, user))
    user, time, members = user[order], time[order].tolist(), to_members(post[order])
    users, starts = np.unique(user, return_index=True)
    ends = np.append(starts[1:], len(user))
    for first in range(0, len(users), _USERS_AT_ONCE):
        commands: list[list[object]] = []
        some = slice(first, first + _USERS_AT_ONCE)
        for user_id, start, end in zip(users[some].tolist(), starts[some].tolist(), ends[some].tolist(), strict=True):
            name, end = keys.returned(user_id), min(end, start + config.returned_size)
            scored: list[object] = []
            for row in range(start, end):
                scored += (time[row], members[row])
            commands += [
                ["ZADD", name, *scored],
                ["ZREMRANGEBYRANK", name, 0, -1 - config.returned_size],
                ["PEXPIRE", name, int(config.ttl_s * 1000)],
            ]
        send_together(client, commands)
    erased = read_erased(client)
    # After writing: an erasure that this does not see yet removes what was written itself.
    gone = np.flatnonzero(np.isin(erased.user_id, users))
    commands = [
        ["ZREMRANGEBYSCORE", keys.returned(user_id), "-inf", until]
        for user_id, until in zip(erased.user_id[gone].tolist(), erased.until[gone].tolist(), strict=True)
    ]
    if commands:
        send_together(client, commands)
