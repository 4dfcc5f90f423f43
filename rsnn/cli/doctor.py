"""`rsnn doctor`: what this machine has."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, distributions, version

import torch
import typer
from rich.markup import escape
from rich.table import Table

from rsnn import kernels
from rsnn.cli.console import print_error, print_table
from rsnn.errors import RSNNError


def doctor() -> None:
    """Say what this machine has: versions, devices, and which kernel runs where, with the reason if one cannot.

    Exits with code 1, after all of it, where RSNN_KERNEL names what cannot run here: a network would not run either.
    """
    table = Table("what", "found")
    for package in ("rsnn", "torch", "spikingjelly", "numpy", "huggingface-hub", "safetensors"):
        try:
            table.add_row(package, version(package))
        except PackageNotFoundError:
            table.add_row(package, "[red]not installed[/]")
    for package, names in {"triton": ("triton",), "cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x")}.items():
        found = [f"{version(name)} ({name})" for name in names if any(True for _ in distributions(name=name))]
        table.add_row(package, ", ".join(found) or "not installed (for GPUs)")
    wrong = _why_not_forced()
    if forced := os.environ.get("RSNN_KERNEL"):
        table.add_row("RSNN_KERNEL", escape(forced) if wrong is None else f"[red]{escape(wrong)}[/]")
    with nullcontext() if wrong is None else kernels.use("auto"):
        _add_devices(table)
    for name, reason in kernels.status().items():
        table.add_row(f"kernel {name}", "[green]available[/]" if reason is None else f"[yellow]{escape(reason)}[/]")
    print_table(table)
    if wrong is not None:
        print_error(wrong)
        raise typer.Exit(1)


def _why_not_forced() -> str | None:
    """Return why RSNN_KERNEL cannot be had; None where it can, or is not set."""
    try:
        kernels.selected()
    except RSNNError as error:
        return str(error)
    return None


def _add_devices(table: Table) -> None:
    """Add the kernels that run on each device."""
    for device in ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]:
        name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
        chosen = (f"{label} by {kernels.selected(device, operator)!r}" for operator, label in kernels.OPERATORS.items())
        table.add_row(device, f"{name}, {', '.join(chosen)}")
        if device != "cpu" and kernels.status()["spikingjelly"] is None:
            table.add_row(f"spikingjelly on {device}", escape(kernels.lif_spikingjelly.implementation(device)))
