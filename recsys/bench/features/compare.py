"""The feature benchmark: point-in-time counts, a request's read and the stream, each beside its peers.

Takes a folder to work beside, a scale and the peers' environment, gives the figures of three parts (`point_in_time`,
`online_read`, `stream`). All data is random and made on the spot, no data folder is read. All figures come from one run
on one machine; compare ratios.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from recsys.bench.features.online_read import Rounds, bench_online_read
from recsys.bench.features.point_in_time import bench_point_in_time
from recsys.bench.features.random_log import END, LogSizes, make_catalogue, make_events
from recsys.bench.features.stream import Load, bench_stream
from recsys.bench.own_redis import client_of, own_redis
from recsys.bench.peers import Peers
from recsys.bench.world.simulate import existing_folder
from recsys.features.point_in_time import snapshot
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.progress import Progress

_ROUNDS, _PEER_ROUNDS = 400, 60
_N_THREADS = 2


def bench_features(data_dir: Path, scale: float, peers_folder: Path | None, progress: Progress) -> dict[str, Any]:
    """Run the three parts.

    Args:
        data_dir: temporary data lies in a folder beside it, on the same disk.
        scale: of all sizes and counts; 1 is 20 million events and 5 million queries, a store of 100,000 posts and
            200,000 events on the stream.
        peers_folder: the environment of `make bench-peers`; without it the peers' figures are None.
    Raises: DependencyError when no redis-server can be started.
    """
    peers = Peers(peers_folder, progress)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=existing_folder(data_dir)) as name:
        folder = Path(name)
        (folder / "tables").mkdir()
        with progress.stage("point in time") as report:
            point_in_time = bench_point_in_time(folder / "tables", scale, peers, report)
        sizes = LogSizes.at(scale)
        with progress.stage("catalogue and log"):
            catalogue = make_catalogue(folder / "catalogue", sizes)
            counts = snapshot(catalogue, make_events(sizes), _N_THREADS)
        with own_redis(folder / "read") as own, client_of(own) as client:
            load_snapshot(client, catalogue, counts, own.config, SnapshotReach("", END))
            with progress.stage("online read") as report:
                rounds = Rounds(max(20, round(_ROUNDS * scale)), max(10, round(_PEER_ROUNDS * scale)))
                online_read = bench_online_read(own, client, catalogue, counts, rounds, folder / "feast", peers, report)
        with own_redis(folder / "stream") as own, client_of(own) as client:
            load_snapshot(client, catalogue, counts, own.config, SnapshotReach("", END))
            with progress.stage("stream") as report:
                stream = bench_stream(
                    own, client, catalogue, sizes, Load.at(scale), folder / "stream" / "written", report
                )
    return {"scale": scale, "point_in_time": point_in_time, "online_read_500": online_read, "stream": stream}
