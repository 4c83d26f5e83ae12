"""Large embedding tables in training: a step reads and changes only the rows that its batch needs.

Takes distinct rows, gives them as a leaf of torch's graph; after the backward pass `step` moves them by row-wise Adam:
the first moment per number, the second per row, which keeps half of Adam's state. Rows that a step does not touch stay
as they are, and so do their moments. It does not know what a row stands for.

Source of the row-wise second moment: Gupta, Bengio, Weston, "Training Highly Multiclass Classifiers", JMLR 2014,
section 3.1 (for Adagrad).
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.retrieval.towers.device import CPU

_FIRST, _SECOND = 0.9, 0.99
_SMALLEST = 1e-8


class RowTable:
    """N embeddings of D numbers."""

    def __init__(
        self, n_rows: int, size: int, spread: float, weight_decay: float, generator: torch.Generator,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        """
        Args:
            spread: standard deviation at the start.
            weight_decay: pull towards zero, added to a row's gradient at each step that touches it.
            generator: of the processor, whatever the device, so that the start is the same everywhere.
        """
        self.weight = (torch.randn(n_rows, size, generator=generator) * spread).to(device)
        self._weight_decay = weight_decay
        self._first = torch.zeros_like(self.weight)
        self._second = torch.zeros(n_rows, device=device)
        self._n_steps = 0
        self._rows: Tensor | None = None
        self._leaf: Tensor | None = None

    def take(self, rows: Tensor) -> Tensor:
        """These rows, distinct, (n,), as a leaf whose gradient the next `step` uses, (n, D)."""
        self._rows, self._leaf = rows, self.weight.index_select(0, rows).requires_grad_()
        return self._leaf

    def step(self, rate: float) -> None:
        """Move the rows taken last against their gradient.

        Raises: ValueError when none were taken, or nothing was computed backwards from them.
        """
        if self._rows is None or self._leaf is None or self._leaf.grad is None:
            raise ValueError("a table's step must follow `take` and a backward pass from what it gave")
        rows, old = self._rows, self._leaf.detach()
        gradient = self._leaf.grad.add_(old, alpha=self._weight_decay)
        self._n_steps += 1
        first = self._first.index_select(0, rows).mul_(_FIRST).add_(gradient, alpha=1 - _FIRST)
        second = self._second[rows].mul_(_SECOND).add_(gradient.square().mean(dim=1), alpha=1 - _SECOND)
        self._first.index_copy_(0, rows, first)
        self._second[rows] = second
        scale = (second / (1 - _SECOND**self._n_steps)).sqrt_().add_(_SMALLEST)
        self.weight.index_copy_(0, rows, old.addcdiv_(first, scale[:, None], value=-rate / (1 - _FIRST**self._n_steps)))
        self._rows = self._leaf = None

    def state(self) -> dict[str, Tensor | int]:
        """All of it, for a checkpoint; tensors are copies."""
        copies = {"weight": self.weight, "first": self._first, "second": self._second}
        return {name: tensor.clone() for name, tensor in copies.items()} | {"n_steps": self._n_steps}

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Be what `state` was taken from. Raises: ValueError when that has another shape."""
        for name, mine in (("weight", self.weight), ("first", self._first), ("second", self._second)):
            given = state[name]
            if not isinstance(given, Tensor) or given.shape != mine.shape:
                raise ValueError(f"{name} of a table must have shape {tuple(mine.shape)}, got {given}")
            mine.copy_(given)
        self._n_steps = int(state["n_steps"])
