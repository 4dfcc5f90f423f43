"""Whether kernels for NVIDIA GPUs can run here, and if not, the reason in one line."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch import Tensor


def missing(package: str, install: str) -> str | None:
    """Return what is missing for kernels that need `package` and a CUDA device, or None; imports nothing."""
    if torch.version.hip is not None:
        return "it is for NVIDIA GPUs, and this PyTorch is built for AMD's"
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device (torch.cuda.is_available() is False)"
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed ({install})"
    return None


def tf32_is_allowed() -> bool:
    """Tell whether PyTorch's convolutions of float32 may be in TF32, by its newer setting.

    (Reading the older one, `torch.backends.cudnn.allow_tf32`, is an error once the newer one was set.)
    """
    precision: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return precision == "tf32"


# As in selection.py: what it finds out is no part of a graph that torch.compile makes of the caller.
tf32_is_allowed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def failure(self_test: Callable[[], None]) -> str | None:
    """Run `self_test` and return its error in one line, or None where it passes.

    Whatever is wrong with an installation (versions that do not fit, a compiler that is not found, an architecture
    that a package does not know) shows here, before the kernel is chosen, rather than in the middle of a model.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            self_test()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"its self-test on this device failed: {type(error).__name__}: {lines[0][:200]}"
    return None


@functools.cache
def works(device: torch.device, self_test: Callable[[torch.device], None], what: str) -> bool:
    """Tell whether a kernel that needs tensor cores (compute capability 8.0) passes its self-test on a device.

    Where it does not, it is left out with a warning, and others do its work.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            self_test(device)
    except Exception as error:
        warnings.warn(f"the CUDA kernel of {what} is left out: {error}", stacklevel=2)
        return False
    return True


def compare(results: list[list[Tensor]], tolerance: float) -> None:
    """Compare a kernel's results in a self-test with those of plain PyTorch: two lists of tensors.

    Raises:
        RuntimeError: they differ by more than `tolerance`.

    """
    for one, other in zip(*results, strict=True):
        if not torch.allclose(one, other, rtol=tolerance, atol=tolerance / 10):
            raise RuntimeError("its results are not those of the torch kernel")
