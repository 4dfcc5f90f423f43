"""CUDA kernels of the library compiled for the CPU with a C++ compiler and launched there, all else left as it is."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from rsnn.kernels import cuda

COMPILER = shutil.which("g++") or shutil.which("clang++")


@functools.cache
def compiled(file, name, options, threads, shared):
    """Stand in for `cuda._compiled`: the same sources and macros, on the CPU.

    The launcher runs the kernel twice, the threads once in order and once backwards: no thread may depend on another.
    A step of a ConvLSTM, which may write the cell or its gradient where it was, runs once; so does a sequence, whose
    threads do depend on others.
    """
    options += ("-DTOGETHER", "-pthread") if file in cuda.ON_TENSOR_CORES else ()
    options += ("-DEXACT",) if file == "narrow_conv.cu" else ()
    once = file in ("convlstm_step.cu", "convlstm_back.cu", *cuda.IN_CLUSTERS)
    return launcher(cuda.source(file), name, options, threads, once=once)


def launcher(text, name, options=(), threads=cuda.THREADS, *, once=False):
    """Stand in for `cuda.launcher`, on the CPU; unless `once`, each launch runs twice."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.cpp")
        source.write_text(f'#include "cuda_on_host.h"\n{text}\nLAUNCHER({name})\n', encoding="utf-8")
        library = source.with_suffix(".so")
        command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        command += [
            "-Wno-unused-parameter",
            "-Wno-unused-function",
            "-shared",
            "-fPIC",
            "-I",
            str(Path(__file__).parent),
            *options,
        ]
        command += [str(source), "-o", str(library)]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        launcher = ctypes.CDLL(str(library)).launcher
    launcher.restype = ctypes.c_void_p
    address = launcher()

    def launch(blocks, arguments, device, *later):
        assert device.type == "cpu"
        kinds = [ctypes.c_double if isinstance(argument, float) else ctypes.c_int64 for argument in arguments]
        run = ctypes.CFUNCTYPE(None, ctypes.c_uint, ctypes.c_uint, ctypes.c_int, *kinds)(address)
        for given in (arguments, *later):
            for backwards in (0,) if once else (0, 1):
                run(blocks, threads, backwards, *given)

    return launch
