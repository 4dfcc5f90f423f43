from __future__ import annotations

import io
import math

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

import rsnn
from rsnn.training import loop, watch
from rsnn.training.display import ConsoleDisplay, TensorBoardDisplay
from rsnn.training.recipe import Loop
from rsnn.training.state import Place


def course(loss, waited=0.0, seconds=10.0):
    return {"loss": loss, "waited": waited, "seconds": seconds}


def test_rates_are_the_shares_that_fire():
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16)).eval()
    spikes = []
    model.classifier.convs[0].lif.register_forward_hook(lambda _m, _x, y: spikes.append(y[0]))
    frames = torch.poisson(torch.full((4, 2, 2, 16, 16), 2.0))
    with torch.no_grad(), watch.firing(model) as layers:
        model(frames)
    assert len(layers) == 6  # four convolutions and two fully connected layers
    first = layers["classifier.convs.0.lif"]
    assert first.chances == spikes[0].numel()
    assert first.fired == pytest.approx(spikes[0].sum().item())


class Says(torch.nn.Module):
    """A classifier whose one neuron fires at every step of a recording that has something in its first pixel."""

    in_channels, num_classes = 2, 3

    def __init__(self):
        super().__init__()
        self.lif = rsnn.nn.LIF(tau=2.0, v_threshold=0.5)

    def forward(self, features):
        spikes, _ = self.lif(features[:, :, :1, 0, 0])
        return spikes.sum(0).expand(-1, 3)


class Counts(torch.utils.data.Dataset):
    """Five recordings of 2 steps, the last of which alone has anything in it."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((2, 2, 4, 4), float(index[1] == 4)), 0


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5])
def test_every_recording_counts_the_same_in_a_rate(batch_size):
    model = rsnn.RSNN(rsnn.nn.FramePool(2), Says())
    result = loop.measure(model, Counts(), Accelerator(cpu=True), Loop(batch_size=batch_size))
    assert result["rates"] == pytest.approx({"classifier.lif": 1 / 5})


def test_silent_and_saturated_layers_are_named():
    said = watch.rate_warnings({"a": 0.0, "b": 0.2, "c": 0.99})
    assert len(said) == 2
    assert "layer a is silent" in said[0]
    assert "layer c is saturated" in said[1]


def test_a_loss_that_does_not_move_is_said_once():
    still = [course(2.303) for _ in range(5)]
    assert (
        "the loss has not moved in 5 epochs (2.303 to 2.303; guessing gives 2.303)"
        in watch.history_warnings(still, math.log(10))[0]
    )
    assert "(2.303 to 2.303): check" in watch.history_warnings(still)[0]
    assert watch.history_warnings([*still, course(2.303)]) == []
    assert watch.history_warnings([course(2.3 - 0.1 * k) for k in range(5)]) == []


def test_a_slow_loader_is_said_once():
    history = [course(1.0, waited=5.0)]
    assert "waited 50% of the epoch" in watch.history_warnings(history)[0]
    history.append(course(1.0, waited=5.0))
    assert watch.history_warnings(history) == []
    assert watch.history_warnings([course(1.0, waited=1.0)]) == []


def place():
    history = [
        {
            "epoch": 1, "loss": 2.0, "train_accuracy": 0.25, "accuracy": 0.5, "cross_entropy": 1.5,
            "rates": {"a": 0.1, "b": 0.025}, "samples_per_second": 12.0, "seconds": 3.0, "waited": 0.1, "lr": 0.01,
        }
    ]  # fmt: skip
    return Place("encoder", epoch=1, history=history, selected_epoch=1)


def test_the_console_shows_each_epoch_and_its_warnings():
    written = io.StringIO()
    display = ConsoleDisplay(Console(file=written, width=60))
    display.begin("encoder", 2, 3, Place("encoder"))
    display.update(Place("encoder", update=1, sums={"loss": 4.0, "right": 1, "recordings": 2, "seconds": 0.5}))
    display.epoch(place(), ["look [here]"])
    display.end(place())
    text = written.getvalue()
    assert "encoder 1/2: loss 2.000, train 25.0%, validation 50.0% best" in text
    assert "firing % by layer 10.0 2.5" in text
    assert "warning: look [here]" in text
    assert "epoch 1 selected, validation 50.0%; last epoch 50.0%" in text


def test_tensorboard_has_every_figure(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    display = TensorBoardDisplay(ConsoleDisplay(Console(file=io.StringIO())), tmp_path)
    display.begin("encoder", 2, 3, Place("encoder"))
    display.epoch(place(), [])
    display.end(place())
    display.close()
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Scalars("encoder/accuracy")[0].value == pytest.approx(0.5)
    assert read.Scalars("encoder/rate/a")[0].step == 1
