"""Print what three counters say of one network, layer by layer: ours, NeuroBench's and SpikingJelly's.

    python scripts/compare_counters.py

The network is small and its weights and frames are made from a seed. NeuroBench hooks convolutions and linear layers,
and looks at the values of the batch; SpikingJelly sees every operation, and looks at the values of the call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rsnn
from rsnn.energy import EnergyReport, energy_report
from rsnn.nn import LIF, ConvLSTM

LAYERS = ("stem", "encoder.input_gates", "encoder.hidden_gates", "first", "second", "third", "output")
SAMPLES = 2


class Network(nn.Module):
    """Conv - ConvLSTM - Conv BN LIF MP2 - Conv LIF AP2 - Conv 1 x 1 LIF - Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 2, 3, padding=1)
        self.encoder = ConvLSTM(2, 3)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first_lif = LIF()
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second_lif = LIF()
        self.average = nn.AvgPool2d(2)
        self.third = nn.Conv2d(4, 4, 1, bias=False)
        self.third_lif = LIF()
        self.output = nn.Linear(16, 3)

    def forward(self, frames: Tensor) -> Tensor:
        T, N = frames.shape[:2]

        def steps(x: Tensor) -> Tensor:
            return x.unflatten(0, (T, N))

        x = self.encoder(steps(self.stem(frames.flatten(0, 1))))[0].flatten(0, 1)
        x = self.first_lif(steps(self.norm(self.first(x))))[0].flatten(0, 1)
        x = self.second_lif(steps(self.second(self.pool(x))))[0].flatten(0, 1)
        x = self.third_lif(steps(self.third(self.average(x))))[0].flatten(0, 1)
        return steps(self.output(x.flatten(1))).mean(0)


def make() -> tuple[Network, Tensor]:
    """Return the network, an eighth of the second convolution's weights zero, and frames of counts (T, N, 2, 8, 8)."""
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        for name, gain in (("first", 8.0), ("second", 16.0), ("third", 40.0)):
            getattr(model, name).weight.mul_(gain)
        model.second.weight.flatten()[::8] = 0.0
    frames = torch.poisson(torch.full((4, SAMPLES, 2, 8, 8), 0.4))
    frames[:, 0].clamp_(max=1.0)  # the first sample has no pixel with two events, the second one has
    return model, frames


def ours(model: nn.Module, frames: Tensor) -> EnergyReport:
    """Return our report, which is per sample."""
    return energy_report(model, frames)


def inputs_of(model: Network, frames: Tensor) -> dict[str, list[Tensor]]:
    """Return what each convolution and linear layer is called with; those of a ConvLSTM with what is padded already."""
    caught: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _m, args, name=name: caught.setdefault(name, []).append(args[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model(frames)
    for hook in hooks:
        hook.remove()
    return caught


def neurobench(model: Network, frames: Tensor) -> dict[str, tuple[float, float, float]]:
    """Return NeuroBench's effective MAC and AC and dense operations of each layer, per sample."""
    from neurobench.metrics.utils.layers import single_layer_MACs

    counts = {}
    for name, inputs in inputs_of(model, frames).items():
        mac = ac = dense = 0
        for x in inputs:
            effective, spiking = single_layer_MACs(x, model.get_submodule(name))
            mac, ac = mac + effective * (not spiking), ac + effective * spiking
            dense += single_layer_MACs(x, model.get_submodule(name), total=True)[0]
        counts[name] = tuple(count / frames.shape[1] for count in (mac, ac, dense))
    return counts


def spikingjelly(model: Network, frames: Tensor) -> dict[str, tuple[float, float]]:
    """Return SpikingJelly's MAC and synaptic operations of each layer, per sample."""
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, MACCounter, SynOpCounter

    counts = {}
    for name, inputs in inputs_of(model, frames).items():
        counters = [MACCounter(), SynOpCounter()]
        with DispatchCounterMode(counters), torch.no_grad():
            for x in inputs:
                model.get_submodule(name)(x)
        counts[name] = tuple(counter.get_total() / frames.shape[1] for counter in counters)
    return counts


def encoder_by_spikingjelly(model: Network, frames: Tensor) -> tuple[float, float]:
    """Return SpikingJelly's MAC and synaptic operations of the encoder as a whole, in plain PyTorch, per sample."""
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, MACCounter, SynOpCounter

    counters = [MACCounter(), SynOpCounter()]
    x = model.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    with rsnn.kernels.use("torch"), DispatchCounterMode(counters), torch.no_grad():
        model.encoder(x)
    mac, synops = (counter.get_total() / frames.shape[1] for counter in counters)
    return mac, synops


def main() -> None:
    model, frames = make()
    report = ours(model, frames)
    rows = {layer.name: layer for layer in report.layers if layer.kind in ("convolution", "linear")}
    theirs, alone, counted = neurobench(model, frames), neurobench(model, frames[:, :1]), spikingjelly(model, frames)
    print("| layer | input | ours: MAC, AC (dense) | NeuroBench: MAC, AC (dense) | SpikingJelly: MAC, SynOps |")
    print("|---|---|---|---|---|")
    kinds = ("counts", "features", "hidden states", "features", "spikes, max-pooled", "spikes, averaged", "spikes")
    for name, kind in zip(LAYERS, kinds, strict=True):
        row = rows[name]
        cells = [f"{row.mac:,.0f}, {row.ac:,.0f} ({row.dense_mac + row.dense_ac:,.0f})"]
        cells.append("{:,.0f}, {:,.0f} ({:,.0f})".format(*theirs[name]))
        cells.append("{:,.0f}, {:,.0f}".format(*counted[name]))
        print(f"| `{name}` | {kind} | {' | '.join(cells)} |")
    mac, synops = encoder_by_spikingjelly(model, frames)
    whole = [layer for layer in report.layers if layer.name.startswith("encoder")]
    ours_mac, ours_ac = sum(layer.mac for layer in whole), sum(layer.ac for layer in whole)
    hooked = [sum(column) for column in zip(*(theirs[name] for name in LAYERS if "encoder" in name), strict=True)]
    cells = [
        f"{ours_mac:,.0f}, {ours_ac:,.0f}",
        "{:,.0f}, {:,.0f} ({:,.0f})".format(*hooked),
        f"{mac:,.0f}, {synops:,.0f}",
    ]
    print(f"| `encoder`, all of it | features | {' | '.join(cells)} |")
    print(
        "\nNeuroBench, `stem`, on the first sample alone, whose counts are all 0 or 1: "
        "{:,.0f} MAC and {:,.0f} AC; ".format(*alone["stem"])
        + "on both samples: {:,.0f} and {:,.0f} for each.".format(*theirs["stem"])
    )


if __name__ == "__main__":
    main()
