"""A device that is not there: it shows without a GPU that everything a model meets was moved to the model's device.

Its tensors say that they are on torch's `meta` device; the processor computes for them. An operation that mixes them
with tensors of the processor is refused, as CUDA refuses it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")


class _There(torch.Tensor):
    """A tensor that says it is elsewhere."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _There:
        there: _There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=ELSEWHERE,
        )  # fmt: skip
        there.inner = inner
        return there

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it is entered, tensors can be made on `ELSEWHERE` and moved there and back."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


_MOVES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = [value for value in given if isinstance(value, _There)]
    asked = kwargs.get("device")
    if there and operation not in _MOVES:
        here = [value for value in given if not isinstance(value, _There) and value.dim()]
        if here or (asked is not None and torch.device(asked) != ELSEWHERE):
            raise RuntimeError(f"{operation} mixes tensors of two devices: {[value.device for value in given]}")
    inside = tree_map(lambda value: value.inner if isinstance(value, _There) else value, (args, kwargs))
    if asked is not None:
        inside[1]["device"] = torch.device("cpu")
    result = operation(*inside[0], **inside[1])
    if operation._schema.is_mutable and operation._schema.name.endswith("_"):
        return args[0]
    stays = bool(there) if asked is None else torch.device(asked) == ELSEWHERE
    return tree_map(lambda value: _There(value) if stays and isinstance(value, torch.Tensor) else value, result)
