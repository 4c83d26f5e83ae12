"""The loop: it stops where it should, keeps the best, and can be stopped and resumed without a trace."""

from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from recsys.config import FitConfig
from recsys.errors import DataError
from recsys.retrieval.towers.fitting import fit
from recsys.retrieval.towers.rowwise_adam import RowTable

CONFIG = FitConfig(epochs=4, batch_size=4, learning_rate=0.1, seed=3)
N_EXAMPLES = 10


class Lines:
    """Fits y = slope * x + offset of the example's group; noise drawn from the run's generator."""

    n_examples = N_EXAMPLES

    def __init__(self):
        self.slope = nn.Parameter(torch.zeros(1))
        self.offset = RowTable(2, 1, 0.0, 0.0, torch.Generator())
        self.dense, self.tables = [self.slope], [self.offset]
        self.seen = []

    def loss(self, batch, generator):
        self.seen.append(batch.tolist())
        rows, place = torch.unique(batch % 2, return_inverse=True)
        x = batch.float() / N_EXAMPLES + 0.01 * torch.randn(len(batch), generator=generator)
        guess = self.slope * x + self.offset.take(rows)[place, 0]
        return ((guess - 2 * x - (batch % 2)) ** 2).mean()

    def bytes(self):
        return self.slope.detach().numpy().tobytes() + self.offset.weight.numpy().tobytes()


def nothing(done, total):
    pass


def test_every_pass_takes_every_example_once_in_another_order():
    model = Lines()
    fit(model, CONFIG, "s", nothing)
    passes = [list(chain(*model.seen[3 * n : 3 * n + 3])) for n in range(4)]
    assert all(sorted(one) == list(range(N_EXAMPLES)) for one in passes)
    assert passes[0] != passes[1]


def test_it_learns_both_what_is_dense_and_what_is_in_tables():
    model = Lines()
    fitted = fit(model, CONFIG.model_copy(update={"epochs": 200}), "s", nothing)
    assert model.slope.item() == pytest.approx(2, abs=0.1)
    assert model.offset.weight[:, 0].tolist() == pytest.approx([0, 1], abs=0.1)
    assert fitted.losses[-1] < fitted.losses[0] / 100


def test_weight_decay_pulls_what_is_dense_towards_zero():
    free, pulled = Lines(), Lines()
    fit(free, CONFIG.model_copy(update={"epochs": 200}), "s", nothing)
    fit(pulled, CONFIG.model_copy(update={"epochs": 200, "weight_decay": 1.0}), "s", nothing)
    assert 0 < pulled.slope.item() < free.slope.item() / 2


@pytest.mark.parametrize("stopped_after", [1, 5, 11])
def test_a_run_that_is_stopped_and_resumed_gives_the_same_bytes(tmp_path, stopped_after):
    whole, parted = Lines(), Lines()
    path = tmp_path / "checkpoints" / "fit.pt"
    judgements = [0.1, 0.3, 0.2, 0.3]

    def judge_of(model):
        return lambda: judgements[len(model.seen) // 3 - 1] if len(model.seen) % 3 == 0 else 0.0

    expected = fit(whole, CONFIG, "s", nothing, judge_of(whole))
    steps = []

    def stopping(done, total):
        steps.append(done)
        if len(steps) == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(parted, CONFIG, "s", stopping, judge_of(parted), path)
    again = Lines()
    again.seen = [[]] * (stopped_after // 3 * 3)  # passes that were finished
    found = fit(again, CONFIG, "s", nothing, judge_of(again), path)
    assert again.bytes() == whole.bytes()
    assert found == expected


@pytest.mark.parametrize("n_bytes", [0, 1, 100, -100])
def test_a_checkpoint_that_is_not_whole_is_as_none(tmp_path, n_bytes, caplog):
    path = tmp_path / "fit.pt"
    whole, again = Lines(), Lines()
    fit(whole, CONFIG, "s", nothing, checkpoint=path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    fit(again, CONFIG, "s", nothing, checkpoint=path)
    assert again.bytes() == whole.bytes()
    assert "starts from the beginning" in caplog.text


def test_early_stopping_restores_the_best_weights():
    model, kept, judged = Lines(), [], iter([0.1, 0.5, 0.4, 0.3, 0.9])

    def judge():
        kept.append(model.bytes())
        return next(judged)

    fitted = fit(model, CONFIG.model_copy(update={"epochs": 5, "patience": 2}), "s", nothing, judge)
    assert (fitted.epochs, fitted.judged) == (2, [0.1, 0.5, 0.4, 0.3])
    assert model.bytes() == kept[1] != kept[-1]


def test_without_a_judge_the_last_pass_counts():
    fitted = fit(Lines(), CONFIG, "s", nothing)
    assert (fitted.epochs, fitted.judged, len(fitted.losses)) == (4, [], 4)


def test_progress_counts_examples_of_all_passes():
    told = []
    fit(Lines(), CONFIG, "s", lambda done, total: told.append((done, total)))
    assert told[-1] == (40, 40)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_the_rate_falls_from_start_to_final_along_a_cosine():
    class Slope(Lines):
        """The gradient is 1 always, so Adam moves by the rate."""

        def loss(self, batch, generator):
            self.offset.take(torch.tensor([0])).sum().backward()
            self.seen.append(self.slope.item())
            return self.slope.sum()

    model = Slope()
    fit(model, CONFIG.model_copy(update={"final_rate": 0.2}), "s", nothing)
    moved = -np.diff([*model.seen, model.slope.item()])
    step = np.arange(12)
    np.testing.assert_allclose(moved, 0.1 * (0.2 + 0.8 * (1 + np.cos(np.pi * step / 12)) / 2), rtol=1e-3)


def test_a_loss_that_is_no_number_names_the_setting():
    class Broken(Lines):
        def loss(self, batch, generator):
            return super().loss(batch, generator) * float("nan")

    with pytest.raises(DataError, match=r"got nan at step 1 of 12; lower s.learning_rate or raise s.temperature"):
        fit(Broken(), CONFIG, "s", nothing)
