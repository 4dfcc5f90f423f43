"""The CUDA sources through NVRTC, the compiler that CuPy uses. It needs no GPU; skipped where it is not installed."""

from __future__ import annotations

import ctypes
import functools
import re
import sysconfig
from itertools import product
from pathlib import Path

import pytest

from rsnn.data.simulate.gestures import film_cupy
from rsnn.kernels import cuda

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@functools.cache
def nvrtc():
    folder = Path(sysconfig.get_path("purelib"), "nvidia")
    found = {kind: sorted(folder.glob(f"*/lib/libnvrtc{kind}.so.*")) for kind in ("-builtins", "")}
    found = {kind: [path for path in paths if ".alt." not in path.name] for kind, paths in found.items()}
    if not all(found.values()):
        pytest.skip("NVRTC (nvidia-cuda-nvrtc) is not installed")
    ctypes.CDLL(str(found["-builtins"][-1]))
    return ctypes.CDLL(str(found[""][-1]))


def ptx(source, *options):
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    options = [option.encode() for option in options]
    error = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert error == 0, log.value.decode()
    assert "warning" not in log.value.decode(), log.value.decode()
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, text)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return text.value.decode()


def macros(**values):
    macros = {"INPUT": 0, "SURROGATE": 0, "SOFT": 0, "DETACH": 1, "INVERSE": 0, "VECTOR": 1, "DEPTH": 2} | values
    macros |= {"THREADS": cuda.THREADS}
    return ["-std=c++17", *(f"-D{name}={value}" for name, value in macros.items())]


def kernel(text, name):
    return re.search(rf"\.entry {name}\(.*?\n}}", text, re.DOTALL)[0]


def entries(file, architecture, **variant):
    return set(re.findall(r"\.entry (\w+)\(", ptx(cuda.source(file), f"-arch={architecture}", *macros(**variant))))


@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
def test_every_variant_compiles(architecture):
    variants = [{"INPUT": i, "VECTOR": v} for i, v in product(range(4), (1, 2, 4))]
    variants += [{"SURROGATE": s, "SOFT": soft, "DETACH": d} for s, soft, d in product(range(4), (0, 1), (0, 1))]
    for variant in variants:
        assert entries("lif.cu", architecture, **variant) == {"lif_forward", "lif_backward"}


@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
def test_every_variant_with_normalization_compiles(architecture):
    common = {"POOL": 2, "WHOLE": 1, "CHUNK": 5, "EVEN": 1}
    for i, v in product(range(4), (1, 4)):
        moments = entries("norm_lif.cu", architecture, PASS=0, INPUT=i, VECTOR=v, **common)
        assert moments == {"moments", "moments_end"}
        assert entries("norm_lif.cu", architecture, PASS=1, INPUT=i, VECTOR=v, **common) == {"norm_lif_forward"}
        backward = entries("norm_lif.cu", architecture, PASS=2, INPUT=i, **common)
        assert backward == {"norm_lif_sums", "norm_lif_backward"}
    for pool, whole in product((1, 3, 4), (0, 1)):
        for kernels in (1, 2):
            assert entries("norm_lif.cu", architecture, PASS=kernels, POOL=pool, WHOLE=whole, CHUNK=2, EVEN=whole)


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_every_variant_of_a_whole_stage_compiles(architecture):
    variants = [{"INPUT": 0, "VECTOR": 4}, {"INPUT": 3, "VECTOR": 8}, {"INPUT": 0, "VECTOR": 4, "SOFT": 1}]
    variants += [{"INPUT": i, "VECTOR": 8, "HALVES": 1} for i in (0, 3)]
    for variant in variants:
        assert entries("spiking_conv.cu", architecture, BLOCKS=3, CHANNELS=6, **variant) == {"spiking_convolution"}
    for vector in (1, 4):
        found = entries("spike_products.cu", architecture, INPUT=2, VECTOR=vector)
        assert found == {"scaled_halves", "two_halves"}


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_every_variant_of_a_narrow_convolution_compiles(architecture):
    for i, columns in product((0, 2, 3), (16, 32)):
        found = entries("narrow_conv.cu", architecture, INPUT=i, VECTOR=8 if i else 4, COLUMNS=columns, BLOCKS=3)
        assert found == {"narrow_convolution", "input_gradient", "weight_gradient"}


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_every_variant_of_a_step_of_a_convlstm_compiles(architecture):
    sizes = [(2, 4, 128, 128, 2), (4, 6, 64, 64, 2), (1, 3, 2, 38, 1)]
    for (channels, hidden, height, width, pool), i in product(sizes, (0, 2, 3)):
        layer = {"CHANNELS": channels, "HIDDEN": hidden, "HEIGHT": height, "WIDTH": width, "POOL": pool, "BLOCKS": 4}
        assert entries("convlstm_step.cu", architecture, INPUT=i, **layer) == {"convlstm_step"}
        assert entries("convlstm_back.cu", architecture, INPUT=i, **layer) == {"convlstm_step_back"}


