"""A small catalogue, a real Redis, and a service over HTTP; the parts are in `small_service`."""

import pytest

from recsys.config import OnlineConfig
from recsys.online.connection.client import connect
from recsys.online.store import RedisStore

from .small_service import NewestFirst, load_nothing, make_catalogue, make_service, served


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory):
    return make_catalogue(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with connect(OnlineConfig(), tmp_path_factory.mktemp("online")) as connection:
        yield connection


@pytest.fixture
def client(redis_server, catalogue):
    load_nothing(redis_server.client, catalogue)
    return redis_server.client


@pytest.fixture
def recommender(catalogue, client):
    return NewestFirst(catalogue, RedisStore(client, catalogue, OnlineConfig()))


@pytest.fixture
def service(recommender, client):
    return make_service(recommender, client)


@pytest.fixture
def http(service):
    with served(service) as http:
        yield http
