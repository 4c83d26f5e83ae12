"""What the scripts about point-in-time counts share: the tables, the clock, the comparison.

Takes a folder with `events.arrow`, `queries.arrow` and, made by us, `ours.npy`. It does not know who counts.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa


def read_words():
    """The folder, the moment that sums grow from, and ln 2 over each half-life, from the command line."""
    folder, start, *half_lives = sys.argv[1:]
    return Path(folder), int(start), [float(np.log(2) / int(half_life)) for half_life in half_lives]


def read_table(folder, name):
    """Memory-mapped: nothing is copied, nothing is sorted."""
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()


def by_row(n_rows, row, columns):
    """(Q, H) in the order of the queries."""
    out = np.empty((n_rows, len(columns)))
    for place, column in enumerate(columns):
        out[row, place] = column
    return out


def tell(folder, version, formulations):
    """Time each formulation once and print all as one line of JSON."""
    ours = np.load(folder / "ours.npy")
    seconds, cpu_seconds, worst = {}, {}, 0.0
    for name, work in formulations.items():
        start, cpu_start = time.perf_counter(), time.process_time()
        made = work()
        seconds[name] = round(time.perf_counter() - start, 3)
        cpu_seconds[name] = round(time.process_time() - cpu_start, 3)
        largest = np.maximum(np.abs(made), np.abs(ours))
        difference = np.abs(made - ours)
        worst = max(worst, float(np.max(difference[largest > 0] / largest[largest > 0], initial=0.0)))
        if not np.isfinite(made).all():
            sys.exit(f"{name} must give finite counts")
    figures = {"version": version, "seconds": seconds, "cpu_seconds": cpu_seconds}
    print(json.dumps({**figures, "max_relative_difference": worst, "peak_memory_mb": _peak_mb()}))


def _peak_mb():
    # Not ru_maxrss: that begins with the memory of the program which started this one.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1.024 / 1000)
