"""`recsys erase`: remove a user from both stores and print a receipt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, print_json
from recsys.config import DEFAULT_PATH, load

if TYPE_CHECKING:
    from rich.console import Console

    from recsys.serving.erasing import Receipt


def erase(
    user: Annotated[str, typer.Option("--user", help="User id. For an unknown user nothing is removed.")],
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Remove a user from the online store and the lake permanently, and report what was removed where."""
    settings = load(config, overrides or ())
    from recsys import release
    from recsys.errors import DataError, RequestError
    from recsys.offline.catalogue.ids import to_int64
    from recsys.offline.lake.lake import Lake
    from recsys.online.connection.client import connect
    from recsys.progress import Progress
    from recsys.serving.erasing import erase as run
    from recsys.serving.processes.clock_choice import service_clock

    try:
        to_int64(user)
    except RequestError as error:
        raise typer.BadParameter(str(error), param_hint="--user") from None
    if not Lake(settings.lake_url).exists():
        # Without this check a wrong folder would give an empty receipt, as if the user had been erased.
        raise DataError(f"there is no lake at {settings.lake_url}; name another with --set offline.url=URL")
    version = release.current(settings.releases_path)
    manifest = None if version is None else release.load(settings.releases_path, version, verify=False).manifest
    with connect(settings.online, settings.data_dir) as connection, Progress().stage("erase") as report:
        client = connection.client
        receipt = run(settings, client, service_clock(settings, client, manifest), user, report)
    show_receipt(receipt, console_for(as_json))
    if as_json:
        print_json(receipt.model_dump())


def show_receipt(receipt: Receipt, console: Console) -> None:
    """Print a receipt: what was removed where, and what is left to do."""
    erased_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=receipt.erased_at)
    console.print(Text(f"user {receipt.user_id} was erased at {erased_at:%Y-%m-%d %H:%M:%S} UTC"))
    table = Table("removed from", "what", "how many")
    for what, number in receipt.online.model_dump().items():
        table.add_row("online store", what.replace("_", " "), f"{number:,}")
    for name, removed in receipt.offline.items():
        table.add_row(f"lake: {name}", "rows (files)", f"{removed.rows:,} ({removed.files:,})")
    table.add_row("lake: quarantine", "rows (files)", f"{receipt.quarantine.rows:,} ({receipt.quarantine.files:,})")
    console.print(table)
    for path in receipt.quarantine.not_searched:
        console.print(Text(f"not searched, because it cannot be decoded: {path}; inspect it by hand, or delete it"))
    if receipt.authored_posts:
        console.print(f"{receipt.authored_posts:,} posts written by this user are kept: erasing does not remove posts")
    if receipt.releases:
        console.print(
            f"these releases still contain this user: {', '.join(receipt.releases)}; "
            "run `recsys train`, then delete their folders"
        )
    if receipt.training:
        console.print(
            "a training run is in progress and its release may contain this user: erase again when it has ended"
        )
    console.print(f"{receipt.elapsed_s:.1f} s")
