import io

from rich.console import Console

from recsys.serving.show import show_feed


def shown(**changes) -> str:
    item = {
        "post_id": "1",
        "position": 0,
        "score": 0.5,
        "probabilities": {"click": 0.0712},
        "sources": ["two_tower", "trending"],
        "author_id": "9",
        "topic": "art",
        "text": "a post",
        "created_at": "2026-01-05T10:00:00Z",
        "labels": [],
        "propensity": 1.0,
    }
    older = {**item, "position": 1, "created_at": "2026-01-05T07:30:00Z", **changes}
    feed = {"user_id": "[/x] me", "release": "r-1", "degraded": ["trending"], "items": [item, older]}
    text = io.StringIO()
    show_feed(feed, Console(file=text, width=160))
    return text.getvalue()


def test_a_feed_is_shown_with_its_reasons():
    text = shown()
    assert "feed of user [/x] me (r-1)" in text
    assert "0.071" in text
    assert "two_tower + trending" in text
    assert "+2.5 h" in text
    assert "degraded: trending" in text


def test_user_written_text_is_not_read_as_markup():
    assert "[red]x[/nope]" in shown(text="[red]x[/nope]")
    assert "[bold]topic" in shown(topic="[bold]topic")


def test_a_post_without_text_is_shown_by_its_id():
    assert "post N7" in shown(text="", post_id="N7")


def test_unknown_values_are_shown_as_placeholders():
    text = shown(topic=None, author_id=None, created_at=None, probabilities={})
    assert "?" in text
    assert "-" in text
    assert "nan" not in text
