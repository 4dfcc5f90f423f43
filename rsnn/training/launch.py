"""What a training or an evaluation runs on: what Accelerate finds, or a launcher has set up."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState, is_initialized
from accelerate.utils import GradientAccumulationPlugin

from rsnn.errors import ConfigError

# What makes a launcher, or a plugin of a program, ask for each way to split a model up.
_SPLIT = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}


def accelerator(*, cpu: bool = False, accumulate: int = 1) -> Accelerator:
    """Return Accelerate's view of this process and those beside it.

    What a launcher says of precision, compilation and accumulation does not count: a recipe says it.

    Args:
        cpu: stay on the CPU.
        accumulate: passes before each update.

    Raises:
        ConfigError: models are to be split up among processes, or this process has an accelerator of other settings.

    """
    for variable, what in _SPLIT.items():
        if os.environ.get(variable, "").lower() == "true":
            raise ConfigError(
                f"the launcher asks for {what} ({variable}=true), which splits a model up among the processes, and "
                "each process here has a whole one; expected accelerate launch --multi_gpu, or a --config_file "
                f"without {what}"
            )
    if is_initialized():
        _check_settings(cpu)
    return Accelerator(
        mixed_precision="no",
        dynamo_backend="no",
        # As a plugin: a bare number gives way to what a launcher's environment says.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        cpu=cpu,
    )


def _check_settings(cpu: bool) -> None:
    """Raise ConfigError where the settings of this process's first accelerator, which stay, are not those wanted."""
    device = PartialState().device
    if cpu and device.type != "cpu":
        raise ConfigError(
            f"loop.cpu = true, and this process works on {device} already, which Accelerate cannot change; expected "
            "a new process (in a notebook, a new kernel)"
        )
    precision = AcceleratorState().mixed_precision
    if precision != "no":
        raise ConfigError(
            f"this process has an accelerate.Accelerator(mixed_precision={precision!r}), which would count for every "
            "model; expected none, or mixed_precision='no': loop.precision is what a recipe trains in"
        )
