"""Every module's mode is its own: streams and predictions put it back, in one thread or several."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from stream_models import flat, random_events, small_model
from torch import nn

import rsnn
from rsnn.nn.modes import evaluating
from rsnn.streaming.decisions import decision_curve

WINDOW_US = 60_000


def modes(model):
    return [module.training for module in model.modules()]


def uses(model):
    """Each way to run a model on events."""
    events = random_events(60, 20_000)
    yield lambda: model.stream(window_us=WINDOW_US).push(events)
    yield model.stream(window_us=WINDOW_US).warm_up
    yield lambda: model.predict(events)
    yield lambda: model.predict(events, until=0.9)
    yield lambda: decision_curve(model, [(events, 0)])


@pytest.mark.parametrize("use", range(5))
@pytest.mark.parametrize(("whole", "part"), [(True, False), (False, True), (True, True), (False, False)])
def test_every_mode_is_put_back(use, whole, part):
    """And what runs meanwhile is in eval mode throughout: no statistics move, nothing is dropped out."""
    model = small_model().train(whole)
    model.classifier.train(part)
    before, buffers = modes(model), copy.deepcopy(dict(model.named_buffers()))
    list(uses(model))[use]()
    assert modes(model) == before
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_a_mode_is_put_back_after_an_error():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    model[0].eval()
    with pytest.raises(RuntimeError, match=r"\[False, False, False\], False"), evaluating(model):
        raise RuntimeError(f"{modes(model)}, {torch.is_grad_enabled()}")
    assert modes(model) == [True, False, True]
    assert torch.is_grad_enabled()


def test_the_last_of_two_threads_puts_it_back():
    model = nn.Sequential(nn.Dropout())
    entered, go_on, left = threading.Event(), threading.Event(), []

    def other():
        with evaluating(model):
            entered.set()
            go_on.wait(30)
            left.append(modes(model))

    thread = threading.Thread(target=other)
    with evaluating(model):
        thread.start()
        assert entered.wait(30)
    assert modes(model) == [False, False]
    go_on.set()
    thread.join()
    assert left == [[False, False]]
    assert modes(model) == [True, True]


def test_streams_of_a_model_in_train_mode_in_four_threads():
    model = small_model()
    pieces = [random_events(600, 4 * WINDOW_US, seed=seed) for seed in range(4)]
    wanted = [flat(model.stream(window_us=WINDOW_US).push(events)) for events in pieces]
    model.train()
    buffers = copy.deepcopy(dict(model.named_buffers()))
    got = [None] * 4

    def run(place):
        stream = model.stream(window_us=WINDOW_US)
        got[place] = flat(output for k in range(0, 600, 20) for output in stream.push(pieces[place][k : k + 20]))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(got, wanted, strict=True):
        assert [t_us for t_us, _ in one] == [t_us for t_us, _ in other]
        np.testing.assert_array_equal([shares for _, shares in one], [shares for _, shares in other])
    assert all(modes(model))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_a_model_in_use_can_be_copied():
    model = small_model().train()
    with evaluating(model):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert not any(modes(other))
    assert all(modes(model))


def test_models_that_share_a_part_wait_for_each_other():
    encoder = rsnn.nn.FramePool(2)
    one, other = (rsnn.RSNN(encoder, rsnn.nn.SCNN(2, 3, (8, 8), (2,))).train() for _ in range(2))
    entered, go_on = threading.Event(), threading.Event()

    def use_the_other():
        with evaluating(other):
            entered.set()
            go_on.wait(30)

    thread = threading.Thread(target=use_the_other)
    with evaluating(one):
        thread.start()
        assert entered.wait(30)
    assert one.classifier.training
    assert not encoder.training
    go_on.set()
    thread.join()
    assert encoder.training
    assert all(module.training for model in (one, other) for module in model.modules())
