"""A cached kernel is recompiled when a function that it calls has changed."""

import subprocess
import sys


def test_an_edit_in_one_file_recompiles_a_cached_kernel_of_another(tmp_path):
    (tmp_path / "jit.py").write_text(
        "from pathlib import Path\nfrom recsys.world.jit import jit_of\nJIT = jit_of(Path(__file__).parent)\n"
    )
    (tmp_path / "outer.py").write_text(
        "from jit import JIT\nfrom inner import inner\n@JIT\ndef outer(x):\n    return inner(x)\n"
        "print(outer(1), sum(outer.stats.cache_hits.values()))\n"
    )

    def run(factor):
        (tmp_path / "inner.py").write_text(f"from jit import JIT\n@JIT\ndef inner(x):\n    return {factor} * x\n")
        command = [sys.executable, "outer.py"]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()

    assert run(2) == ["2", "0"]
    assert run(2) == ["2", "1"], "unchanged files are loaded from the cache"
    assert run(3) == ["3", "0"]
