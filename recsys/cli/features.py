"""`recsys features`: what rankers see."""

from __future__ import annotations

from rich.table import Table

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, group, print_json
from recsys.config import DEFAULT_PATH, load

app = group("What rankers see.")


@app.command("list")
def features_list(
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """The table of features. No setting changes it."""
    load(config, overrides or ())
    from recsys.features.spec import FEATURES

    table = Table("feature", "of", "kind", "default", "transform", "meaning")
    for feature in FEATURES:
        table.add_row(
            feature.name, feature.entity, feature.kind, f"{feature.default:g}", feature.transform, feature.meaning
        )
    console_for(as_json).print(table)
    if as_json:
        print_json({"features": [feature._asdict() for feature in FEATURES]})
