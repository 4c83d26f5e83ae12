"""Peers: other programs that do the same work, run in their own environment (`make bench-peers`).

Takes the name of a script of `scripts/peers` and its words, gives the JSON object of its last line, or None with the
reason told when there is no such environment or the script fails. It does not know what is compared.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import orjson

from recsys.progress import Progress

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "peers"
_LIMIT_S = 1800.0


class Peers:
    """The peers' environment, where it is installed."""

    def __init__(self, folder: Path | None, progress: Progress) -> None:
        """`folder`: a virtual environment; without Python in it, or with None, every answer is None."""
        python = None if folder is None else folder / "bin" / "python"
        self.python = python if python is not None and python.exists() and SCRIPTS.is_dir() else None
        self.progress = progress
        if self.python is None:
            progress.say(f"no peers in {folder}: their figures stay empty; `make bench-peers` installs them")

    def run(self, script: str, *words: object) -> dict[str, Any] | None:
        """Run a script; return the JSON of its last line, None when it fails."""
        if self.python is None:
            return None
        command = [str(self.python), str(SCRIPTS / script), *map(str, words)]
        # Feast sends usage statistics unless told not to.
        environment = {**os.environ, "FEAST_USAGE": "False", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=_LIMIT_S, check=True)
            figures: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            self.progress.say(f"{script} failed, its figures stay empty: {lines[-1] if lines else error}")
        except (OSError, subprocess.TimeoutExpired, IndexError, orjson.JSONDecodeError) as error:
            self.progress.say(f"{script} failed, its figures stay empty: {error}")
        else:
            return figures
        return None
