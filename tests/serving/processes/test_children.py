"""Children are restarted while their block runs and stopped when it or the parent ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from recsys.serving.processes import children


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def note_and_wait(folder):
    """A child that writes its process id to the folder and then waits."""
    children.follow_parent()
    (folder / f".{os.getpid()}").touch()
    (folder / f".{os.getpid()}").rename(folder / str(os.getpid()))
    time.sleep(60)


def ignore_sigterm(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_and_wait(folder)


def pids(folder):
    return sorted(int(path.name) for path in folder.iterdir() if not path.name.startswith("."))


def test_a_child_lives_as_long_as_the_block(tmp_path):
    with children.kept_alive("sleeper", note_and_wait, tmp_path):
        (pid,) = wait_for(lambda: pids(tmp_path))
        assert alive(pid)
    assert not alive(pid)


def test_a_child_is_stopped_when_the_block_is_interrupted(tmp_path):
    def work():
        with children.kept_alive("sleeper", note_and_wait, tmp_path):
            wait_for(lambda: pids(tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not alive(pids(tmp_path)[0])


def test_a_killed_child_is_restarted(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "RESTART_S", 0.01)
    with children.kept_alive("sleeper", note_and_wait, tmp_path):
        (first,) = wait_for(lambda: pids(tmp_path))
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(pids(tmp_path)) == 2)
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "STOP_S", 0.2)
    child = children.start(ignore_sigterm, tmp_path)
    (pid,) = wait_for(lambda: pids(tmp_path))
    children.stop(child)
    assert not alive(pid)


def test_ctrl_c_does_not_reach_a_child(tmp_path):
    child = children.start(note_and_wait, tmp_path)
    os.kill(child.pid, signal.SIGINT)  # even while it is still starting
    (pid,) = wait_for(lambda: pids(tmp_path))
    os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    assert alive(pid)
    children.stop(child)


PARENT = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from recsys.serving.processes import children
    from test_children import note_and_wait

    if __name__ == "__main__":
        with children.kept_alive("sleeper", note_and_wait, Path(sys.argv[1])):
            time.sleep(60)
"""


def test_a_child_does_not_outlive_a_killed_parent(tmp_path):
    script, folder = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text(textwrap.dedent(PARENT))
    folder.mkdir()
    with subprocess.Popen([sys.executable, script, folder, Path(__file__).parent]) as parent:
        (pid,) = wait_for(lambda: pids(folder))
        parent.kill()
    assert wait_for(lambda: not alive(pid))


def test_thread_limits_reach_children_and_the_blas_already_loaded(monkeypatch):
    import threadpoolctl

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    with threadpoolctl.threadpool_limits():
        children.limit_threads(1)
        assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "1"
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"} == {1}
