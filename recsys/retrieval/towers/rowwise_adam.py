"""Train large embedding tables with row-wise Adam: a step reads and changes only the rows of its batch.

Takes distinct rows, gives them as a leaf of torch's graph; after the backward pass `step` updates them. Row-wise Adam
keeps a first moment per number and a second moment per row, half of Adam's state. Other rows and their moments do not
change. It does not know what a row stands for.

Source of the row-wise second moment: Gupta, Bengio, Weston, "Training Highly Multiclass Classifiers", JMLR 2014,
section 3.1 (for Adagrad).
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.retrieval.towers.device import CPU

_BETA1, _BETA2 = 0.9, 0.99
_EPSILON = 1e-8


class RowTable:
    """N embeddings of D numbers."""

    def __init__(
        self, n_rows: int, size: int, spread: float, weight_decay: float, generator: torch.Generator,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        """
        Args:
            spread: standard deviation of the first weights.
            weight_decay: L2 penalty, added to a row's gradient at each step that uses the row.
            generator: a CPU generator on every device, so that the first weights are the same everywhere.
        """
        self.weight = (torch.randn(n_rows, size, generator=generator) * spread).to(device)
        self._weight_decay = weight_decay
        self._first = torch.zeros_like(self.weight)
        self._second = torch.zeros(n_rows, device=device)
        self._n_steps = 0
        self._rows: Tensor | None = None
        self._leaf: Tensor | None = None

    def take(self, rows: Tensor) -> Tensor:
        """Gather distinct rows, (n,) to (n, D), as a leaf whose gradient the next `step` uses."""
        self._rows, self._leaf = rows, self.weight.index_select(0, rows).requires_grad_()
        return self._leaf

    def step(self, rate: float) -> None:
        """Update the rows of the last `take` from their gradient.

        Raises: ValueError without a `take` and a backward pass before.
        """
        if self._rows is None or self._leaf is None or self._leaf.grad is None:
            raise ValueError("a table's step must follow `take` and a backward pass through its result")
        rows, old = self._rows, self._leaf.detach()
        gradient = self._leaf.grad.add_(old, alpha=self._weight_decay)
        self._n_steps += 1
        first = self._first.index_select(0, rows).mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
        second = self._second[rows].mul_(_BETA2).add_(gradient.square().mean(dim=1), alpha=1 - _BETA2)
        self._first.index_copy_(0, rows, first)
        self._second[rows] = second
        scale = (second / (1 - _BETA2**self._n_steps)).sqrt_().add_(_EPSILON)
        self.weight.index_copy_(0, rows, old.addcdiv_(first, scale[:, None], value=-rate / (1 - _BETA1**self._n_steps)))
        self._rows = self._leaf = None

    def state(self) -> dict[str, Tensor | int]:
        """The complete state for a checkpoint; tensors are copies."""
        copies = {"weight": self.weight, "first": self._first, "second": self._second}
        return {name: tensor.clone() for name, tensor in copies.items()} | {"n_steps": self._n_steps}

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Set the state from a checkpoint. Raises: ValueError when a tensor has another shape."""
        for name, tensor in (("weight", self.weight), ("first", self._first), ("second", self._second)):
            given = state[name]
            if not isinstance(given, Tensor) or given.shape != tensor.shape:
                raise ValueError(f"{name} of a table must have shape {tuple(tensor.shape)}, got {given}")
            tensor.copy_(given)
        self._n_steps = int(state["n_steps"])
