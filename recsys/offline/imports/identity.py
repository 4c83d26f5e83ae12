"""Identity: numbers for the names in outside logs, and the names for those numbers.

Takes arrays of names, gives int64 arrays that are the same in every run. It does not know tables or files.
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
    """Ids of users and posts by name. Two names of one kind with the same hash are reported, never merged."""

    def __init__(self, table: pa.Table) -> None:
        """`table` is the lake's `ids`: the names recorded by earlier imports."""
        self._recorded: dict[str, dict[int, str]] = {"user": {}, "post": {}}
        self._new: dict[str, dict[int, str]] = {"user": {}, "post": {}}
        for kind, number, name in zip(*(table[column].to_pylist() for column in ("kind", "id", "name")), strict=True):
            self._recorded[kind][number] = name

    def ids_of(self, kind: str, names: pa.Array) -> tuple[Ids, Mask]:
        """Number names, and find collisions: names whose number already belongs to another name of this kind.

        Args:
            kind: `user` or `post`.
            names: strings of 1 to 200 characters, without null, (N,).
        Returns: ids (N,), collisions (N,).
        """
        encoded = names.dictionary_encode()
        unique = encoded.dictionary
        ids, others = _parse_decimals(unique)
        collided = np.zeros(len(unique), bool)
        for place in others:
            name = unique[place].as_py()
            ids[place] = number = to_int64(name)
            taken = self._new[kind].get(number) or self._recorded[kind].get(number)
            if taken is None or taken == name:
                self._new[kind][number] = name
            else:
                collided[place] = True
        places = encoded.indices.to_numpy()
        return ids[places], collided[places]

    def table(self) -> pa.Table:
        """Rows of `ids` for new names that are not decimal numbers themselves, in order of kind and id."""
        rows = [
            (kind, number, name)
            for kind in ("post", "user")
            for number, name in sorted(self._new[kind].items())
            if str(number) != name
        ]
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        kinds = (pa.string(), pa.int64(), pa.string())
        return pa.table(
            [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)], names=["kind", "id", "name"]
        )


def hash_names(names: pa.Array) -> Ids:
    """A number per string, (N,): a decimal string is its own number, any other is hashed; null becomes 0."""
    encoded = names.fill_null("0").dictionary_encode()
    unique = encoded.dictionary
    ids, others = _parse_decimals(unique)
    for place in others:
        ids[place] = -1 - hash_text(unique[place].as_py())
    numbers: Ids = ids[encoded.indices.to_numpy()]
    return numbers


def _parse_decimals(names: pa.Array) -> tuple[Ids, Ids]:
    """Numbers of decimal names, 0 for the others, (N,); and the places of the others."""
    decimal = pc.match_substring_regex(names, _DECIMAL)
    ids = pc.if_else(decimal, names, "0").cast(pa.int64()).to_numpy(zero_copy_only=False).copy()
    return ids, np.flatnonzero(~decimal.to_numpy(zero_copy_only=False))
