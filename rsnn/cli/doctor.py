"""`rsnn doctor`: what this machine has."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distributions, version

import torch
from rich.markup import escape
from rich.table import Table

from rsnn import kernels
from rsnn.cli.console import print_table, user_errors


def doctor() -> None:
    """Say what this machine has: versions, devices, and which kernel runs where, with the reason if one cannot."""
    table = Table("what", "found")
    for package in ("rsnn", "torch", "spikingjelly", "numpy", "huggingface-hub", "safetensors"):
        try:
            table.add_row(package, version(package))
        except PackageNotFoundError:
            table.add_row(package, "[red]not installed[/]")
    for package, names in {"triton": ("triton",), "cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x")}.items():
        found = [f"{version(name)} ({name})" for name in names if any(True for _ in distributions(name=name))]
        table.add_row(package, ", ".join(found) or "not installed (for GPUs)")
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device in devices:
        name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
        with user_errors():
            chosen = (
                f"{label} by {kernels.selected(device, operator)!r}" for operator, label in kernels.OPERATORS.items()
            )
            table.add_row(device, f"{name}, {', '.join(chosen)}")
        if device != "cpu" and kernels.status()["spikingjelly"] is None:
            table.add_row(f"spikingjelly on {device}", escape(kernels.lif_spikingjelly.implementation(device)))
    for name, reason in kernels.status().items():
        table.add_row(f"kernel {name}", "[green]available[/]" if reason is None else f"[yellow]{escape(reason)}[/]")
    print_table(table)
