"""Train a retrieval model: batches, learning rate, early stopping, checkpoints.

Takes a model as its loss, its dense parameters and its embedding tables, and changes them in place. The same seed,
device, thread count and data give the same bytes, also after a stop and resume. It does not know what the model
computes or on which device: batches and random draws are made on the CPU.
"""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from recsys.config import FitConfig
from recsys.errors import DataError
from recsys.progress import Report
from recsys.retrieval.towers.device import CPU
from recsys.retrieval.towers.rowwise_adam import RowTable

log = logging.getLogger(__name__)


class Model(Protocol):
    """What `fit` needs of a model."""

    @property
    def n_examples(self) -> int: ...

    @property
    def dense(self) -> Sequence[nn.Parameter]:
        """Parameters that every step updates; may be empty."""

    @property
    def tables(self) -> Sequence[RowTable]:
        """Embedding tables from which every loss takes rows; may be empty."""

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of these examples, (B,).

        Args:
            batch: positions of the examples, on the CPU like `generator`.
        """


class Fitted(NamedTuple):
    """Result of `fit`."""

    epochs: int
    """Number of passes after which the model was best; its weights are those."""
    losses: list[float]
    """Mean loss of each pass."""
    judged: list[float]
    """Result of `judge` after each pass, higher is better; empty without `judge`."""


def fit(
    model: Model,
    config: FitConfig,
    section: str,
    progress: Report,
    judge: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
) -> Fitted:
    """Fit the model for `config.epochs` passes, or until `judge` has not improved for `config.patience` passes.

    Args:
        section: dotted name of `config` in the settings, for error messages.
        judge: measures the model on held-out examples; the weights of the best pass are kept.
        checkpoint: file written after each pass. If it exists the run resumes from it; if it is truncated the run
            starts anew and logs a warning. The caller ensures that it belongs to this model and data, and deletes it.
    Raises: DataError when the loss is not finite.
    """
    run = _Run(model, config)
    if checkpoint is not None and checkpoint.exists() and (state := _read(checkpoint)) is not None:
        run.restore(state)
    n_steps = config.epochs * math.ceil(model.n_examples / config.batch_size)
    with _deterministic():
        while run.epoch < config.epochs and not run.is_over(config.patience):
            loss, n_batches = 0.0, 0
            order = torch.randperm(model.n_examples, generator=run.generator)
            for start in range(0, model.n_examples, config.batch_size):
                batch = order[start : start + config.batch_size]
                step = run.epoch * math.ceil(model.n_examples / config.batch_size) + n_batches
                loss += _step(run, batch, _rate(config, step, n_steps), section, step, n_steps)
                n_batches += 1
                progress(run.epoch * model.n_examples + start + len(batch), config.epochs * model.n_examples)
            run.losses.append(loss / n_batches)
            run.epoch += 1
            if judge is not None:
                run.judge(judge())
            if checkpoint is not None:
                _save(run.state(), checkpoint)
    run.keep_best()
    return Fitted(run.best_epoch or run.epoch, run.losses, run.judged)


class _Run:
    """The state of a fit: everything that a checkpoint holds."""

    def __init__(self, model: Model, config: FitConfig) -> None:
        self.model = model
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimiser = _adam(model.dense, config) if model.dense else None
        self.epoch = 0
        self.losses: list[float] = []
        self.judged: list[float] = []
        self.best_epoch = 0
        self._best: list[Tensor] = []

    def judge(self, value: float) -> None:
        self.judged.append(value)
        if value >= max(self.judged):
            self.best_epoch = self.epoch
            self._best = [weight.detach().clone() for weight in self._weights()]

    def is_over(self, patience: int) -> bool:
        return bool(self.judged) and self.epoch - self.best_epoch >= patience

    def keep_best(self) -> None:
        with torch.no_grad():
            for weight, best in zip(self._weights(), self._best, strict=bool(self._best)):
                weight.copy_(best)

    def _weights(self) -> Iterator[Tensor]:
        yield from self.model.dense
        for table in self.model.tables:
            yield table.weight

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch, "losses": self.losses, "judged": self.judged, "best_epoch": self.best_epoch,
            "best": self._best, "generator": self.generator.get_state(),
            "dense": [parameter.detach().clone() for parameter in self.model.dense],
            "tables": [table.state() for table in self.model.tables],
            "optimiser": None if self.optimiser is None else self.optimiser.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.losses, self.judged, self._best = state["losses"], state["judged"], state["best"]
        self.generator.set_state(state["generator"])
        with torch.no_grad():
            for parameter, value in zip(self.model.dense, state["dense"], strict=True):
                parameter.copy_(value)
        for table, value in zip(self.model.tables, state["tables"], strict=True):
            table.restore(value)
        if self.optimiser is not None:
            self.optimiser.load_state_dict(state["optimiser"])


def _adam(dense: Sequence[nn.Parameter], config: FitConfig) -> torch.optim.Adam:
    return torch.optim.Adam(dense, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def _step(run: _Run, batch: Tensor, rate: float, section: str, step: int, n_steps: int) -> float:
    loss = run.model.loss(batch, run.generator)
    value = float(loss.item())
    if not math.isfinite(value):
        raise DataError(
            f"the loss must stay finite, got {value} at step {step + 1} of {n_steps}; lower {section}.learning_rate or "
            f"raise {section}.temperature"
        )
    if run.optimiser is not None:
        run.optimiser.param_groups[0]["lr"] = rate
        run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if run.optimiser is not None:
        run.optimiser.step()
    for table in run.model.tables:
        table.step(rate)
    return value


def _rate(config: FitConfig, step: int, n_steps: int) -> float:
    """Cosine decay from the learning rate to `final_rate` times it."""
    cosine = (1 + math.cos(math.pi * step / n_steps)) / 2
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)


def _save(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None when the file is truncated."""
    read = io.BytesIO(path.read_bytes())  # outside the try: a failing disk must raise
    try:
        state: dict[str, Any] = torch.load(read, weights_only=True, map_location=CPU)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        log.warning("training starts from the beginning: its checkpoint %s cannot be read (%s)", path, error)
        return None
    return state


@contextmanager
def _deterministic() -> Iterator[None]:
    """Make torch deterministic inside the block; restore its settings after it."""
    settings: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Filling new tensors guards against reading memory before it is set, and would cost a fifth of the time.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill
