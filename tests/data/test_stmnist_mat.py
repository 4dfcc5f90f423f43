"""ST-MNIST's MATLAB files: against scipy, which reads and writes the format too, and files made by hand."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import same_rows
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array

from rsnn.data import iter_events, read_events
from rsnn.errors import RecordingError

STORED = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}
DOUBLE = 6


def slow_rows(path):
    matrix = loadmat(path)["spiketrain"]
    rows = []
    for column in range(matrix.shape[1]):
        for cell in range(100):
            if matrix[cell, column]:
                t = round(float(matrix[100, column]) * 1e6)
                rows.append((t, cell % 10, cell // 10, int(matrix[cell, column] == 1)))
    return rows


def touches(rng, columns, dtype="f8"):
    matrix = (rng.random((101, columns)) < 0.1).astype(dtype)
    if matrix.dtype.kind != "u":
        matrix *= rng.choice(np.array([1, -1], dtype), matrix.shape)
    matrix[100] = np.sort(rng.random(columns) * 100)
    matrix[0, 0] = 1
    return matrix


def part(order, kind, data):
    """A tag and its content, in the tag where it fits."""
    if 0 < len(data) <= 4:
        return struct.pack(order + "I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def mat_file(matrix, order="<", *, stored="f8", compressed=False):
    array = (
        part(order, 6, struct.pack(order + "II", DOUBLE, 0))
        + part(order, 5, struct.pack(order + "2i", *matrix.shape))
        + part(order, 1, b"spiketrain")
        + part(order, STORED[stored], matrix.astype(order + stored).tobytes("F"))
    )
    element = part(order, 14, array)
    if compressed:
        packed = zlib.compress(element)
        element = struct.pack(order + "II", 15, len(packed)) + packed
    version = struct.pack(order + "H", 0x0100)
    return b"MATLAB 5.0 MAT-file".ljust(124) + version + (b"IM" if order == "<" else b"MI") + element


def test_real_against_a_slow_loop(samples):
    path = samples / "formats" / "sample_stmnist.mat"
    events = read_events(path)
    assert events.sensor_size == (10, 10)
    assert same_rows(events, slow_rows(path))


@settings(max_examples=60)
@given(
    st.sampled_from([*STORED]), st.integers(1, 40), st.booleans(), st.dictionaries(
        st.from_regex(r"[a-z]{1,31}", fullmatch=True).filter(lambda name: name != "spiketrain"),
        st.sampled_from([np.zeros((0, 0)), np.arange(5), 1 + 2j, "text", {"a": {"b": [1, "c"]}}, [["x", np.ones(3)]]]),
        max_size=3,
    )
)  # fmt: skip
def test_what_scipy_writes(tmp_path, dtype, columns, compressed, others):
    path = tmp_path / "clip.mat"
    matrix = touches(np.random.default_rng(columns), columns, dtype)
    savemat(path, others | {"spiketrain": matrix, "after": 1}, do_compression=compressed)
    assert same_rows(read_events(path), slow_rows(path))


@settings(max_examples=60)
@given(st.sampled_from("<>"), st.sampled_from([*STORED]), st.integers(1, 40), st.booleans())
def test_numbers_of_any_type_in_both_byte_orders(tmp_path, order, stored, columns, compressed):
    """MATLAB stores doubles in the smallest type that holds them."""
    path = tmp_path / "clip.mat"
    matrix = touches(np.random.default_rng(columns), columns, stored)
    path.write_bytes(mat_file(matrix, order, stored=stored, compressed=compressed))
    assert same_rows(read_events(path), slow_rows(path))


@pytest.mark.parametrize("compressed", [False, True])
def test_in_blocks(tmp_path, rng, monkeypatch, compressed):
    path = tmp_path / "clip.mat"
    path.write_bytes(mat_file(touches(rng, 99), compressed=compressed))
    whole = read_events(path)
    for columns in (1, 7, 98, 99, 100):
        monkeypatch.setattr("rsnn.data.readers.stmnist_mat.BLOCK_COLUMNS", columns)
        assert read_events(path) == whole
        assert sum(len(window) for window in iter_events(path, duration_us=10_000_000)) == len(whole)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (None, "holds nothing under the name 'spiketrain'"),
        (np.zeros((5, 5)), r"an array of shape \(5, 5\)"),
        (np.zeros((101, 2, 2)), r"an array of shape \(101, 2, 2\)"),
        (np.zeros((101, 2), complex), r"a complex array of shape \(101, 2\)"),
        (np.full((101, 2), None), "a cell array"),
        ({"a": 1}, "a structure"),
        ("touch", "text"),
        (csc_array(np.eye(101)), "a sparse matrix"),
    ],
)
def test_other_content(tmp_path, held, message):
    path = tmp_path / "clip.mat"
    if isinstance(held, np.ndarray) and held.dtype == object:
        held[:] = 1
    savemat(path, {"other": 1} | ({} if held is None else {"spiketrain": held}))
    with pytest.raises(RecordingError, match=message + r".*expected real numbers of shape \(101, events\)"):
        read_events(path)


def test_values_that_are_no_touches(tmp_path, rng):
    path = tmp_path / "clip.mat"
    for cell, value, message in [
        (3, 2, "column 4 has the polarity 2.0"),
        (3, np.nan, "column 4 has p = nan"),
        (100, 1e308, r"column 4 has the time 1e\+308"),
        (100, -1, "column 4, time runs backwards"),
    ]:
        matrix = touches(rng, 5)
        matrix[7, 4], matrix[cell, 4] = 1, value
        path.write_bytes(mat_file(matrix))
        with pytest.raises(RecordingError, match=message):
            read_events(path)


@pytest.mark.parametrize(
    ("place", "damage", "message"),
    [
        (126, b"??", r"128 bytes is 128 long and ends with b'\?\?'"),
        (128, b"\x09", "at byte 128 of .* bytes of type 9 that are no array"),
        (132, b"\xff\xff", "bytes of type 14 that are no array"),
        (140, b"\x04", "flags of 4 bytes"),
        (140, b"\xff\xff\xff\xff", "flags, dimensions or name take 4294967295 bytes"),
        (144, b"\x00", "an array of class 0"),
        (156, b"\x07", "dimensions of 7"),
        (160, b"\xff\xff\xff\xff", r"an array of shape \(-1, 9\)"),
        (164, b"\xff\xff\xff\xff", r"an array of shape \(101, -1\)"),
        (164, b"\xff\xff\xff\x7f", r"an array of shape \(101, 2147483647\)"),
        (170, b"\x05", "flags, dimensions or name take 5 bytes"),
        # what kills scipy 1.17
        (192, bytes(8), r"0 bytes of type 0 for an array of shape \(101, 9\)"),
        (192, b"\x08", "bytes of type 8 for"),
        (196, b"\x00\x00", r"bytes of type 9 for an array of shape \(101, 9\)"),
    ],
)
def test_damaged_tags(tmp_path, rng, place, damage, message):
    """Tags are at 128 (array), 136 (flags), 152 (dimensions), 168 (name) and 192 (numbers)."""
    path = tmp_path / "clip.mat"
    data = bytearray(mat_file(touches(rng, 9)))
    assert data[192] == STORED["f8"]
    data[place : place + len(damage)] = damage
    path.write_bytes(data)
    for truncated in ("error", "keep"):
        with pytest.raises(RecordingError, match=message):
            read_events(path, truncated=truncated)


def test_damaged_compression(tmp_path, rng):
    path = tmp_path / "clip.mat"
    plain, packed = mat_file(touches(rng, 9)), mat_file(touches(rng, 9), compressed=True)
    inner = plain[128:]
    for element, message in [
        (packed[136:-1] + bytes([packed[-1] ^ 1]), "incorrect data check"),
        (b"\xff" + packed[137:], "incorrect header check"),
        (zlib.compress(inner[:-8]), "an array ends too early"),
        (zlib.compress(inner + bytes(8)), "goes on after its last number"),
        (zlib.compress(b"\x0f" + inner[1:]), "type 15 that are no array"),
        (b"", "an array ends too early"),
    ]:
        path.write_bytes(packed[:132] + struct.pack("<I", len(element)) + element)
        with pytest.raises(RecordingError, match=message):
            read_events(path)


@pytest.mark.parametrize("columns", [10, 50_000])
def test_memory_is_that_of_a_block(tmp_path, monkeypatch, columns):
    """40 MB of zeros in 40 kB, fewer or as many as the dimensions say."""
    monkeypatch.setattr("rsnn.data.readers.stmnist_mat.BLOCK_COLUMNS", 1000)
    path = tmp_path / "clip.mat"
    head = mat_file(np.zeros((101, 0)))[128:192]
    head = head[:36] + struct.pack("<i", columns) + head[40:] + struct.pack("<II", 9, columns * 808)
    packed = zlib.compress(head + bytes(50_000 * 808))
    path.write_bytes(mat_file(np.zeros((101, 0)))[:128] + struct.pack("<II", 15, len(packed)) + packed)
    tracemalloc.start()
    with pytest.raises(RecordingError, match="goes on after" if columns == 10 else "holds no events"):
        read_events(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
