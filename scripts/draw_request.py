"""Draw `docs/request.svg`: the way of one request through the three stages, and the loop of events around it.

Plain SVG text, no library. Every box links to the folder that does the work. Colours follow the reader's light or dark
mode; the picture paints its own background, so it is readable on any page. `scripts/make_docs.py` writes the file.
"""

from __future__ import annotations

from html import escape

WIDTH, HEIGHT = 1000, 884

Point = tuple[float, float]

LEFT, MIDDLE, RIGHT = (24, 184), (262, 476), (792, 184)
"""The three columns, each as (x, width): what is learned, the request, what is known now."""

LIGHT = {
    "page": "#ffffff", "edge": "#d8dee4", "text": "#1f2328", "muted": "#59636e", "line": "#8c959f", "card": "#ffffff",
    "plain": "#f6f8fa", "retrieval": "#ddf4ff", "ranking": "#fbefff", "reranking": "#dafbe1", "store": "#fff8c5",
    "retrieval-edge": "#54aeff", "ranking-edge": "#c297ff", "reranking-edge": "#4ac26b", "store-edge": "#d4a72c",
}  # fmt: skip
DARK = {
    "page": "#0d1117", "edge": "#3d444d", "text": "#f0f6fc", "muted": "#9198a1", "line": "#7d8590", "card": "#0d1117",
    "plain": "#151b23", "retrieval": "#0c2138", "ranking": "#251a3d", "reranking": "#0f2a19", "store": "#2b2208",
    "retrieval-edge": "#388bfd", "ranking-edge": "#a371f7", "reranking-edge": "#3fb950", "store-edge": "#bb8009",
}  # fmt: skip

STYLE = """
text { font-family: Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.title { font-size: 15px; font-weight: 600; }
.small { font-size: 13px; font-weight: 500; }
.note { font-size: 12px; }
.arrow { fill: none; stroke-width: 1.6; marker-end: url(#head); }
.dashed { stroke-dasharray: 5 4; }
a:hover rect { stroke-width: 2.4; }
"""


def draw() -> str:
    """The picture as SVG text."""
    parts = [
        *_arrival(), *_retrieval(), *_ranking(), *_reranking(), *_answer(), *_known_now(), *_learned(), *_truth(),
    ]  # fmt: skip
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title">\n'
        '<title id="title">One request: client, FastAPI, retrieval, ranking, re-ranking, feed; its events flow through '
        "the stream into the online and the offline store, and from there into the next release</title>\n"
        f"<style>{STYLE}{_colours(LIGHT)}@media (prefers-color-scheme: dark) {{\n{_colours(DARK)}}}</style>\n"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse" markerUnits="userSpaceOnUse">'
        '<path d="M0,0.5 L8,4 L0,7.5 z" class="fill-line"/></marker></defs>\n'
    )
    return head + "\n".join([_rect(0.5, 0.5, WIDTH - 1, HEIGHT - 1, "page", "edge", 12), *parts]) + "\n</svg>\n"


def _arrival() -> list[str]:
    """Middle column: from the client to the first stage."""
    x, width = MIDDLE
    centre = x + width / 2
    return [
        _rect(centre - 90, 22, 180, 36, "plain", "edge", 18),
        _text(centre, 45, "Reader's app or browser", "small"),
        _arrow((centre, 58), (centre, 88), label="GET /v1/feed", at=(centre + 10, 78)),
        _box(x, 88, width, 52, "FastAPI", "checks the request and its cursor", "plain", "recsys/serving/"),
        _arrow((centre, 140), (centre, 166)),
        _box(
            x, 166, width, 52, "Understand", "reads the user: clicks, follows, blocks, posts returned", "plain",
            "recsys/pipeline.py",
        ),
        _arrow((centre, 218), (centre, 246)),
    ]  # fmt: skip


def _answer() -> list[str]:
    """Middle column: what the stages hand on, the feed, and the events that come back."""
    x, width = MIDDLE
    centre = x + width / 2
    return [
        _arrow((centre, 452), (centre, 484), label="about 500 candidates", at=(centre + 10, 473)),
        _arrow((centre, 578), (centre, 610), label="about 500 scores", at=(centre + 10, 599)),
        _arrow((centre, 704), (centre, 736), label="20 posts in order", at=(centre + 10, 725)),
        _box(
            x, 736, width, 52, "Feed", "logged with sources, position, propensity, features", "plain",
            "recsys/serving/service.py",
        ),
        _arrow((centre, 788), (centre, 818), label="POST /v1/events: impressions, clicks", at=(centre + 10, 808)),
        _box(x, 818, width, 44, "Event stream", "Redis Streams; an event id counts once", "store",
             "recsys/online/stream/"),
    ]  # fmt: skip


