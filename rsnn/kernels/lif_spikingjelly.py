"""The LIF sequence through SpikingJelly's multi-step neuron: fused (Triton or native) where the device has it."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from rsnn.kernels import surrogate as ours
from rsnn.kernels.surrogate import Surrogate


def unavailable() -> str | None:
    """Return why this kernel cannot run here, or None."""
    # find_spec does not run the package: importing it costs a second, and only its use should.
    if importlib.util.find_spec("spikingjelly") is None:
        return "spikingjelly is not installed (pip install 'spikingjelly>=2.0')"
    try:
        found = version("spikingjelly")
    except PackageNotFoundError:  # a source checkout on the path: of unknown version
        return None
    if int(found.split(".")[0]) < 2:
        return f"spikingjelly {found} is too old (pip install -U 'spikingjelly>=2.0')"
    return None


def implementation(device: str) -> str:
    """Return the name of what SpikingJelly itself chooses on `device`, and the reasons against its other ones."""
    from spikingjelly.activation_based.functional.neuron import neuron_implementation

    try:
        found = neuron_implementation("lif", torch.device(device))
    except Exception as error:  # SpikingJelly finds out by compiling
        return f"none: {error}"
    reasons = [f"{name}: {reason}" for name, reason in found["unavailable"].items()]
    return "; ".join((found["implementation"], *reasons))


def lif(
    x: Tensor,
    v: Tensor,
    *,
    tau: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[Tensor, Tensor]:
    """Run `x` (T, ...) through `spikingjelly.activation_based.neuron.LIFNode`; see [`rsnn.kernels.lif`][]."""
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based import surrogate as theirs

    functions = {ours.ATan: theirs.ATan, ours.Sigmoid: theirs.Sigmoid}
    # A node per call: SpikingJelly keeps the potential inside the module, this library outside of it.
    node = neuron.LIFNode(
        tau=float(tau),  # it asserts that its constants are floats
        v_threshold=float(v_threshold),
        v_reset=None if v_reset is None else float(v_reset),
        surrogate_function=functions[type(surrogate)](alpha=float(surrogate.alpha)),
        detach_reset=detach_reset,
        step_mode="m",
    )
    node.v = v
    return node(x), node.v


def supports(x: Tensor, tau: float | Tensor, surrogate: Surrogate) -> bool:  # noqa: ARG001  (asked of every kernel)
    """Tell whether SpikingJelly has this neuron: a fixed time constant, and a surrogate under the same name."""
    return not isinstance(tau, Tensor) and type(surrogate) in (ours.ATan, ours.Sigmoid)
