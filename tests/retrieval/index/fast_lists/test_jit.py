"""Compiled loops are recompiled when any file that they depend on changes."""

import re
from pathlib import Path

from recsys.retrieval.index.fast_lists import jit


def test_the_cache_stamp_covers_every_file_with_compiled_loops():
    texts = {path.name: path.read_text() for path in Path(jit.__file__).parent.glob("*.py")}
    compiled = {name for name, text in texts.items() if re.search(r"^@jit$", text, re.M)}
    used = {
        f"{name}.py"
        for of in compiled
        for name in re.findall(r"from recsys\.retrieval\.index\.fast_lists\.(\w+) import", texts[of])
    }
    assert {"search_kernel.py", "top_k_kernel.py"} <= compiled
    assert (compiled | used) - {"jit.py"} == set(jit._FILES)
