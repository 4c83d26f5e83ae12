"""The server refuses to start with an invalid setup, in one sentence and before anything runs."""

import socket

import pytest

from recsys import release
from recsys.config import Config, OnlineConfig, ServingConfig
from recsys.errors import ConfigError, DependencyError, ReleaseError
from recsys.serving.processes import server


def config(tmp_path, **serving):
    return Config.model_validate({"data_dir": tmp_path, "serving": {"port": 0, **serving}})


def make_release(tmp_path):
    with release.staging(tmp_path / "releases") as folder:
        (folder / "part.bin").write_text("part")
        made = release.publish(folder, config={}, metrics={}, logs_end=0)
    release.use(tmp_path / "releases", made.version)
    return made


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "feed.example.org"])
def test_a_public_address_needs_a_key(tmp_path, host):
    with pytest.raises(ConfigError, match=r"must be a loopback address unless serving.api_key is set, got"):
        server.serve(config(tmp_path, host=host))
    server.check_address(ServingConfig(host=host, api_key="k"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_address_needs_no_key(host):
    server.check_address(ServingConfig(host=host))


def test_a_port_in_use_is_refused_with_the_remedy(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            DependencyError, match=rf"serving.port must be free, {port} on 127.0.0.1 .*--set serving.port"
        ):
            server.serve(config(tmp_path, port=port))


def test_two_servers_cannot_share_a_port(tmp_path):
    with server.bind(ServingConfig(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(DependencyError, match="cannot be bound"):
            server.bind(ServingConfig(port=port))


def test_the_base_url_names_the_port_the_system_chose():
    with server.bind(ServingConfig(port=0)) as listener:
        assert server.base_url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_without_a_release_the_error_says_how_to_make_one(tmp_path):
    with pytest.raises(ReleaseError, match="run `recsys train`"):
        server.serve(config(tmp_path))


def test_a_damaged_release_is_refused_before_redis_is_started(tmp_path):
    made = make_release(tmp_path)
    (made.path / "part.bin").write_text("p4rt")
    with pytest.raises(ReleaseError, match=r"part.bin must have sha256"):
        server.serve(config(tmp_path))
    assert not (tmp_path / "redis").exists()


def test_an_unreachable_redis_is_refused_in_one_sentence(tmp_path):
    make_release(tmp_path)
    online = OnlineConfig(url="redis://127.0.0.1:1/0")
    with pytest.raises(DependencyError, match=r"Redis at online.url redis://127.0.0.1:1/0 does not answer"):
        server.serve(config(tmp_path).model_copy(update={"online": online}))


def test_running_server_raises_the_startup_error_of_its_child(tmp_path):
    with (
        pytest.raises(DependencyError, match="the server did not start: no release in"),
        server.running_server(config(tmp_path)),
    ):
        pass