def _retrieval() -> list[str]:
    """Five sources, merged, then filtered."""
    x, width = MIDDLE
    y = 246
    sources = [
        ("Two towers", "FAISS index", "recsys/retrieval/towers/"),
        ("Followed", "authors", "recsys/retrieval/sources/followed.py"),
        ("Trending", "by language", "recsys/retrieval/sources/trending.py"),
        ("Fresh", "newest posts", "recsys/retrieval/sources/fresh.py"),
        ("Co-visited", "same readers", "recsys/retrieval/sources/covisited.py"),
    ]
    gap, inner = 8, width - 28
    each = (inner - gap * (len(sources) - 1)) / len(sources)
    parts = [_panel(y, 206, "1  Retrieval", "from all posts to about 500", "retrieval", "recsys/retrieval/")]
    for place, (title, note, link) in enumerate(sources):
        left = x + 14 + place * (each + gap)
        parts += [
            _box(left, y + 38, each, 48, title, note, "card", link, "retrieval-edge", "small"),
            _arrow((left + each / 2, y + 86), (left + each / 2, y + 104)),
        ]
    return [
        *parts,
        _row(x + 14, y + 104, inner, "Merge", "each source has places; a post keeps its sources", "retrieval",
             "recsys/retrieval/retriever.py"),
        _arrow((x + width / 2, y + 138), (x + width / 2, y + 156)),
        _row(x + 14, y + 156, inner, "Filters", "not visible, blocked, returned before", "retrieval",
             "recsys/reranking/filters.py"),
    ]  # fmt: skip


def _ranking() -> list[str]:
    """Counters to features to a calibrated probability."""
    steps = [
        ("Features", "matrix (C, F)", "recsys/features/"),
        ("LightGBM", "P(click)", "recsys/ranking/trees.py"),
        ("Calibration", "Platt, on later days", "recsys/ranking/calibration.py"),
    ]
    return _stage(484, "2  Ranking", "what would this reader click?", "ranking", "recsys/ranking/", steps)


def _reranking() -> list[str]:
    """A feed that is not twenty times the same."""
    steps = [
        ("Duplicates", "one of each", "recsys/reranking/duplicates.py"),
        ("Author cap", "two posts each", "recsys/reranking/author_cap.py"),
        ("Diversity", "MMR", "recsys/reranking/mmr.py"),
    ]
    return _stage(610, "3  Re-ranking", "the best mix, not the best twenty", "reranking", "recsys/reranking/", steps)


def _stage(y: float, title: str, note: str, colour: str, link: str, steps: list[tuple[str, str, str]]) -> list[str]:
    """A panel with its steps from left to right."""
    x, width = MIDDLE
    gap, inner = 24, width - 28
    each = (inner - gap * (len(steps) - 1)) / len(steps)
    parts = [_panel(y, 94, title, note, colour, link)]
    for place, (name, about, target) in enumerate(steps):
        left = x + 14 + place * (each + gap)
        parts.append(_box(left, y + 36, each, 46, name, about, "card", target, f"{colour}-edge", "small"))
        if place:
            parts.append(_arrow((left - gap, y + 59), (left, y + 59)))
    return parts


def _learned() -> list[str]:
    """Left column: logs become a release, and the release serves."""
    x, width = LEFT
    centre, middle = x + width / 2, MIDDLE[0]
    holds = ["towers and vectors", "index", "learned sources", "rankers, calibrators", "feature schema"]
    return [
        _box(x, 650, width, 54, "Offline store", "Parquet, by day", "store", "recsys/offline/"),
        _arrow((centre, 650), (centre, 578), label="point in time", at=(centre + 8, 618)),
        _box(x, 526, width, 52, "Training", "split by time", "plain", "recsys/training.py"),
        _arrow((centre, 526), (centre, 452)),
        _store(x, 246, width, 206, "Release", "one atomic bundle", holds, "recsys/release.py"),
        _arrow((x + width, 349), (middle, 349)),
        _arrow((x + width, 430), (x + width + 27, 430), (x + width + 27, 531), (middle, 531)),
        _arrow((middle, 840), (x + width + 27, 840), (x + width + 27, 677), (x + width, 677)),
        _text(x + width + 20, 845, "by the same consumer", "note", "end"),
    ]


