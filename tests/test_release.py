"""A release exists whole or not at all, and says what is wrong with it in one sentence."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from recsys import release
from recsys.errors import ReleaseError
from recsys.features import spec

LOGS_END = 1_768_780_800_000_000


def write_parts(folder, towers="towers of one"):
    (folder / "towers").mkdir()
    (folder / "towers" / "weights.bin").write_text(towers)
    (folder / "catalogue").mkdir()
    (folder / "catalogue" / "post_id.npy").write_bytes(bytes(range(100)))


def make(releases, towers="towers of one", **changes):
    with release.staging(releases) as folder:
        write_parts(folder, towers)
        settings = {"config": {"ranking": {"n_trees": 3}}, "metrics": {"auc": 0.7, "gauc": None}, "logs_end": LOGS_END}
        return release.publish(folder, **(settings | changes))


def hidden(releases):
    return [path.name for path in releases.iterdir() if path.name.startswith(".")]


@pytest.fixture
def releases(tmp_path):
    return tmp_path / "data" / "releases"


def test_a_published_release_loads_with_what_was_put_into_it(releases):
    made = make(releases, watermark="17-3", world=True)
    release.use(releases, made.version)
    loaded = release.load(releases)
    assert loaded == made
    assert (loaded.path / "towers" / "weights.bin").read_text() == "towers of one"
    manifest = loaded.manifest
    assert manifest.fingerprint == str(spec.fingerprint())
    assert manifest.config == {"ranking": {"n_trees": 3}}
    assert manifest.metrics == {"auc": 0.7, "gauc": None}
    assert (manifest.logs_end, manifest.watermark, manifest.world) == (LOGS_END, "17-3", True)
    assert set(manifest.files) == {"towers/weights.bin", "catalogue/post_id.npy"}
    assert manifest.files["catalogue/post_id.npy"].size == 100
    assert set(manifest.libraries) == {"faiss-cpu", "lightgbm", "numpy", "pyarrow", "torch"}
    assert hidden(releases) == []


def test_the_same_content_is_the_same_release_byte_for_byte(releases, tmp_path):
    first, second, elsewhere = make(releases), make(releases), make(tmp_path / "other")
    assert first.version == second.version == elsewhere.version
    assert release.list_releases(releases) == [first.version]
    manifests = [(each.path / "manifest.json").read_bytes() for each in (first, elsewhere)]
    assert manifests[0] == manifests[1]
    assert hidden(releases) == []


@pytest.mark.parametrize(
    "change", [{"towers": "towers of two"}, {"config": {}}, {"logs_end": 1}, {"watermark": "1-0"}, {"metrics": {}}]
)
def test_other_content_is_another_release(releases, change):
    assert make(releases).version != make(releases, **change).version


def test_a_damaged_release_is_replaced_when_its_content_is_published_again(releases):
    made = make(releases)
    (made.path / "towers" / "weights.bin").write_text("short")
    assert make(releases).version == made.version
    assert release.load(releases, made.version).manifest == made.manifest


def test_without_any_release_the_message_names_the_command_that_makes_one(releases):
    with pytest.raises(ReleaseError, match=r"no release in .*; run `recsys train` to make one"):
        release.load(releases)


def test_without_a_current_release_the_message_names_one_to_choose(releases):
    made = make(releases)
    with pytest.raises(ReleaseError, match=f"choose one with `recsys releases use {made.version}`"):
        release.load(releases)


@pytest.mark.parametrize("name", ["r-000000000000", "../escape", ""])
def test_an_unknown_version_is_refused_with_those_that_exist(releases, name):
    made = make(releases)
    with pytest.raises(ReleaseError, match=f"is not in .*, which holds {made.version}"):
        release.load(releases, name)
    with pytest.raises(ReleaseError):
        release.use(releases, name)


def test_a_missing_file_is_named(releases):
    made = make(releases)
    (made.path / "catalogue" / "post_id.npy").unlink()
    with pytest.raises(
        ReleaseError, match=r"catalogue/post_id.npy is missing \(100 bytes expected\); run `recsys train`"
    ):
        release.load(releases, made.version, verify=False)


def test_a_truncated_file_is_named_even_without_reading_it(releases):
    made = make(releases)
    os.truncate(made.path / "catalogue" / "post_id.npy", 60)
    with pytest.raises(ReleaseError, match=r"post_id.npy must have 100 bytes, got 60; run `recsys train`"):
        release.load(releases, made.version, verify=False)


def test_an_altered_file_of_the_right_size_is_found_by_its_checksum(releases):
    made = make(releases)
    (made.path / "towers" / "weights.bin").write_text("towers of 0ne")
    with pytest.raises(ReleaseError, match=r"towers/weights.bin must have sha256 .*, got .*; run `recsys train`"):
        release.load(releases, made.version)
    assert release.load(releases, made.version, verify=False).version == made.version


def test_a_part_of_another_release_is_refused_and_its_origin_named(releases):
    one, two = make(releases), make(releases, towers="towers of two")
    (one.path / "towers" / "weights.bin").write_bytes((two.path / "towers" / "weights.bin").read_bytes())
    with pytest.raises(ReleaseError, match=f"which is that of release {two.version}: parts of two releases are mixed"):
        release.load(releases, one.version)


def test_the_manifest_of_another_release_is_refused(releases):
    one, two = make(releases), make(releases, towers="towers of two")
    (one.path / "manifest.json").write_bytes((two.path / "manifest.json").read_bytes())
    with pytest.raises(ReleaseError, match=f"manifest.json is that of {two.version}"):
        release.load(releases, one.version, verify=False)


def test_a_file_the_manifest_does_not_list_is_refused(releases):
    made = make(releases)
    (made.path / "index").mkdir()
    (made.path / "index" / "posts.faiss").write_text("from elsewhere")
    with pytest.raises(
        ReleaseError, match=r"index/posts.faiss is not in its manifest; parts of two releases are mixed"
    ):
        release.load(releases, made.version, verify=False)


def test_features_of_other_code_are_refused_with_both_fingerprints(releases, monkeypatch):
    made = make(releases)
    monkeypatch.setattr(spec, "fingerprint", lambda: 12345)
    with pytest.raises(ReleaseError, match=f"have fingerprint {made.manifest.fingerprint}, this code's have 12345"):
        release.load(releases, made.version)


def test_another_format_is_refused_before_anything_else_is_read(releases):
    made = make(releases)
    manifest = json.loads((made.path / "manifest.json").read_text())
    (made.path / "manifest.json").write_text(json.dumps(manifest | {"format": release.FORMAT + 1, "new_key": 1}))
    with pytest.raises(ReleaseError, match=rf"its format is {release.FORMAT + 1}, this code reads {release.FORMAT}"):
        release.load(releases, made.version)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": %d}' % release.FORMAT, b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read_is_one_sentence(releases, content):
    made = make(releases)
    (made.path / "manifest.json").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"manifest.json is not a readable manifest; run `recsys train`"):
        release.load(releases, made.version)


def test_switching_back_and_forth_changes_what_loads(releases):
    one, two = make(releases), make(releases, towers="towers of two")
    for made in (one, two, one):
        release.use(releases, made.version)
        assert release.current(releases) == made.version
        assert release.load(releases).version == made.version
    assert hidden(releases) == []


def test_a_release_that_is_not_intact_never_becomes_current(releases):
    one, two = make(releases), make(releases, towers="towers of two")
    release.use(releases, one.version)
    (two.path / "towers" / "weights.bin").write_text("towers of 2wo")
    with pytest.raises(ReleaseError):
        release.use(releases, two.version)
    assert release.load(releases).version == one.version


def test_readers_see_the_old_name_or_the_new_while_it_is_switched(releases):
    names = [make(releases).version, make(releases, towers="towers of two").version]
    release.use(releases, names[0])
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(release.current(releases))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        release.use(releases, names[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(names)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupted_training_leaves_nothing_behind(releases, interruption):
    def train():
        with release.staging(releases) as folder:
            write_parts(folder)
            raise interruption

    with pytest.raises(interruption):
        train()
    assert list(releases.iterdir()) == []


def test_an_empty_staging_folder_cannot_be_published(releases):
    with release.staging(releases) as folder, pytest.raises(ReleaseError, match="needs at least one file"):
        release.publish(folder, config={}, metrics={}, logs_end=0)
    assert list(releases.iterdir()) == []


@pytest.mark.parametrize("metrics", [{"auc": float("nan")}, {"auc": object()}])
def test_a_figure_that_is_not_json_is_refused(releases, metrics):
    with pytest.raises(ReleaseError, match="must be JSON without NaN"):
        make(releases, metrics=metrics)
    assert list(releases.iterdir()) == []


def test_a_link_out_of_the_folder_cannot_be_published(releases, tmp_path):
    (tmp_path / "shared.bin").write_text("changes later")
    with release.staging(releases) as folder:
        (folder / "shared.bin").symlink_to(tmp_path / "shared.bin")
        with pytest.raises(ReleaseError, match=r"shared.bin must be a file, got a link"):
            release.publish(folder, config={}, metrics={}, logs_end=0)


STAGE_AND_WAIT = """
    import pathlib, sys, time
    from recsys import release
    with release.staging(pathlib.Path(sys.argv[1])) as folder:
        (folder / "half.bin").write_text("half")
        print(folder.name, flush=True)
        time.sleep(60)
"""


def test_the_staging_of_a_live_process_is_kept_and_that_of_a_killed_one_is_cleared(releases):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STAGE_AND_WAIT), str(releases)], stdout=subprocess.PIPE, text=True
    )
    with process:
        name = process.stdout.readline().strip()
        with release.staging(releases):
            assert (releases / name / "half.bin").exists()
        process.send_signal(signal.SIGKILL)
    assert (releases / name).exists()
    assert release.list_releases(releases) == []
    with release.staging(releases):
        assert not (releases / name).exists()
    assert list(releases.iterdir()) == []
