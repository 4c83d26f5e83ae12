"""Describe posts in a lake and build its catalogue."""

from collections.abc import Sequence

import numpy as np
import pytest

from recsys.offline.catalogue.build import build_catalogue


@pytest.fixture
def posts(put):
    """`posts({id: {column: value}})` describes posts; by default author 1, time 0, visible."""

    def write(described, **where):
        columns = (
            "author_id", "topic", "language", "media", "text", "created_at", "duplicate_group", "visible", "labels",
        )  # fmt: skip
        default = {"author_id": 1, "created_at": 0, "visible": True}
        rows = {name: [{**default, **post}.get(name) for post in described.values()] for name in columns}
        put("posts", post_id=list(described), **rows, **where)

    return write


def build(lake, posts: Sequence[int] = (), users: Sequence[int] = ()):
    return build_catalogue(lake, np.array(posts, np.int64), np.array(users, np.int64))
