"""Where models are trained: on the processor, or on a CUDA GPU where there is one.

Takes the setting, gives torch's device. Random numbers are drawn on the processor everywhere and moved, so that
batches, negatives and dropout are the same on every device. It does not know what is trained.
"""

from __future__ import annotations

import os

import torch

from recsys.errors import ConfigError

CPU = torch.device("cpu")

_REPRODUCIBLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What cuBLAS needs to give the same bytes again; it reads this when it is first used."""


def training_device(asked: str, section: str) -> torch.device:
    """The device that this setting means here.

    Args:
        asked: `auto`, `cpu` or `cuda`.
        section: dotted name of the settings it is of, for complaints.
    Raises: ConfigError when a GPU is asked for and torch sees none.
    """
    sees_gpu = torch.cuda.is_available()
    if asked == "cuda" and not sees_gpu:
        raise ConfigError(
            f"{section}.device must be auto or cpu where torch sees no CUDA GPU, got cuda (torch {torch.__version__}); "
            "install a CUDA build of torch and its driver, or set it to auto"
        )
    if asked == "cpu" or not sees_gpu:
        return CPU
    for name, value in _REPRODUCIBLE.items():
        os.environ.setdefault(name, value)
    return torch.device("cuda")
