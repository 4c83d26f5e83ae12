"""Run the command line: `python -m recsys`."""

from recsys.cli import main

main()
