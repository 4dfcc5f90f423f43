"""What counts as a number is the same wherever one is asked for."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from rsnn import kernels, nn
from rsnn.checks import check_whole, is_finite, is_number, is_whole
from rsnn.data.transforms import RandomWindow
from rsnn.errors import InputError
from rsnn.plots import save_animation

WHOLE = [0, -3, 10**400, np.int8(5), np.uint64(2**64 - 1)]
REAL = [0.5, np.float32(0.5), Fraction(1, 3)]
ENDLESS = [float("inf"), float("nan"), np.float32("-inf")]
NO_NUMBERS = [True, np.True_, None, "1", 1j, [1], np.ones(1), torch.ones(())]


@pytest.mark.parametrize("value", [*WHOLE, *REAL, *ENDLESS, *NO_NUMBERS], ids=lambda value: repr(value)[:20])
def test_what_is_a_number(value):
    known = [any(value is one for one in kind) for kind in (WHOLE, REAL, ENDLESS)]
    assert is_whole(value) == known[0]
    assert is_number(value) == any(known)
    assert is_finite(value) == (any(known[:2]) and value is not WHOLE[2])


def test_whole_numbers_become_pythons():
    assert type(check_whole("n", np.int16(4), 4)) is int
    for bad in (3, 4.0, True, "4", None):
        with pytest.raises(InputError, match=r"n is .*; expected a whole number of at least 4"):
            check_whole("n", bad, 4)


def test_numbers_of_numpy_are_taken_as_pythons_are():
    half, two = np.float32(0.5), np.float32(2)
    lif = nn.LIF(two, half, half - 1, kernels.ATan(two))
    assert (lif.tau, lif.v_threshold, lif.v_reset, lif.surrogate) == (2.0, 0.5, -0.5, kernels.ATan(2.0))
    assert type(lif.surrogate.alpha) is float
    assert type(nn.SCNN(in_channels=1, num_classes=2, in_size=(16, 16), dropout=half).dropout) is float
    assert nn.SRM(two, two, half, half).tau_s == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LIF(v_threshold=True),
        lambda: nn.SCNN(in_channels=1, num_classes=2, in_size=(16, 16), dropout=False),
        lambda: kernels.ATan(True),
        lambda: kernels.graphed(torch.relu, most=True),
        lambda: RandomWindow(10**400),
        lambda: save_animation(np.zeros((2, 2, 4, 4)), "a.gif", frame_ms="fast"),
    ],
)
def test_what_is_no_number_is_refused(make):
    with pytest.raises(InputError, match="expected a"):
        make()
