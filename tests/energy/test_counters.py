"""The same network counted by others: equal where the definitions are, and different by what the documentation says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_counters.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare_counters", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def counted(compare):
    model, frames = compare.make()
    rows = {one.name: one for one in compare.ours(model, frames).layers if one.kind in ("convolution", "linear")}
    return model, frames, rows


def test_neurobench_has_the_same_effective_and_dense_counts(compare, counted):
    pytest.importorskip("neurobench")
    model, frames, rows = counted
    theirs = compare.neurobench(model, frames)
    assert set(rows) == set(theirs)
    for name, (mac, ac, dense) in theirs.items():
        assert mac + ac == rows[name].mac + rows[name].ac > 0, name
        # A ConvLSTM calls its convolutions with what is padded already: 9 taps at 8 x 8 pixels, where ours are 22 x 22.
        padding = 9 * 64 / 22**2 if name.startswith("encoder") else 1
        assert dense == padding * (rows[name].dense_mac + rows[name].dense_ac), name


def test_neurobench_splits_by_the_values_of_the_batch(compare, counted):
    pytest.importorskip("neurobench")
    model, frames, _ = counted
    together, alone = (compare.neurobench(model, part)["stem"] for part in (frames, frames[:, :1]))
    assert together[0] > 0
    assert together[1] == 0
    assert alone[0] == 0
    assert alone[1] > 0
    ours = [
        next(one for one in compare.ours(model, part).layers if one.name == "stem") for part in (frames, frames[:, :1])
    ]
    assert all(one.mac > 0 and one.ac == 0 for one in ours)


def test_spikingjelly_counts_padding_and_zeros(compare, counted):
    model, frames, rows = counted
    theirs = compare.spikingjelly(model, frames)
    steps = len(frames)
    # Nine taps at all pixels; ours are (3 n - 2)^2 taps for n x n pixels that meet one.
    assert theirs["stem"] == (steps * 2 * 2 * 9 * 64, 0)
    assert rows["stem"].dense_mac == steps * 2 * 2 * 22**2
    assert theirs["first"] == (steps * 3 * 4 * 9 * 64, 0)
    # Spikes: a convolution's synaptic operations leave zero inputs and padding out, as ours; not zero weights.
    mac, synops = theirs["second"]
    zero = (model.second.weight == 0).double().mean().item()
    assert mac == 0
    assert rows["second"].ac < synops
    assert rows["second"].ac == pytest.approx(synops * (1 - zero), rel=0.1)
    # Averages are no spikes, to either; the last layer's input is.
    assert theirs["third"] == (steps * 4 * 4 * 4, 0)
    assert rows["third"].dense_mac == theirs["third"][0]
    assert theirs["output"][1] == rows["output"].ac


def test_spikingjelly_takes_a_state_of_zeros_for_spikes(compare, counted):
    """Its recurrent convolution of the first step counts as spikes, of which there are none."""
    model, frames, rows = counted
    mac, synops = compare.encoder_by_spikingjelly(model, frames)
    steps = len(frames)
    products = steps * 2 * 12 * 9 * 64 + (steps - 1) * 3 * 12 * 9 * 64
    assert mac >= products  # and its rules for the gates
    assert synops == 0
    assert rows["encoder.hidden_gates"].dense_mac == steps * 3 * 12 * 22**2


def test_the_network_has_what_it_is_for(compare, counted):
    model, frames, _ = counted
    assert frames[:, 0].max() == 1
    assert frames[:, 1].max() > 1
    inputs = compare.inputs_of(model, frames)
    for name in ("second", "output"):
        assert set(torch.cat(inputs[name]).unique().tolist()) == {0.0, 1.0}
    assert 0 < torch.cat(inputs["third"]).unique().numel() > 2
