"""`recsys world`: the synthetic world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, group, print_json, say
from recsys.config import DEFAULT_PATH, load

app = group("The synthetic world.")


@app.command("report")
def world_report(
    out: Annotated[Path | None, typer.Option("--out", help="PNG; by default report.png in the world folder.")] = None,
    impressions: Annotated[
        int, typer.Option(min=1, help="Read only the first days, up to this many impressions.")
    ] = 5_000_000,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Compare the world's logs with its true parameters. Draws one picture and prints the figures as tables."""
    settings = load(config, overrides or ())
    from recsys.progress import Progress
    from recsys.world.report.plots import draw
    from recsys.world.report.report import show
    from recsys.world.report.report import world_report as run

    progress = Progress()
    report = run(settings, impressions, progress)
    show(report, console_for(as_json))
    picture = out or settings.world_path / "report.png"
    with progress.stage("draw"):
        draw(report, picture)
    say(f"picture in {picture}", as_json)
    if as_json:
        print_json({"picture": str(picture), **report.as_dict()})
