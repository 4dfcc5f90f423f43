"""Readers on damaged files: no crash, no hang, no answer that depends on how it is read; errors name the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import COMPRESSED, FORMATS, check, whole_file
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = st.sampled_from(
    [b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\xff\xff\xff\x7f", b"\x00" * 8, b"\xff" * 8]
)


@st.composite
def damages(draw: st.DrawFn, size: int) -> list[tuple[str, int, bytes, int]]:
    """A few changes: bytes put in place of others or between them, a stretch cut out or repeated, the end cut off."""
    place = st.one_of(st.integers(0, min(size, 200)), st.integers(0, size))
    kinds = st.sampled_from(["replace", "insert", "cut", "repeat", "end"])
    change = st.tuples(kinds, place, st.one_of(WORDS, st.binary(min_size=1, max_size=9)), st.integers(1, 64))
    return draw(st.lists(change, min_size=1, max_size=4))


def damaged(data: bytes, changes: list[tuple[str, int, bytes, int]]) -> bytes:
    for kind, place, word, length in changes:
        before, after = data[:place], data[place:]
        if kind == "replace":
            data = before + word + after[len(word) :]
        elif kind == "insert":
            data = before + word + after
        elif kind == "cut":
            data = before + after[length:]
        elif kind == "repeat":
            data = before + after[:length] + after
        else:
            data = before
    return data


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(tmp_path, name):
    whole = whole_file(name, tmp_path)
    path = tmp_path / ("damaged.bin" if name == "nmnist" else "damaged")
    check(path, whole)

    @settings(max_examples=60)
    @given(damages(len(whole)))
    def damage(changes):
        check(path, damaged(whole, changes), compressed=name in COMPRESSED)

    damage()


@settings(max_examples=60)
@given(
    st.sampled_from(
        [
            b"", b"t,x,y,p\n", b"34 34\n", b"%geometry:40,40\n", b"#!AER-DAT3.1\r\n#!END-HEADER\r\n",
            b"#!AER-DAT2.0\r\n",
            b"% evt 2.0\n% end\n", b"% evt 3.0\n% end\n", b"% evt 2.1\n% end\n",
            b"% Data file\n% Version 2\n\x0c\x08",
            b"Event Stream\x02\x00\x00\x01\x40\x00\x40\x00", b"Event Stream\x02\x00\x00\x02\x40\x00\x40\x00",
        ]
    ),
    st.binary(max_size=200),
)  # fmt: skip
def test_headers_before_anything(tmp_path, head, body):
    check(tmp_path / "made", head + body)


@pytest.mark.slow
def test_damaged_aedat4(samples, tmp_path):
    """The first packets of a real file, since nothing writes the format here; its decoder is native code."""
    pytest.importorskip("aedat")
    whole = (samples / "formats" / "sample.aedat4").read_bytes()[:30_000]

    @settings(max_examples=100)
    @given(damages(3000))
    def damage(changes):
        check(tmp_path / "damaged", damaged(whole, changes), compressed=True)

    damage()


@pytest.mark.slow
def test_atheris_finds_nothing(tmp_path):
    """Guided by the code that inputs reach; `python tests/data/fuzzing.py` goes on longer, and with others."""
    pytest.importorskip("atheris")
    script = Path(__file__).with_name("fuzzing.py")
    run = subprocess.run(
        [sys.executable, script, "--runs", "30000", "--found", tmp_path],
        stdout=subprocess.PIPE,  # where atheris prints exceptions; what libFuzzer and faulthandler say is on stderr
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=400,
    )
    assert run.returncode == 0, run.stdout[-8000:]
    assert not list(tmp_path.iterdir())
