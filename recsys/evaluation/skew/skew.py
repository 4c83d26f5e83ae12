"""Training/serving skew: compare the feature vectors a server logged with the same vectors rebuilt from the lake.

Takes a lake with logged requests and the release that answered them; gives figures. Vectors are rebuilt by
`ranking.examples.build_examples`, the function that training uses: if they are equal, serving asks the ranker about the
same numbers it would have learned from. It does not know who made the requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys import release
from recsys.config import Config
from recsys.errors import DataError
from recsys.features.spec import NAMES
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import Events, mentioned_ids, read_events
from recsys.offline.logs.exposures import Exposures
from recsys.offline.logs.stream_position import to_number
from recsys.offline.logs.visibility import parse_watermarks
from recsys.ranking.examples import build_examples
from recsys.retrieval.towers.inference import Towers
from recsys.types import Doubles, Floats

TOLERANCE = 1e-6
"""Largest allowed difference of float32 features, whose float64 counts agree within 1e-12; see `differences`."""


@dataclass(frozen=True)
class Served:
    """Feature vectors as served, and the data to rebuild them from."""

    n_requests: int
    exposures: Exposures
    """All V returned posts, request after request."""
    features: Floats
    """Served feature vectors, (V, F)."""
    events: Events
    """All events of the lake, in order of arrival."""


def catalogue_for(loaded: release.Release, lake: Lake) -> Catalogue:
    """The release's catalogue, plus rows for users it does not know, since the online store counts for them too."""
    return Catalogue.load(loaded.path / "catalogue").with_users(mentioned_ids(lake)[1])


def served(
    lake: Lake, catalogue: Catalogue, config: Config, version: str, n_requests: int, since: str | None = None
) -> Served:
    """The newest requests that this release answered, with their returned posts and features.

    Args:
        catalogue: see `catalogue_for`.
        since: only requests logged after this stream position; None for all.
    Raises: DataError when there is none, or when a vector's length is not F.
    """
    # 1. Requests of the release, their returned posts.
    columns = ["request_id", "user_id", "now", "release", "watermark", "user_watermark"]
    requests = lake.read("requests", columns)
    requests = requests.filter(pc.and_(pc.equal(requests["release"], version), pc.is_valid(requests["watermark"])))
    returned = lake.read("returned", ["request_id", "post_id", "position", "features", "stream_position"])
    if since is not None:
        returned = returned.filter(pc.greater(returned["stream_position"], to_number(since)))
        requests = requests.filter(pc.is_in(requests["request_id"], value_set=pc.unique(returned["request_id"])))
    if not len(requests):
        raise DataError(f"{lake.url} has no request that release {version} answered; serve some feeds first")
    # 2. The newest n requests; their posts in order of request and position.
    requests = requests.sort_by([("now", "descending"), ("request_id", "ascending")]).slice(0, n_requests)
    returned = returned.filter(pc.is_in(returned["request_id"], value_set=requests["request_id"].combine_chunks()))
    if not len(returned):
        raise DataError(
            f"the requests of release {version} in {lake.url} returned no posts: there is nothing to compare"
        )
    returned = returned.sort_by([("request_id", "ascending"), ("position", "ascending")])
    order = pc.sort_indices(requests["request_id"])
    requests = requests.take(order)
    # 3. Each returned post as an exposure that saw the events up to its request's logged positions, (V,).
    of_request = np.searchsorted(requests["request_id"].to_numpy(), returned["request_id"].to_numpy())
    events, arrivals = read_events(lake, catalogue, config.offline)
    now = requests["now"].cast(pa.int64()).to_numpy()[of_request]
    rows = np.zeros(len(of_request), np.int32)
    exposures = Exposures(
        request_id=returned["request_id"].to_numpy(),
        user_row=catalogue.user_rows(requests["user_id"].to_numpy()[of_request]),
        post_row=catalogue.post_rows(returned["post_id"].to_numpy()),
        position=returned["position"].to_numpy().astype(np.int32),
        now=now,
        seen=arrivals.count_seen(now, parse_watermarks(requests["watermark"])[of_request]),
        history_seen=arrivals.count_seen(now, parse_watermarks(requests["user_watermark"])[of_request]),
        shown_at=now,
        policy=rows,
        propensity=np.ones(len(rows), np.float32),
        click=rows > 0,
    )
    return Served(len(requests), exposures, _matrix(returned["features"]), events)


def rebuilt(material: Served, config: Config, loaded: release.Release, catalogue: Catalogue) -> Floats:
    """The same vectors rebuilt from the lake, each from the events up to its request's logged positions, (V, F)."""
    examples = build_examples(
        catalogue,
        material.events,
        material.exposures,
        Towers.load(loaded.path / "towers"),
        np.load(loaded.path / "index" / "post_vectors.npy", mmap_mode="r"),
        config.online.history_size,
        config.ranking.n_threads,
    )
    return examples.features


def differences(one: Floats, other: Floats) -> Doubles:
    """|a - b| / max(1, |a|, |b|), (V, F); 0 if both are missing, infinite if one is.

    The difference is relative only above 1: a similarity near 0, where products cancel, has no significant digit.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    missing = np.isnan(a), np.isnan(b)
    distance = np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1.0)
    return np.where(missing[0] & missing[1], 0.0, np.where(missing[0] | missing[1], np.inf, distance))


def compare(material: Served, other: Floats) -> dict[str, Any]:
    """The report: how many values were compared, and which features differ, with the worst value of each."""
    difference = differences(material.features, other)
    equal_bits = (material.features == other) | (np.isnan(material.features) & np.isnan(other))
    wrong = difference > TOLERANCE
    features = {}
    for column in np.flatnonzero(wrong.any(axis=0)):
        worst = int(np.argmax(difference[:, column]))
        features[NAMES[column]] = {
            "mismatches": int(wrong[:, column].sum()),
            "request_id": str(material.exposures.request_id[worst]),
            "position": int(material.exposures.position[worst]),
            "served": _number(material.features[worst, column]),
            "rebuilt": _number(other[worst, column]),
        }
    largest = float(difference.max(initial=0.0))
    return {
        "requests": material.n_requests,
        "moments": len(np.unique(material.exposures.seen)),
        "values": int(difference.size),
        "mismatches": int(wrong.sum()),
        "max_relative_difference": largest if np.isfinite(largest) else None,
        "tolerance": TOLERANCE,
        "bit_equal_share": round(float(equal_bits.mean()), 6) if equal_bits.size else None,
        "features": features,
    }


def _matrix(lists: pa.ChunkedArray) -> Floats:
    """A column of lists as a matrix, (V, F)."""
    flat = lists.combine_chunks()
    lengths = pc.list_value_length(flat).fill_null(0).to_numpy()
    if (lengths != len(NAMES)).any():
        raise DataError(
            f"returned.features must have {len(NAMES)} values, got {int(lengths[lengths != len(NAMES)][0])}; "
            "they were served with another feature table; serve new feeds with this program"
        )
    return np.asarray(flat.flatten().to_numpy().reshape(len(lists), len(NAMES)))


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)