def _known_now() -> list[str]:
    """Right column: events become counters that the next request reads."""
    x, width = RIGHT
    centre, middle = x + width / 2, MIDDLE[0] + MIDDLE[1]
    holds = ["clicks of the user", "posts returned before", "trending posts", "decayed counters"]
    return [
        _store(x, 166, width, 412, "Online store", "Redis: one read per step", holds, "recsys/online/"),
        _arrow((x, 192), (middle, 192)),
        _arrow((x, 531), (middle, 531)),
        _text(x + 16, 536, "counters of 500 posts", "note", "start"),
        _text(x + 16, 400, "loaded from the offline", "note", "start"),
        _text(x + 16, 418, "store with each release,", "note", "start"),
        _text(x + 16, 436, "then kept by events", "note", "start"),
        _arrow((centre, 650), (centre, 578), label="within seconds", at=(centre + 8, 618)),
        _box(x, 650, width, 54, "Consumer", "to Redis and to Parquet", "plain", "recsys/online/consumer/"),
        _arrow((middle, 840), (x - 27, 840), (x - 27, 677), (x, 677)),
    ]


def _truth() -> list[str]:
    """The synthetic world writes logs and knows the truth; evaluation compares with it."""
    return [
        _box(LEFT[0], 764, LEFT[1], 54, "Synthetic world", "writes logs, knows the truth", "plain", "recsys/world/",
             dashed=True),
        _arrow((LEFT[0] + LEFT[1] / 2, 764), (LEFT[0] + LEFT[1] / 2, 704), dashed=True),
        _box(RIGHT[0], 764, RIGHT[1], 54, "Evaluation", "feeds against the truth", "plain", "recsys/evaluation/",
             dashed=True),
    ]  # fmt: skip


def _panel(y: float, height: float, title: str, note: str, colour: str, link: str) -> str:
    x, width = MIDDLE
    inside = (
        _rect(x, y, width, height, colour, f"{colour}-edge", 10)
        + _text(x + 14, y + 25, title, "title", "start")
        + _text(x + width - 14, y + 25, note, "note", "end")
    )
    return _link(link, inside)


def _box(
    x: float, y: float, width: float, height: float, title: str, note: str, fill: str, link: str, edge: str = "",
    size: str = "title", dashed: bool = False,
) -> str:  # fmt: skip
    """A linked box with a title and a line below it."""
    middle = y + height / 2
    rect = _rect(x, y, width, height, fill, edge or (f"{fill}-edge" if fill == "store" else "edge"), 8, dashed)
    return _link(
        link, rect + _text(x + width / 2, middle - 4, title, size) + _text(x + width / 2, middle + 14, note, "note")
    )


def _row(x: float, y: float, width: float, title: str, note: str, colour: str, link: str) -> str:
    """A linked box on one line: what it is, then what it does."""
    inside = (
        _rect(x, y, width, 34, "card", f"{colour}-edge", 8)
        + _text(x + 14, y + 22, title, "small", "start")
        + _text(x + 84, y + 22, note, "note", "start")
    )
    return _link(link, inside)


def _store(x: float, y: float, width: float, height: float, title: str, note: str, holds: list[str], link: str) -> str:
    """A linked store and the list of what it holds."""
    inside = _rect(x, y, width, height, "store", "store-edge", 10)
    inside += _text(x + 16, y + 28, title, "title", "start") + _text(x + 16, y + 47, note, "note", "start")
    for place, line in enumerate(holds):
        inside += _text(x + 16, y + 80 + 24 * place, line, "small", "start")
    return _link(link, inside)


def _link(target: str, inside: str) -> str:
    return f'<a href="../{escape(target)}">{inside}</a>'


def _rect(
    x: float, y: float, width: float, height: float, fill: str, edge: str, radius: float, dashed: bool = False
) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
        f'class="fill-{fill} line-{edge}{" dashed" if dashed else ""}"/>'
    )


def _text(x: float, y: float, text: str, size: str, anchor: str = "middle") -> str:
    colour = "muted" if size == "note" else "text"
    return f'<text x="{x:g}" y="{y:g}" class="{size} fill-{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _arrow(*points: Point, label: str = "", at: Point = (0, 0), dashed: bool = False) -> str:
    """A line through the points with a head at the last, and a label that starts at `at`."""
    path = " L".join(f"{x:g},{y:g}" for x, y in points)
    line = f'<path d="M{path}" class="arrow line-line{" dashed" if dashed else ""}"/>'
    return line + (_text(*at, label, "note", "start") if label else "")


def _colours(palette: dict[str, str]) -> str:
    """Two classes for each colour: one fills, one draws the line."""
    return "".join(
        f".fill-{name} {{ fill: {value}; }} .line-{name} {{ stroke: {value}; }}\n" for name, value in palette.items()
    )
