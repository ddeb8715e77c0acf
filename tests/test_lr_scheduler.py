"""Schedules against the published rates."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.base.errors import UserError
from src.config import load_config
from src.lr_scheduler import learning_rates
from src.train.train_setup import create_rates
from tests import ROOT

CASES = (
    "exponential",
    "cosine_annealing",
    "cosine_annealing_eta",
    "cosine_annealing_V2",
    "cosine_annealing_sample",
)


@pytest.mark.parametrize("case", CASES)
def test_published_rates(fixtures, case):
    golden = np.load(fixtures / "lr_schedules.npz")
    arguments = json.loads(str(golden[f"args_{case}"]))
    rates = learning_rates(arguments.pop("lr_scheduler"), **arguments)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, golden[case], rtol=0, atol=1e-7)


def test_rates_of_the_published_run(fixtures):
    """The log's rate at the last step of each of 320 epochs, and which step that is; from the recipe's file."""
    rows = np.genfromtxt(fixtures / "published_run.csv", delimiter=",", names=True)
    config = load_config([f"--config_path={ROOT / 'configs' / 'dota_yolov4.yaml'}"])
    steps_per_epoch = 378
    rates = create_rates(config, steps_per_epoch)
    assert len(rows) == 320 and len(rates) == 320 * steps_per_epoch
    assert rows["iteration"].tolist() == [steps_per_epoch * epoch - 1 for epoch in range(1, 321)]
    np.testing.assert_allclose(rates[rows["iteration"].astype(int)], rows["lr"], rtol=0, atol=1e-9)


def test_two_cosines_keep_a_shorter_t_max():
    """As published, where t_max is raised to max_epoch for cosine_annealing alone: the first cosine ends at epoch 8."""
    words = ["--lr_scheduler=cosine_annealing_V2", "--lr=0.5", "--max_epoch=12", "--t_max=8", "--eta_min=0.1"]
    rates = create_rates(load_config(words), 1)
    first = 0.1 + 0.4 * (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
    np.testing.assert_allclose(rates[:8], first, rtol=1e-6)
    second = 0.1 + (first[-1] - 0.1) * (1 + np.cos(np.pi * np.arange(1, 5) / 4)) / 2
    np.testing.assert_allclose(rates[8:], second, rtol=1e-6)


@given(warmup=st.integers(1, 5), steps=st.integers(1, 20), epochs=st.integers(6, 40), lr=st.floats(1e-4, 1.0))
def test_warm_up_is_linear_and_then_the_rate_never_rises(warmup, steps, epochs, lr):
    rates = learning_rates(
        "cosine_annealing", lr=lr, steps_per_epoch=steps, max_epoch=epochs, warmup_epochs=warmup, t_max=epochs
    )
    assert len(rates) == epochs * steps
    np.testing.assert_allclose(
        rates[: warmup * steps], lr * np.arange(1, warmup * steps + 1) / (warmup * steps), rtol=1e-6
    )
    assert (np.diff(rates[warmup * steps :]) <= 0).all()


def test_exponential_steps_down_at_its_epochs():
    rates = learning_rates(
        "exponential", lr=1.0, steps_per_epoch=2, max_epoch=5, lr_epochs=[2, 4], lr_gamma=0.1
    )
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_exponential_passes_over_a_mark_within_the_warm_up():
    """Five epochs of two steps, warm-up over the first two; gamma is 0.1 where nothing is said."""
    rates = learning_rates(
        "exponential", lr=1.0, steps_per_epoch=2, max_epoch=5, warmup_epochs=2, lr_epochs=[1, 4]
    )
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.1, 0.1], rtol=1e-6)


@given(
    steps=st.integers(1, 9),
    epochs=st.integers(1, 40),
    warmup=st.integers(0, 3),
    longer=st.integers(0, 20),
    lr=st.floats(1e-4, 1.0),
    share=st.floats(0, 1),
)
def test_linear_falls_by_the_same_amount_each_epoch(steps, epochs, warmup, longer, lr, share):
    """Closed form: lr at the start, eta_min after t_max epochs, the same within an epoch."""
    t_max = epochs + longer
    rates = learning_rates(
        "linear", lr=lr, steps_per_epoch=steps, max_epoch=epochs, warmup_epochs=warmup, t_max=t_max,
        eta_min=share * lr,
    )  # fmt: skip
    warm = min(warmup, epochs) * steps
    expected = np.interp(np.arange(epochs * steps) // steps, [0, t_max], [lr, share * lr])
    np.testing.assert_allclose(rates[warm:], expected[warm:], rtol=1e-6)
    np.testing.assert_allclose(rates[:warm], lr * np.arange(1, warm + 1) / max(1, warmup * steps), rtol=1e-6)


def test_linear_stays_at_the_lowest_rate_after_its_period():
    rates = learning_rates("linear", lr=1.0, steps_per_epoch=1, max_epoch=6, t_max=4, eta_min=0.2)
    np.testing.assert_allclose(rates, [1, 0.8, 0.6, 0.4, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("name", ["yolov4", "yolov4-silu"])
def test_the_schedule_of_the_coco_recipe(name):
    """Cosine by epoch from 0.012 to 0 in 320 epochs; 20 epochs of rise, in which theirs is one step behind."""
    config = load_config([f"--config_path={ROOT / 'configs' / 'yolov4' / name}.yaml"])
    steps = 924  # 118,287 images in batches of 128
    rates = learning_rates(
        config.lr_scheduler, lr=config.lr, steps_per_epoch=steps, max_epoch=config.max_epoch,
        warmup_epochs=config.warmup_epochs, t_max=config.t_max, eta_min=config.eta_min,
    )  # fmt: skip
    epoch = np.arange(320 * steps) // steps
    theirs = 0.006 * (1 + np.cos(np.pi * epoch / 320))
    warm = 20 * steps
    theirs[:warm] = 0.012 * np.arange(warm) / warm
    assert len(rates) == len(theirs)
    np.testing.assert_allclose(rates[warm:], theirs[warm:], rtol=1e-6)
    np.testing.assert_allclose(rates[: warm - 1], theirs[1:warm], rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at least 119"):
        learning_rates("cosine_annealing_sample", lr=1, steps_per_epoch=1, max_epoch=100)
    with pytest.raises(UserError, match="unknown"):
        learning_rates("poly", lr=1, steps_per_epoch=1, max_epoch=100)
