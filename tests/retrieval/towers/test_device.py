"""Where models are trained: the setting, and that all of a training moves to the device it says."""

import os
from dataclasses import fields

import numpy as np
import pytest
import torch

from recsys.config import IdTowersConfig
from recsys.errors import ConfigError
from recsys.retrieval.towers import id_towers, training
from recsys.retrieval.towers.device import CPU, training_device
from recsys.retrieval.towers.id_towers import IdTowers, Log
from recsys.retrieval.towers.training import train_towers

from ..elsewhere import ELSEWHERE, Elsewhere
from ..tastes import SMALL, clicks_of, two_tastes


@pytest.fixture
def gpu(monkeypatch):
    """Says whether torch sees one."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    return lambda there: monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


@pytest.mark.parametrize(
    ("asked", "there", "device"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_takes_the_gpu_where_there_is_one(gpu, asked, there, device):
    gpu(there)
    assert training_device(asked, "retrieval.towers") == torch.device(device)
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == (device == "cuda")


@pytest.mark.parametrize("section", ["retrieval.towers", "retrieval.id_towers"])
def test_a_gpu_that_is_not_there_is_refused_by_the_setting_s_name(gpu, section):
    gpu(False)
    with pytest.raises(ConfigError, match=rf"{section}\.device must be auto or cpu .* got cuda .* set it to auto"):
        training_device("cuda", section)


def elsewhere(monkeypatch):
    for module in (training, id_towers):
        monkeypatch.setattr(module, "training_device", lambda asked, section: ELSEWHERE)
    # The fused step has no kernel for tensors of Python.
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, fused, **settings: adam(*args, **settings))
    return Elsewhere()


@pytest.mark.parametrize("change", [{}, {"history": "attention", "history_cut": 0.5}, {"held_share": 0.2}])
def test_towers_trained_on_another_device_are_those_of_the_processor(monkeypatch, tmp_path, change):
    cat = two_tastes()
    config = SMALL.model_copy(update={"epochs": 2, **change})
    here = train_towers(cat, clicks_of(cat), config, lambda done, total: None)
    with elsewhere(monkeypatch):
        there = train_towers(cat, clicks_of(cat), config, lambda done, total: None, tmp_path)
    for column in fields(here):
        np.testing.assert_allclose(getattr(there, column.name), getattr(here, column.name), atol=1e-4)


@pytest.mark.parametrize("ordered", [False, True])
def test_towers_of_ids_trained_on_another_device_are_those_of_the_processor(monkeypatch, ordered):
    config = IdTowersConfig(epochs=2, batch_size=8, n_uniform_negatives=16, embedding_size=8, user_ids=True)
    rng = np.random.default_rng(0)
    log = Log(np.arange(0, 101, 5), rng.integers(0, 30, 100).astype(np.int32), ordered)

    def vectors():
        model = IdTowers(log, 30, config)
        model.fit(lambda done, total: None)
        return model.post_vectors(), model.user_vectors(np.arange(20, dtype=np.int32), log)

    here = vectors()
    with elsewhere(monkeypatch):
        there = vectors()
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


def test_what_is_left_on_the_processor_is_noticed():
    with Elsewhere():
        there = torch.ones(3, device=ELSEWHERE)
        assert (there + there).sum().item() == 6
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
    assert CPU != ELSEWHERE
