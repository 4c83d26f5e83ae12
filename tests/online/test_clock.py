"""The clock: wall time, or the time of the logs that all processes agree on."""

from __future__ import annotations

import time

import pytest
import redis

from recsys.online import clock
from recsys.online.clock import Clock
from recsys.types import SECOND

from .conftest import START


def test_without_logs_the_clock_is_wall_time() -> None:
    before = time.time_ns() // 1000
    assert before <= Clock().now() <= time.time_ns() // 1000


def test_the_clock_starts_at_the_end_of_the_logs_and_continues_after_a_restart(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = [1_000 * SECOND]
    monkeypatch.setattr(clock, "_wall", lambda: wall[0])
    first = Clock(client, START)
    assert first.now() == START
    wall[0] += 60 * SECOND
    assert first.now() == START + 60 * SECOND
    assert Clock(client, START).now() == START + 60 * SECOND
    assert Clock(None, START).now() == START


def test_later_logs_move_the_clock_ahead_and_earlier_logs_do_not_turn_it_back(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = [1_000 * SECOND]
    monkeypatch.setattr(clock, "_wall", lambda: wall[0])
    Clock(client, START)
    wall[0] += 60 * SECOND
    assert Clock(client, START + 59 * SECOND).now() == START + 60 * SECOND
    assert Clock(client, START + 3600 * SECOND + 1).now() == START + 3600 * SECOND + 1
    wall[0] += SECOND
    assert Clock(client, START).now() == START + 3601 * SECOND + 1


def test_the_clock_never_runs_backwards_when_the_wall_clock_is_set_back(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = [1_000 * SECOND]
    monkeypatch.setattr(clock, "_wall", lambda: wall[0])
    ours = Clock(client, START)
    wall[0] += SECOND
    seen = ours.now()
    wall[0] -= 10 * SECOND
    assert ours.now() == seen
