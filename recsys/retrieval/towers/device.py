"""Choose the device that models are trained on: the CPU, or a CUDA GPU where there is one.

Takes the setting, gives torch's device. Random numbers are always drawn on the CPU and moved, so batches, negatives and
dropout are the same on every device. It does not know what is trained.
"""

from __future__ import annotations

import os

import torch

from recsys.errors import ConfigError

CPU = torch.device("cpu")

_REPRODUCIBLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Makes cuBLAS deterministic; it reads this variable at its first use."""


def training_device(device: str, section: str) -> torch.device:
    """The device for this setting on this machine.

    Args:
        device: `auto`, `cpu` or `cuda`.
        section: dotted name of the setting's section, for error messages.
    Raises: ConfigError for `cuda` when torch sees no GPU.
    """
    sees_gpu = torch.cuda.is_available()
    if device == "cuda" and not sees_gpu:
        raise ConfigError(
            f"{section}.device must be auto or cpu where torch sees no CUDA GPU, got cuda (torch {torch.__version__}); "
            "install a CUDA build of torch and its driver, or set it to auto"
        )
    if device == "cpu" or not sees_gpu:
        return CPU
    for name, value in _REPRODUCIBLE.items():
        os.environ.setdefault(name, value)
    return torch.device("cuda")
