"""The HTTP interface over a real connection: feeds, events and error messages."""

import concurrent.futures
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.online import keys
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import decode
from recsys.serving.http.wire import MAX_BODY_BYTES, Feed

from ..small_service import N_POSTS, make_service, served


def feed(http, user="1", **query):
    answer = http.get("/v1/feed", params={"user_id": user, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(answer, status=422):
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    return answer.json()["error"]


def event(n=0, **changes):
    base = {"request_id": "5", "user_id": "1", "post_id": "5003", "type": "click", "event_time": time.time_ns() // 1000}
    return {"event_id": f"event {n}", **base, **changes}


def on_stream(client):
    return decode(RedisStream(client, OnlineConfig()).read("", 1000))


def metrics(http):
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def test_a_feed_has_the_promised_shape_and_values(http):
    answer = http.get("/v1/feed", params={"user_id": "1"})
    assert answer.headers["content-type"] == "application/json"
    page = Feed.model_validate_json(answer.content)
    assert (page.user_id, page.release, page.degraded) == ("1", "r-0123456789ab", [])
    assert 0 < int(page.request_id) < 2**63
    assert [item.position for item in page.items] == list(range(20))
    mentioned, newest = page.items[:2]
    assert (mentioned.post_id, mentioned.author_id, mentioned.topic, mentioned.created_at) == ("7000", None, None, None)
    assert (newest.post_id, newest.author_id, newest.topic) == ("5129", "903", "art")
    assert (newest.text, newest.created_at) == ("post number 129", "2026-01-18T09:00:00+00:00")
    assert newest.sources == ["two_tower", "trending"]
    assert newest.labels == ["spam"]
    assert mentioned.labels == page.items[2].labels == []
    assert newest.propensity == 0.5
    assert mentioned.score == 0.9
    assert mentioned.probabilities == {"click": 0.9}


def test_degraded_parts_are_named_and_counted(http, recommender):
    recommender.degraded = ("source:trending", "source:fresh")
    assert feed(http)["degraded"] == ["source:trending", "source:fresh"]
    recommender.degraded = ()
    assert feed(http)["degraded"] == []
    counted = metrics(http)
    assert counted["recsys_feeds_degraded_total", "source:trending"] == 1
    assert counted["recsys_feeds_degraded_total", "source:fresh"] == 1


def test_posts_and_authors_keep_their_imported_names(http):
    items = {item["post_id"]: item["author_id"] for item in feed(http, limit=100)["items"]}
    assert items["N60"] == items["5053"] == "Bob"
    assert items["5061"] == "905"
    assert "5060" not in items


@pytest.mark.parametrize("user", ["2", "987654321", "somebody new", "-17", "ü" * 200])
def test_an_unknown_user_gets_a_feed_under_the_given_id(http, user):
    page = feed(http, user)
    assert page["user_id"] == user
    assert len(page["items"]) == 20


@pytest.mark.parametrize("limit", [1, 20, 100])
def test_limits_from_1_to_100_are_accepted(http, limit):
    assert len(feed(http, limit=limit)["items"]) == limit


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("0", "limit must be >= 1, got '0'"),
        ("101", "limit must be <= 100, got '101'"),
        ("-3", "limit must be >= 1, got '-3'"),
        ("ten", "limit must be a valid integer"),
        ("", "limit must be a valid integer"),
        ("1.5", "limit must be a valid integer"),
    ],
)
def test_another_limit_is_refused_with_rule_and_value(http, limit, sentence):
    assert refusal(http.get("/v1/feed", params={"user_id": "1", "limit": limit})).startswith(sentence)


def test_a_missing_or_invalid_user_is_refused(http):
    assert refusal(http.get("/v1/feed")) == "user_id is missing"
    assert "user_id is not an id" in refusal(http.get("/v1/feed", params={"user_id": ""}))
    assert "got 201" in refusal(http.get("/v1/feed", params={"user_id": "x" * 201}))


def test_pages_by_cursor_do_not_repeat_posts_until_all_were_shown(http, client):
    seen, cursor = [], ""
    for _ in range(7):
        page = feed(http, limit=20, cursor=cursor)
        client.delete(keys.returned(1))  # so that only the cursor knows what was shown
        seen += [item["post_id"] for item in page["items"]]
        cursor = page["cursor"]
    assert len(seen) == len(set(seen)) == N_POSTS + 1
    assert feed(http, cursor=cursor)["items"] == []


def test_returned_posts_are_not_returned_again_even_without_a_cursor(http):
    first, second = feed(http), feed(http)
    posts = [{item["post_id"] for item in page["items"]} for page in (first, second)]
    assert not posts[0] & posts[1]
    assert first["request_id"] != second["request_id"]


def test_an_altered_cursor_or_one_of_another_user_is_refused(http):
    cursor = feed(http)["cursor"]
    query = {"user_id": "1", "cursor": cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")}
    assert "signature does not match" in refusal(http.get("/v1/feed", params=query))
    assert "base64url" in refusal(http.get("/v1/feed", params={"user_id": "1", "cursor": "%%%"}))
    assert "written for another" in refusal(http.get("/v1/feed", params={"user_id": "2", "cursor": cursor}))


def test_returned_posts_are_logged_with_positions_propensities_and_features(http, client):
    page = feed(http, limit=3)
    (record,) = on_stream(client).returned
    assert str(record.request_id) == page["request_id"]
    assert record.post_id.tolist() == [int(item["post_id"]) for item in page["items"]]
    assert record.position.tolist() == [0, 1, 2]
    assert record.propensity.tolist() == [0.5] * 3
    assert record.features.shape == (3, 4)
    assert len(record.candidates) == N_POSTS + 1
    assert (record.user_id, record.release) == (1, "r-0123456789ab")


def test_good_events_are_accepted_and_bad_events_named_by_index(http, client):
    batch = [event(0), event(1, type="stare"), event(2, type="dwell", value=2.5, position=4), event(3, user_id=1)]
    answer = http.post("/v1/events", json={"events": batch})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [item["index"] for item in answer.json()["rejected"]] == [1, 3]
    written = on_stream(client).events
    assert written["post_id"].tolist() == [5003, 5003]
    assert written["value"].tolist()[1] == 2.5
    assert written["position"].tolist() == [-1, 4]
    assert abs(written["ingest_time"][0] - time.time_ns() // 1000) < 60e6


def test_a_batch_of_bad_events_only_is_accepted_as_empty(http, client):
    answer = http.post("/v1/events", json=[{}, 3])
    assert (answer.status_code, answer.json()["accepted"], len(answer.json()["rejected"])) == (202, 0, 2)
    assert len(on_stream(client).events) == 0


def test_an_event_posted_twice_is_on_the_stream_once(http, client):
    for _ in range(2):
        assert http.post("/v1/events", json=[event(0), event(0)]).json()["accepted"] == 2
    assert len(on_stream(client).events) == 1


@pytest.mark.parametrize(
    "body", [b"", b"{]", b'{"event": 1}', b"[" + b"0," * 1000 + b"0]", b" " * (MAX_BODY_BYTES + 1)]
)
def test_a_body_that_is_not_a_batch_is_refused(http, body):
    assert refusal(http.post("/v1/events", content=body))


def test_writes_need_the_key_once_one_is_set_and_reads_do_not(recommender, client):
    with served(make_service(recommender, client, api_key="sésame")) as http:
        assert "X-API-Key" in refusal(http.post("/v1/events", json=[event()]), 401)
        assert "X-API-Key" in refusal(http.post("/v1/events", json=[event()], headers={"X-API-Key": "sesam"}), 401)
        assert len(on_stream(client).events) == 0
        assert http.post("/v1/events", json=[event()], headers={"X-API-Key": "sésame".encode()}).status_code == 202
        assert http.get("/v1/feed", params={"user_id": "1"}).status_code == 200


@pytest.mark.parametrize("fault", [DependencyError("Redis does not answer; start it"), DataError("nothing was loaded")])
def test_a_missing_dependency_is_answered_with_503_and_the_reason(http, recommender, fault):
    recommender.fault = fault
    assert refusal(http.get("/v1/feed", params={"user_id": "1"}), 503) == str(fault)
    recommender.fault = None
    assert len(feed(http)["items"]) == 20


def test_a_defect_is_one_sentence_without_a_traceback(http, recommender):
    recommender.fault = ZeroDivisionError("secret detail")
    sentence = refusal(http.get("/v1/feed", params={"user_id": "1"}), 500)
    assert sentence == "the server failed on this request; its log says why"


def test_unknown_paths_and_methods_are_answered_with_a_sentence(http):
    assert refusal(http.get("/v2/feed"), 404) == "GET /v2/feed: Not Found"
    assert refusal(http.post("/v1/feed"), 405) == "POST /v1/feed: Method Not Allowed"


def test_readyz_needs_loaded_features_and_healthz_does_not(http, client):
    assert http.get("/readyz").json() == {"ready": True, "release": "r-0123456789ab", "reasons": []}
    client.flushall()
    answer = http.get("/readyz")
    assert answer.status_code == 503
    assert "run `recsys train`" in answer.json()["reasons"][0]
    assert http.get("/healthz").status_code == 200


def test_a_health_check_does_not_wait_for_feeds_in_progress(http, recommender):
    recommender.proceed = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(feed, http)
        assert recommender.entered.wait(10)
        assert http.get("/healthz").status_code == 200
        assert not waiting.done()
        recommender.proceed.set()
        assert len(waiting.result()["items"]) == 20


def test_metrics_count_requests_stages_events_and_refusals(http):
    feed(http)
    http.get("/v1/feed", params={"user_id": "1", "limit": "0"})
    http.get("/v1/secret-scanner-path")
    http.post("/v1/events", json=[event(0), {}])
    counted = metrics(http)
    assert counted["recsys_http_request_seconds_count", "/v1/feed", "200"] == 1
    assert counted["recsys_http_request_seconds_count", "/v1/feed", "422"] == 1
    assert counted["recsys_http_request_seconds_count", "404", "other"] == 1
    assert counted["recsys_feed_stage_seconds_count", "recommend"] == 1
    assert counted["recsys_feed_candidates_sum", "returned"] == 20
    assert counted["recsys_feed_candidates_sum", "ranked"] == N_POSTS + 1
    assert counted["recsys_events_total", "accepted"] == counted["recsys_events_total", "rejected"] == 1
    assert counted["recsys_errors_total", "RequestError"] == 1
    assert counted["recsys_stream_lag_seconds",] > 0


def test_metrics_are_served_without_a_lag_that_cannot_be_read(http, client):
    feed(http)
    client.set(keys.DEAD_LETTERS_EVER, "many")
    counted = metrics(http)
    assert counted["recsys_http_request_seconds_count", "/v1/feed", "200"] == 1
    assert ("recsys_stream_lag_seconds",) not in counted


def test_two_apps_in_one_process_count_separately(http, recommender, client):
    feed(http)
    with served(make_service(recommender, client)) as other:
        assert ("recsys_http_request_seconds_count", "/v1/feed", "200") not in metrics(other)