def test_every_variant_of_a_sequence_of_a_convlstm_compiles():
    sizes = [(2, 4, 128, 128, 2, 16), (4, 6, 64, 64, 2, 16), (1, 5, 8, 48, 1, 2), (1, 3, 2, 16, 1, 2)]
    for (channels, hidden, height, width, pool, rows), i in product(sizes, (0, 2, 3)):
        layer = {"CHANNELS": channels, "HIDDEN": hidden, "HEIGHT": height, "WIDTH": width, "POOL": pool}
        layer |= {"ROWS": rows, "CLUSTER": height // rows, "ROUGH": int(i > 0)}
        for keep in (0, 1):
            assert entries("convlstm_sequence.cu", "compute_90", INPUT=i, KEEP=keep, **layer) == {"convlstm_sequence"}


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_every_variant_of_the_gradients_of_a_convlstm_compiles(architecture):
    sizes = [(2, 4, 128, 128), (4, 6, 64, 64), (1, 3, 2, 38)]
    for (channels, hidden, height, width), i in product(sizes, (0, 2, 3)):
        layer = {
            "CHANNELS": channels,
            "HIDDEN": hidden,
            "HEIGHT": height,
            "WIDTH": width,
            "DEPTH": 1,
            "WIDE": int(i > 2),
        }
        for back, name in enumerate(("weight_gradient", "convolve_back")):
            variant = {"INPUT": i, "BACK": back, "BLOCKS": 3 + back} | layer
            assert entries("convlstm_gradients.cu", architecture, **variant) == {name}


@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
def test_what_films_gestures_compiles(architecture):
    text = ptx(film_cupy.source(), f"-arch={architecture}", "-std=c++17")
    assert set(re.findall(r"\.entry (\w+)\(", text)) == {"film"}


@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
def test_what_makes_frames_in_the_example_compiles(architecture):
    text = (EXAMPLES / "gesture_windows.cu").read_text(encoding="utf-8")
    assert f"kThreads = {cuda.THREADS}," in text
    compiled = ptx(text, f"-arch={architecture}", "-std=c++17")
    assert set(re.findall(r"\.entry (\w+)\(", compiled)) == {"seen", "noise"}


@pytest.mark.parametrize("soft", [0, 1])
def test_no_operation_of_the_potential_is_fused_or_approximate(soft):
    forward = kernel(ptx(cuda.source("lif.cu"), "-arch=compute_90", *macros(SOFT=soft)), "lif_forward")
    assert "fma" not in forward
    assert "div.rn.f32" in forward
    assert ".ftz" not in forward


def test_threads_that_share_load_and_store_sixteen_bytes_at_once():
    text = ptx(cuda.source("lif.cu"), "-arch=compute_90", *macros(VECTOR=4))
    for name in ("lif_forward", "lif_backward"):
        arrays = re.findall(r"(ld|st)\.global\.(?:[a-z]{2}\.)?(v4\.)?", kernel(text, name))
        assert ("ld", "v4.") in arrays
        assert ("st", "v4.") in arrays
        assert ("st", "") not in arrays
