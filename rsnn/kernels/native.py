"""Kernels in C++ for the CPU (`csrc/`): compiled by the machine's own compiler at their first use, then kept.

A compiled library lies in the user's cache, named after its source, the compiler's flags and the processor, so that it
is made once for each of them and never used on another processor. Without a compiler plain PyTorch does the work.
"""

from __future__ import annotations

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
    try:
        folder = _folder()
        file = folder / f"{name}-{real}-{_key(name)}.so"
        if not file.exists():
            _compile(name, real, file)
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise NativeError(f"{name}: {error}") from error


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


def _folder() -> Path:
    """Return the folder of compiled libraries; a private one for this process where the cache cannot be trusted."""
    home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or home) / "rsnn" / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        ours = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if ours and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="rsnn-native-"))


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
            if result.returncode == 0 and _loads(made):
                Path(made).chmod(0o700)
                Path(made).replace(file)  # several processes may do this at once: whole files, one like the other
                return
        complaint = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip()[:200])
        raise NativeError(f"{compiler} could not compile {name}.cpp: {complaint}")
    finally:
        Path(made).unlink(missing_ok=True)


def _loads(file: str) -> bool:
    try:
        ctypes.CDLL(file)
    except OSError:
        return False
    return True
