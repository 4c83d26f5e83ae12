"""A table moves the rows that were taken, by the rule it names, and no others."""

import numpy as np
import pytest
import torch

from recsys.retrieval.towers.rowwise_adam import RowTable


def table(weight_decay=0.0, seed=0):
    return RowTable(5, 3, 0.1, weight_decay, torch.Generator().manual_seed(seed))


def step(some, rows, target, rate=0.1):
    """One step towards a target."""
    ((some.take(torch.tensor(rows)) - target) ** 2).sum().backward()
    some.step(rate)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_step_is_adam_with_one_second_moment_a_row(weight_decay):
    some = table(weight_decay)
    weight = some.weight.numpy().astype(float)
    first, second = np.zeros((5, 3)), np.zeros(5)
    for number, rows in enumerate([[0, 3], [3, 4], [0, 4, 3]], 1):
        step(some, rows, 1.0)
        gradient = 2 * (weight[rows] - 1) + weight_decay * weight[rows]
        first[rows] = 0.9 * first[rows] + 0.1 * gradient
        second[rows] = 0.99 * second[rows] + 0.01 * (gradient**2).mean(axis=1)
        scale = np.sqrt(second[rows] / (1 - 0.99**number))
        weight[rows] -= 0.1 * first[rows] / (1 - 0.9**number) / scale[:, None]
    np.testing.assert_allclose(some.weight.numpy(), weight, rtol=1e-4, atol=1e-6)


def test_rows_that_were_not_taken_stay_as_they_are():
    some = table(weight_decay=0.5)
    before = some.weight.clone()
    step(some, [1, 2], 1.0)
    assert torch.equal(some.weight[[0, 3, 4]], before[[0, 3, 4]])
    assert not torch.isclose(some.weight[[1, 2]], before[[1, 2]]).any()


def test_a_restored_table_goes_on_as_the_one_it_was_taken_from():
    some, other = table(), table(seed=1)
    step(some, [0, 1], 1.0)
    other.restore(some.state())
    for rows in ([1, 2], [0, 4]):
        step(some, rows, 2.0)
        step(other, rows, 2.0)
    assert torch.equal(some.weight, other.weight)


def test_a_state_is_not_changed_by_later_steps():
    some = table()
    state = some.state()
    before = state["weight"].clone()
    step(some, [0], 1.0)
    assert torch.equal(state["weight"], before)


def test_a_state_of_another_shape_is_refused():
    other = RowTable(4, 3, 0.1, 0.0, torch.Generator())
    with pytest.raises(ValueError, match=r"must have shape \(5, 3\)"):
        table().restore(other.state())


def test_a_step_without_rows_or_without_a_gradient_is_refused():
    some = table()
    with pytest.raises(ValueError, match="must follow"):
        some.step(0.1)
    some.take(torch.tensor([0]))
    with pytest.raises(ValueError, match="must follow"):
        some.step(0.1)
