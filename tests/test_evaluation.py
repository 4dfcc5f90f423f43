from __future__ import annotations

import numpy as np
import pytest
import torch

import rsnn
from rsnn.evaluation import Evaluation, evaluate, wilson_interval


class LabelInFrame(torch.nn.Module):
    """A classifier that reads the class off the first pixel, so that a test decides what it answers."""

    in_channels, num_classes = 2, 3

    def forward(self, features):
        return torch.nn.functional.one_hot(features[0, :, 0, 0, 0].long(), 3).float()


@pytest.fixture
def reader():
    return rsnn.RSNN(rsnn.nn.FramePool(2), LabelInFrame(), class_names=("a", "b", "c"))


def frames(answer):
    return np.full((4, 2, 5, 5), answer, dtype=np.float32)


def test_counts_by_hand(reader):
    # true a: answered a, a, b; true b: answered b; true c: answered a.
    samples = [(frames(0), 0), (frames(0), 0), (frames(1), 0), (frames(1), 1), (frames(0), 2)]
    result = evaluate(reader, iter(samples), batch_size=2)
    assert result.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert result.samples == 5
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.per_class == pytest.approx({"a": 2 / 3, "b": 1.0, "c": 0.0})


def test_progress_counts_every_recording_once(reader):
    seen = []
    evaluate(reader, [(frames(0), 0)] * 5, batch_size=2, on_progress=seen.append)
    assert seen == [2, 4, 5]


def test_wilson_interval_against_published_values():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148, score method without continuity correction.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(0, 20)[1] == pytest.approx(0.1611, abs=5e-5)


def test_a_class_that_does_not_occur_has_no_accuracy():
    result = Evaluation(np.array([[3, 1], [0, 0]]), ("a", "b"))
    assert result.per_class == {"a": 0.75}


def test_nothing_to_evaluate_is_an_error(reader):
    with pytest.raises(rsnn.RSNNError, match="no recordings"):
        evaluate(reader, [])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_of_no_class_is_an_error(reader, label):
    with pytest.raises(rsnn.RSNNError, match=f"label {label}: expected a class index from 0 to 2"):
        evaluate(reader, [(frames(0), label)])
