"""Schedules against the published rates."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.lr_scheduler import learning_rates

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


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at least 119"):
        learning_rates("cosine_annealing_sample", lr=1, steps_per_epoch=1, max_epoch=100)
    with pytest.raises(UserError, match="unknown"):
        learning_rates("poly", lr=1, steps_per_epoch=1, max_epoch=100)
