"""One user's and 500 posts' counts read through Feast. Words: folder, port of a redis-server on this machine.

The folder has `posts.arrow` and `users.arrow` (id, c0, c1, ...) and `asks.arrow` (user_id, post_id list); the first
answer is left there as `answer.npy`. Everything is written and read through Feast's own interface, with its defaults.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast
import numpy as np
import pyarrow as pa
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64

WARM_UP = 5

folder, port = Path(sys.argv[1]), int(sys.argv[2])


def read_table(name):
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()


posts, users, asks = (read_table(name) for name in ("posts", "users", "asks"))
store = FeatureStore(
    config=RepoConfig(
        project="peers",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "redis", "connection_string": f"127.0.0.1:{port}"},
        entity_key_serialization_version=3,
    )
)


def view(name, table):
    """A feature view of all count columns; its file is never read, values come by `write_to_online_store`."""
    frame = table.rename_columns([name, *(f"{name}_{column}" for column in table.column_names[1:])]).to_pandas()
    frame["event_timestamp"] = datetime.now(UTC)
    path = folder / f"{name}.parquet"
    frame.head(1).to_parquet(path)
    entity = Entity(name=name, join_keys=[name], value_type=ValueType.INT64)
    made = FeatureView(
        name=f"{name}_counts",
        entities=[entity],
        ttl=timedelta(days=365),
        schema=[Field(name=column, dtype=Float64) for column in frame.columns[1:-1]],
        source=FileSource(path=str(path), timestamp_field="event_timestamp"),
        online=True,
    )
    store.apply([entity, made])
    return made.name, frame


start = time.perf_counter()
features = []
for name, table in (("post", posts), ("user", users)):
    view_name, frame = view(name, table)
    for at in range(0, len(frame), 10_000):
        store.write_to_online_store(view_name, frame.iloc[at : at + 10_000])
    features += [f"{view_name}:{column}" for column in frame.columns[1:-1]]
write_s = time.perf_counter() - start

whole, call = [], []
columns = [feature.split(":")[1] for feature in features]
for number, ask in enumerate(asks.to_pylist()):
    rows = [{"post": post, "user": ask["user_id"]} for post in ask["post_id"]]
    start = time.perf_counter()
    answer = store.get_online_features(features=features, entity_rows=rows)
    answered = time.perf_counter()
    values = answer.to_dict()
    whole.append(time.perf_counter() - start)
    call.append(answered - start)
    if number == 0:
        np.save(folder / "answer.npy", np.array([values[column] for column in columns], float).T)


def milliseconds(seconds, percentile):
    return round(float(np.percentile(seconds[WARM_UP:], percentile)) * 1000, 3)


print(
    json.dumps(
        {
            "version": feast.__version__,
            "p50_ms": milliseconds(whole, 50),
            "p99_ms": milliseconds(whole, 99),
            "call_p50_ms": milliseconds(call, 50),
            "rounds": len(whole) - WARM_UP,
            "features": len(features),
            "write_s": round(write_s, 1),
        }
    )
)
