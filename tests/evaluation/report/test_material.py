import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recsys import release
from recsys.errors import DataError, ReleaseError
from recsys.evaluation.report.material import gather
from recsys.offline.lake.lake import Lake
from recsys.types import HOUR, SECOND

TIME = pa.timestamp("us", "UTC")


def stream_in(config, now, *, user_id=-123, post_id=-456) -> None:
    """Write to the lake what one feed with one shown and clicked post leaves; an unknown post by default."""
    lake = Lake(config.lake_url)
    ids = {"request_id": [-5], "user_id": [user_id]}
    shown = {**ids, "post_id": [post_id], "event_time": pa.array([now + SECOND], TIME)}
    shown["ingest_time"] = shown["event_time"]
    lake.write("requests", pa.table({**ids, "now": pa.array([now], TIME), "policy": ["full"]}), "2026-02-01", "stream")
    lake.write("impressions", pa.table({**shown, "event_id": [-6], "position": [0]}), "2026-02-01", "stream")
    lake.write("actions", pa.table({**shown, "event_id": [-7], "type": ["click"]}), "2026-02-01", "stream")


def replace_manifest(config, **metrics):
    """The material of a copy of the current release that claims other metrics."""
    loaded = release.load(config.releases_path)
    with release.staging(config.releases_path) as folder:
        for path in loaded.path.iterdir():
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
        manifest = loaded.manifest
        made = release.publish(
            folder,
            config=manifest.config,
            metrics={**manifest.metrics, **metrics},
            logs_end=manifest.logs_end,
            world=True,
        )
    release.use(config.releases_path, made.version)
    return gather(config)


def test_the_test_share_is_the_last_and_has_all_policies(material):
    test = material.test()
    assert test.now.min() >= material.split.bounds("test")[0]
    assert test.now.max() < material.logs_end
    shown_by = {material.logs.policies[row] for row in test.policy.tolist()}
    assert shown_by == {"random", "popularity", "personalised"}


def test_recall_uses_clicks_of_the_random_policy(material):
    clicks = material.random_test_clicks()
    assert len(clicks) > 5
    assert clicks.click.all()
    assert {material.logs.policies[row] for row in clicks.policy.tolist()} == {"random"}


def test_requests_after_the_worlds_end_do_not_change_its_report(copied_world, material):
    before = gather(copied_world)
    stream_in(copied_world, material.logs_end + HOUR)
    grown = gather(copied_world)
    assert len(grown.logs.exposures) == len(before.logs.exposures) + 1
    assert grown.test().request_id.tolist() == before.test().request_id.tolist()
    assert len(grown.logs.events) == len(before.logs.events)


def test_requests_after_the_worlds_end_are_left_out_even_after_retraining(copied_world, material):
    catalogue = material.catalogue
    known = {"user_id": int(catalogue.user_id[3]), "post_id": int(catalogue.post_id[5])}
    stream_in(copied_world, material.logs_end + HOUR, **known)
    trained = replace_manifest(copied_world, cuts=[*material.split.cuts[:4], material.logs_end + 2 * HOUR])
    test = trained.test()
    assert test.now.max() < material.logs_end
    true, _ = trained.world.true_click_probability(test.request_id, test.position)
    assert len(true) == len(test)
    assert -5 not in test.request_id
    assert -5 in replace(trained, world=None).test().request_id


def test_made_up_requests_inside_the_test_share_are_left_out(copied_world, material):
    stream_in(copied_world, material.logs_end - HOUR)
    assert len(gather(copied_world).test()) == len(material.test())


def test_logs_that_the_release_does_not_know_are_refused_with_the_remedy(copied_world, material):
    lake = Lake(copied_world.lake_url)
    stream_in(copied_world, lake.info()["logs_end"] - HOUR)
    lake.finish({**lake.info(), "origin": "elsewhere"})
    with pytest.raises(DataError, match=r"has 1 exposures .* run `recsys train` again"):
        gather(copied_world)


def test_a_release_that_does_not_say_how_time_was_split_is_refused(copied_world):
    with pytest.raises(ReleaseError, match=r"how time was split; run `recsys train` again"):
        replace_manifest(copied_world, cuts=None)


def test_a_missing_release_names_training_as_the_remedy(copied_world):
    shutil.rmtree(copied_world.releases_path)
    with pytest.raises(ReleaseError, match="recsys train"):
        gather(copied_world)


def test_a_world_without_its_truth_is_refused_with_the_remedy(copied_world):
    shutil.rmtree(copied_world.world_path)
    with pytest.raises(DataError, match="recsys simulate"):
        gather(copied_world)


def test_imported_logs_have_no_world(copied_world):
    Lake(copied_world.lake_url).finish({})
    shutil.rmtree(copied_world.world_path)
    elsewhere = gather(copied_world)
    assert elsewhere.world is None
    assert elsewhere.release.version == release.current(copied_world.releases_path)
    assert np.isfinite(elsewhere.post_vectors).all()
