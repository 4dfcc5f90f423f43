"""Kernels in C++ for the CPU (`csrc/`): compiled by the machine's own compiler at their first use, then kept.

A compiled library lies in the user's cache, named after its source, the compiler's flags and the processor, so that it
is made once for each of them and never used on another processor. Without a compiler plain PyTorch does the work.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from torch import Tensor

from rsnn.errors import InputError

SOURCES = Path(__file__).parent / "csrc"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-psabi")
# The first set that the compiler takes: not all know OpenMP (threads start anew then), nor this name of the processor.
OPTIONS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native", "-fopenmp"), ("-mcpu=native",), ())


class NativeError(RuntimeError):
    """A native kernel cannot be had here; the message says why."""


@functools.cache
def library(name: str, real: str = "float") -> ctypes.CDLL:
    """Return the library of `csrc/<name>.cpp` for `real` numbers, compiled first where the cache does not have it.

    Raises:
        NativeError: there is no compiler, or it fails.

    """
    file = f"{name}-{real}-{_key(name)}.so"
    try:
        cache = _cache()
        if cache is not None and (kept := _loaded(cache / file)) is not None:
            return kept
        folder = cache if cache is not None and os.access(cache, os.W_OK) else _private_folder()
        _compile(name, real, folder / file)
        return ctypes.CDLL(str(folder / file))
    except OSError as error:
        raise NativeError(f"{name}: {error}") from error


_reasons: dict[tuple[str, str], str | None] = {}


def has(name: str, real: str = "float") -> bool:
    """Tell whether this library can be had, compiled first where need be; if not, a warning says why, once."""
    if (name, real) not in _reasons:
        reason = None
        try:
            library(name, real)
        except NativeError as error:
            reason = str(error)
            warnings.warn(f"plain PyTorch does what the CPU kernel {name!r} is for: {reason}", RuntimeWarning, 2)
        _reasons[name, real] = reason
    return _reasons[name, real] is None


has._dynamo_marked_constant = True  # type: ignore[attr-defined]  # see `rsnn.kernels.selection`


@functools.cache
def unavailable() -> str | None:
    """Return why the native kernels cannot run here, or None; compiles the first where that has not been done yet."""
    if os.name != "posix":
        return "it needs Linux or macOS"
    try:
        library("convlstm")
    except NativeError as error:
        return str(error)
    return None


def no_second_derivatives(*_: object) -> None:
    """Stand for the backward of a backward."""
    raise InputError(
        "the C++ kernels have no derivatives of gradients (create_graph=True); run this part with plain PyTorch: "
        "with rsnn.kernels.use('torch')"
    )


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    """Return the address of a tensor's numbers; null for None and for empty tensors."""
    return ctypes.c_void_p(x.data_ptr() if x is not None and x.numel() else None)


def _key(name: str) -> str:
    """Return a digest of all that the compiled library depends on."""
    sources = [file.read_bytes() for file in (*sorted(SOURCES.glob("*.h")), SOURCES / f"{name}.cpp")]
    machine = [platform.system(), platform.machine(), _processor(), repr((FLAGS, OPTIONS))]
    return hashlib.sha256(b"\0".join([*sources, *(part.encode() for part in machine)])).hexdigest()[:24]


def _processor() -> str:
    """Return what distinguishes this processor from others: its name and, where known, its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _cache() -> Path | None:
    """Return the folder of compiled libraries, which may be read-only; None where there is none to be trusted."""
    try:
        home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # a user without a home
        home = None
    parent = os.environ.get("XDG_CACHE_HOME") or home
    if parent is None:
        return None
    folder = Path(parent) / "rsnn" / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return None
    ours = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if ours else None


@functools.cache
def _private_folder() -> Path:
    """Return a folder for this process alone, which ends with it."""
    folder, process = Path(tempfile.mkdtemp(prefix="rsnn-native-")), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # and not a fork of it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _compile(name: str, real: str, file: Path) -> None:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "", *COMPILERS))), None)
    if compiler is None:
        raise NativeError(f"no C++ compiler was found (looked for {', '.join(COMPILERS)}; CXX can name another)")
    if sys.stderr.isatty():
        sys.stderr.write(f"rsnn: compiling the CPU kernel {name!r} (once, some seconds) ...\n")
    handle, made = tempfile.mkstemp(prefix=f"{name}-", suffix=".tmp", dir=file.parent)
    os.close(handle)
    try:
        for options in OPTIONS:
            command = [
                compiler,
                *FLAGS,
                f"-DREAL={real}",
                f"-DREAL_{real}",
                *options,
                str(SOURCES / f"{name}.cpp"),
                "-o",
                made,
            ]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0 and _loaded(Path(made)) is not None:
                Path(made).chmod(0o700)
                Path(made).replace(file)  # several processes may do this at once: whole files, one like the other
                return
        said = result.stderr.strip() or f"exit code {result.returncode}, and not a word"
        complaint = next((line for line in said.splitlines() if "error" in line), said[:200])
        if result.returncode == 0:
            complaint = f"what it made cannot be loaded from {file.parent}"
        raise NativeError(f"{compiler} could not compile {name}.cpp: {complaint}")
    finally:
        Path(made).unlink(missing_ok=True)


def _loaded(file: Path) -> ctypes.CDLL | None:
    """Return a library, None where there is none or only a damaged one."""
    try:
        return ctypes.CDLL(str(file)) if file.exists() else None
    except OSError:
        return None
