"""Write a small folder in the MIND format, made up, to try `recsys import mind` without downloading anything.

    python scripts/make_mind_sample.py OUT [--users N --posts N --days N --seed S --bad-lines N]

Every user likes a few categories, every title carries words of its category, and a click is likelier where the two
meet: there is something to learn. The same arguments give the same bytes. With `--bad-lines` some lines are broken in
different ways, for the import to set aside.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import numpy as np

CATEGORIES = {
    "sports": ("soccer tennis cycling golf", "team match final coach striker league goal season trophy referee"),
    "finance": ("markets banks jobs taxes", "shares rates bank profit budget investors inflation bonds loan debt"),
    "health": ("fitness nutrition sleep medicine", "doctors diet sleep vaccine heart study patients clinic vitamins"),
    "travel": ("cities beaches trains hiking", "hotel island train museum coast tour flight harbour village trail"),
    "food": ("recipes wine restaurants baking", "recipe sauce bread oven chef cheese garlic dessert kitchen pasta"),
    "science": ("space climate physics animals", "telescope planet fossil ocean species energy orbit glacier laser"),
    "music": ("rock jazz opera festivals", "album singer concert guitar band chorus stage tour drummer ballad"),
    "autos": ("electric classics racing trucks", "engine battery sedan driver highway garage brakes pickup dealer"),
}  # fmt: skip
"""Category to its subcategories and its words."""

COMMON = "new big first why how what after before more year day city people week best local says plan world"
START = datetime.datetime(2019, 11, 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--posts", type=int, default=800)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bad-lines", type=int, default=0, help="of behaviors.tsv, beside the good ones")
    options = parser.parse_args()
    for name in ("users", "posts", "days"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    rng = np.random.default_rng(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    category = rng.integers(0, len(CATEGORIES), options.posts)
    behaviors = make_behaviors(options.users, options.days, category, rng)
    for broken in break_lines(behaviors, options.bad_lines):
        behaviors.insert(int(rng.integers(0, len(behaviors) + 1)), broken)
    (options.out / "news.tsv").write_text("\n".join(make_news(category, rng)) + "\n", encoding="utf-8")
    (options.out / "behaviors.tsv").write_text("\n".join(behaviors) + "\n", encoding="utf-8")
    print(f"{options.out}: {options.posts} posts, {len(behaviors)} lines of behaviors")


def make_news(category: np.ndarray, rng: np.random.Generator) -> list[str]:
    """One line per post: id, category, subcategory, title, abstract, url and two lists of entities."""
    lines = []
    for post, row in enumerate(category):
        name = list(CATEGORIES)[row]
        subcategories, words = (text.split() for text in CATEGORIES[name])
        title = [*rng.choice(words, 4, replace=False), *rng.choice(COMMON.split(), 3, replace=False)]
        abstract = [*rng.choice(words, 5, replace=False), *rng.choice(COMMON.split(), 6, replace=False)]
        rng.shuffle(title)
        fields = (
            post_name(post), name, str(rng.choice(subcategories)), " ".join(title).capitalize(),
            " ".join(abstract).capitalize() + ".", f"https://example.org/{post_name(post)}", "[]", "[]",
        )  # fmt: skip
        lines.append("\t".join(fields))
    return lines


def make_behaviors(n_users: int, n_days: int, category: np.ndarray, rng: np.random.Generator) -> list[str]:
    """One line per impression list, a few a day and user: ten posts, each clicked as the user's taste has it."""
    n_posts, n_categories = len(category), len(CATEGORIES)
    taste = rng.dirichlet(np.full(n_categories, 0.25), n_users)
    quality = rng.normal(0, 0.4, n_posts)
    born = rng.uniform(-3, n_days, n_posts)  # days; a third are there from the start
    old = np.flatnonzero(born <= 0) if (born <= 0).any() else np.arange(n_posts)
    histories = []
    for user in range(n_users):
        liked = taste[user, category[old]]
        size = min(int(rng.integers(0, 16)), len(old), int((liked > 0).sum()))
        histories.append(" ".join(map(post_name, rng.choice(old, size, replace=False, p=liked / liked.sum()))))
    lists = np.sort(rng.uniform(0, n_days, round(0.8 * n_users * n_days)))
    lines = []
    for number, moment in enumerate(lists, 1):
        user = int(rng.integers(n_users))
        there = np.flatnonzero(born <= moment) if (born <= moment).any() else old
        shown = rng.choice(there, min(10, len(there)), replace=False)
        logit = -2.9 + 3.5 * taste[user, category[shown]] + quality[shown]
        clicked = rng.random(len(shown)) < 1 / (1 + np.exp(-logit))
        entries = " ".join(f"{post_name(post)}-{int(click)}" for post, click in zip(shown, clicked, strict=True))
        fields = (str(number), f"U{user + 1}", time_text(moment), histories[user], entries)
        lines.append("\t".join(fields))
    return lines


def break_lines(good: list[str], n: int) -> list[str]:
    """Lines that are each wrong in one way: columns, time, user, entry without a label, impression id that is taken."""
    broken = []
    for place in range(n):
        number, user, moment, history, entries = good[place % len(good)].split("\t")
        unused = str(len(good) + n + place)
        ways = (
            (number, user, moment),
            (unused, user, "no time", history, entries),
            (unused, "", moment, history, entries),
            (unused, user, moment, history, "N1"),
            (number, user, moment, history, entries),
        )
        broken.append("\t".join(ways[place % len(ways)]))
    return broken


def post_name(post: int) -> str:
    return f"N{post + 10001}"


def time_text(day: float) -> str:
    """As MIND writes it: 11/9/2019 9:05:58 AM."""
    moment = START + datetime.timedelta(days=day)
    hour = moment.hour % 12 or 12
    half = "AM" if moment.hour < 12 else "PM"
    return f"{moment.month}/{moment.day}/{moment.year} {hour}:{moment.minute:02}:{moment.second:02} {half}"


if __name__ == "__main__":
    main()
