"""Shares of the ranks and the multi-scale sequence."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.distributed_sampler import DistributedSampler, shape_for_step, shard_indices

SHAPES = [(side, side) for side in range(416, 737, 32)]


@given(n=st.integers(1, 300), ranks=st.integers(1, 9), epoch=st.integers(0, 50), shuffle=st.booleans())
def test_shares_cover_the_set_and_have_one_length(n, ranks, epoch, shuffle):
    shares = [
        DistributedSampler(n, rank, ranks, shuffle=shuffle, seed=4).indices(epoch) for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {-(-n // ranks)}
    assert set(np.concatenate(shares)) == set(range(n))
    interleaved = np.stack(shares, axis=1).reshape(-1)
    assert len(set(interleaved[:n])) == n  # nothing twice before the filling at the end


def test_order_changes_with_epoch_and_seed_and_repeats():
    sampler = DistributedSampler(100, seed=1)
    assert sampler.indices(3).tolist() == DistributedSampler(100, seed=1).indices(3).tolist()
    assert sampler.indices(3).tolist() != sampler.indices(4).tolist()
    assert sampler.indices(3).tolist() != DistributedSampler(100, seed=2).indices(3).tolist()


@given(n=st.integers(0, 200), ranks=st.integers(1, 7))
def test_evaluation_counts_each_sample_once(n, ranks):
    shares = [shard_indices(n, rank, ranks) for rank in range(ranks)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_multi_scale_sequence():
    def sequence(epoch):
        return [shape_for_step(SHAPES, 10, 1, epoch, step) for step in range(200)]

    first = sequence(0)
    assert first == sequence(0)  # no rank in it: the same everywhere
    assert first != sequence(1)
    assert all(len(set(first[start : start + 10])) == 1 for start in range(0, 200, 10))
    drawn = {shape for epoch in range(20) for shape in sequence(epoch)}
    assert drawn == set(SHAPES)
