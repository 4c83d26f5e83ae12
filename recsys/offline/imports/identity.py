"""Numbers for what outside logs call things: ids with a way back, and hashes that name requests and events.

Takes arrays of names or numbers, gives int64 arrays that are the same in every run. It does not know tables or files.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.hashing import hash_text
from recsys.offline.catalogue.ids import to_int64
from recsys.types import Ids, Mask

_DECIMAL = r"^(0|[1-9][0-9]{0,17})$"


class Names:
    """Ids of users and posts by name. Two names of one kind that hash to one number are told apart, never merged."""

    def __init__(self, table: pa.Table) -> None:
        """`table` is the lake's `ids`: what earlier imports called their users and posts."""
        self._taken: dict[str, dict[int, str]] = {"user": {}, "post": {}}
        self._mine: dict[str, dict[int, str]] = {"user": {}, "post": {}}
        for kind, number, name in zip(*(table[column].to_pylist() for column in ("kind", "id", "name")), strict=True):
            self._taken[kind][number] = name

    def numbers(self, kind: str, names: pa.Array) -> tuple[Ids, Mask]:
        """The id of each name, and where another name of this kind already has that id.

        Args:
            kind: `user` or `post`.
            names: strings of 1 to 200 characters, without null, (N,).
        Returns: ids (N,), collisions (N,).
        """
        encoded = names.dictionary_encode()
        unique = encoded.dictionary
        decimal = pc.match_substring_regex(unique, _DECIMAL)
        ids = pc.if_else(decimal, unique, "0").cast(pa.int64()).to_numpy(zero_copy_only=False).copy()
        collided = np.zeros(len(unique), bool)
        for place in np.flatnonzero(~decimal.to_numpy(zero_copy_only=False)):
            name = unique[place].as_py()
            ids[place] = number = to_int64(name)
            taken = self._mine[kind].get(number) or self._taken[kind].get(number)
            if taken is None or taken == name:
                self._mine[kind][number] = name
            else:
                collided[place] = True
        places = encoded.indices.to_numpy()
        return ids[places], collided[places]

    def table(self) -> pa.Table:
        """Rows of `ids` for the names seen here that are not the decimal form of their number, in order of kind, id."""
        rows = [
            (kind, number, name)
            for kind in ("post", "user")
            for number, name in sorted(self._mine[kind].items())
            if str(number) != name
        ]
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        kinds = (pa.string(), pa.int64(), pa.string())
        return pa.table(
            [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)], names=["kind", "id", "name"]
        )


def hash_names(names: pa.Array) -> Ids:
    """A number per string (N,): a decimal one stands for itself, any other gets a hash. Null becomes 0."""
    encoded = names.fill_null("0").dictionary_encode()
    unique = encoded.dictionary
    decimal = pc.match_substring_regex(unique, _DECIMAL)
    ids = pc.if_else(decimal, unique, "0").cast(pa.int64()).to_numpy(zero_copy_only=False).copy()
    for place in np.flatnonzero(~decimal.to_numpy(zero_copy_only=False)):
        ids[place] = -1 - hash_text(unique[place].as_py())
    numbers: Ids = ids[encoded.indices.to_numpy()]
    return numbers
