"""What is wrong with a file is one clear error, whatever the format; a cut tail can be kept on request."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import writers
from made import random_events

from rsnn.data import FORMATS, Events, iter_events, read_events, write_events
from rsnn.data.readers import READERS
from rsnn.errors import InputError, RecordingError

WRITERS = {
    "aedat-3.1": lambda path, events: writers.write_aedat31(path, events, packet_events=7),
    "aedat-2.0": writers.write_aedat20,
    "nmnist": writers.write_nmnist,
}
CUT = WRITERS | {"numpy": writers.write_npy, "numpy table": writers.write_npy_table}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("suffix", [".aedat", ".dat", ""])
def test_the_content_decides(tmp_path, rng, name, suffix):
    path = tmp_path / f"clip{suffix}"
    events = random_events(rng, 50, (34, 34))
    WRITERS[name](path, events)
    assert np.array_equal(read_events(path).t, events.t)
    assert np.array_equal(read_events(path, format=name).x, events.x)


@pytest.mark.parametrize("name", CUT)
def test_truncation_at_every_byte(tmp_path, rng, name):
    events = random_events(rng, 20, (34, 34))
    cut = tmp_path / ("cut.bin" if name == "nmnist" else "cut.aedat")
    CUT[name](cut, events)
    data = cut.read_bytes()
    kept_before = 0
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        kept = outcome(cut, truncated="keep")
        strict = outcome(cut, truncated="error")
        if isinstance(strict, Events):  # cut between two events or packets, where nothing shows it
            assert strict == kept
        if isinstance(kept, Events):
            assert np.array_equal(kept.to_structured(), events.to_structured()[: len(kept)])
            assert len(kept) >= kept_before
            kept_before = len(kept)
    assert kept_before == len(events) - 1


def outcome(path, **options):
    try:
        return read_events(path, **options)
    except RecordingError as error:
        message = str(error)
    assert str(path) in message
    assert "expected" in message
    return None


@pytest.mark.parametrize("name", CUT)
def test_truncation_says_where(tmp_path, rng, name):
    path = tmp_path / "clip.bin"
    CUT[name](path, random_events(rng, 20, (34, 34)))
    data = path.read_bytes()[:-3]
    path.write_bytes(data)
    with pytest.raises(
        RecordingError,
        match=rf"truncated: it ends at byte {len(data)}.*truncated='keep' \(rsnn convert --keep-truncated",
    ):
        read_events(path)
    assert len(read_events(path, truncated="keep")) == 19


@pytest.mark.parametrize("kind", ["fortran", "numpy", "hdf5"])
def test_truncated_files_of_which_nothing_can_be_kept(tmp_path, rng, kind):
    """An array that comes column by column, and files whose contents are listed at their end."""
    path, events = tmp_path / "clip", random_events(rng, 20, (34, 34))
    if kind == "fortran":
        with path.open("wb") as file:
            np.save(file, np.asfortranarray([*writers.rows(events)]))
    else:
        write_events(path, events, format=kind)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecordingError, match=r"truncated or damaged.*copy it again$"):
        read_events(path)
    with pytest.raises(RecordingError, match="copy it again, for nothing of a truncated one can be kept"):
        read_events(path, truncated="keep")


@pytest.mark.parametrize("name", WRITERS)
def test_outside_the_sensor(tmp_path, name):
    path = tmp_path / "clip.bin"
    WRITERS[name](path, Events(t=[1, 2], x=[1, 30], y=[1, 1], p=[0, 1], sensor_size=(34, 34)))
    with pytest.raises(RecordingError, match=r"at byte \d+, x = 30 lies outside the sensor of 20 x 34 pixels"):
        read_events(path, sensor_size=(20, 34))


@pytest.mark.parametrize("name", WRITERS)
def test_time_running_backwards(tmp_path, name):
    path = tmp_path / "clip.bin"
    late = Events(t=[900], x=[1], y=[1], p=[0], sensor_size=(34, 34))
    early = Events(t=[100], x=[1], y=[1], p=[0], sensor_size=(34, 34))
    both = []
    for events in (late, early):
        WRITERS[name](path, events)
        both.append(path.read_bytes())
    header = {"aedat-3.1": len(writers.AEDAT31_HEADER), "aedat-2.0": len(writers.AEDAT20_HEADER), "nmnist": 0}[name]
    path.write_bytes(both[0] + both[1][header:])
    said = r"at byte \d+, time runs backwards, from 900 to 100 microseconds.*unsorted='sort'.*rsnn convert --sort"
    with pytest.raises(RecordingError, match=said):
        read_events(path)
    with pytest.raises(RecordingError, match=said):
        list(iter_events(path, duration_us=10))
    assert read_events(path, unsorted="sort").t.tolist() == [100, 900]


def test_sorting_by_time(tmp_path):
    """Events of one time stay in the order of the file, and other faults are named by their place in it."""
    path = tmp_path / "clip.csv"
    path.write_text("t,x,y,p\n5,1,1,1\n7,2,2,0\n5,3,3,0\n5,4,4,1\n")
    ordered = Events(t=[5, 5, 5, 7], x=[1, 3, 4, 2], y=[1, 3, 4, 2], p=[1, 0, 1, 0], sensor_size=(34, 34))
    assert read_events(path, unsorted="sort") == ordered
    write_events(tmp_path / "sorted.csv", ordered)
    assert read_events(tmp_path / "sorted.csv", unsorted="sort") == ordered
    with pytest.raises(RecordingError, match="at row 4, x = 3 lies outside the sensor"):
        read_events(path, unsorted="sort", sensor_size=(3, 34))


def test_empty_recordings(tmp_path):
    path = tmp_path / "clip.aedat"
    path.write_bytes(b"")
    with pytest.raises(RecordingError, match=r"is empty \(0 bytes\)"):
        read_events(path)
    path.write_bytes(writers.AEDAT31_HEADER)
    with pytest.raises(RecordingError, match="holds no events"):
        read_events(path)


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(RecordingError, match=r"nowhere\.aedat does not exist; expected the path of a recording"):
        read_events(tmp_path / "nowhere.aedat")
    with pytest.raises(RecordingError, match="is a directory; expected a recording"):
        read_events(tmp_path)
    with pytest.raises(RecordingError, match="cannot be read"):
        read_events("a\0b")


def test_unknown_formats(tmp_path):
    path = tmp_path / "clip.aedat"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(
        RecordingError, match=r"begins with b'\\x89PNG.*none of the known formats; expected one of aedat-3.1"
    ):
        read_events(path)
    path.write_text("Dear diary, today nothing happened.\n")
    with pytest.raises(RecordingError, match="none of the known formats"):
        read_events(path)


def test_wrong_arguments(tmp_path):
    path = tmp_path / "clip.csv"
    path.write_text("1,2,3,1\n")
    with pytest.raises(InputError, match=r"format is 'aedat3.1'.*Did you mean 'aedat-3.1'"):
        read_events(path, format="aedat3.1")
    with pytest.raises(InputError, match="truncated is 'yes'; expected 'error' or 'keep'"):
        read_events(path, truncated="yes")
    with pytest.raises(InputError, match="unsorted is 'yes'; expected 'error' or 'sort'"):
        read_events(path, unsorted="yes")
    with pytest.raises(InputError, match="sensor_size"):
        read_events(path, sensor_size=128)
    with pytest.raises(InputError, match="path is 3; expected the path of a file"):
        read_events(3)
    with pytest.raises(InputError, match="path is None"):
        iter_events(None, duration_us=1)
    assert "text" in FORMATS


@pytest.mark.parametrize("bad", ['20,3,"4,1', "20,3,1_0,1"])
def test_text_that_python_or_numpy_alone_takes_for_numbers(tmp_path, bad):
    """An open quote would go on in the next row; 1_0 is ten to Python and nothing to NumPy."""
    path = tmp_path / "events.csv"
    path.write_text(f"10,1,2,0\n{bad}\n30,5,6,0\n", "utf-8")
    with pytest.raises(RecordingError, match=r"row 2 is .*expected numbers"):
        read_events(path)


def test_quoted_numbers_are_numbers(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text('"10","1","2","0"\n"30","5","6","1"\n')
    events = read_events(path)
    assert (events.t.tolist(), events.x.tolist(), events.p.tolist()) == ([10, 30], [1, 5], [0, 1])


def test_an_archive_whose_names_are_no_text(tmp_path):
    path = tmp_path / "events.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t\u00e9.npy", b"x")  # a name in UTF-8, as the archive says
    path.write_bytes(path.read_bytes().replace("t\u00e9".encode(), b"t\x80\x80"))
    with pytest.raises(RecordingError, match=r"truncated or damaged.*copy it again"):
        read_events(path)


READ = {"whole": read_events, "windows": lambda path: list(iter_events(path, duration_us=1 << 40))}


def once_opened(monkeypatch, name, happens):
    """Let something happen to a file once, between its header and its events."""
    reader, waiting = READERS[name], [happens]
    read = reader.read

    def read_and_wait(source):
        decoded = read(source)
        if waiting:
            waiting.pop()()
        return decoded

    monkeypatch.setattr(reader, "read", read_and_wait)


@pytest.mark.parametrize("how", READ)
@pytest.mark.parametrize("name", ["numpy", "hdf5", "text", "event-stream", "aedat-2.0"])
def test_a_file_that_is_replaced_while_it_is_read(tmp_path, rng, monkeypatch, name, how):
    """The header would be of one and the events of the other."""
    path = write_events(tmp_path / "clip", random_events(rng, 200, (34, 34)), format=name)
    other = random_events(rng, 300, (34, 34))
    once_opened(monkeypatch, name, lambda: write_events(path, other, format=name))
    with pytest.raises(RecordingError, match=r"clip \(.*\): another file was put in its place while it was read"):
        READ[how](path)
    assert read_events(path) == other


@pytest.mark.parametrize("how", READ)
def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch, how):
    path = tmp_path / "clip.csv"
    path.write_text("t,x,y,p\n1,2,3,1\n")

    def grow():
        with path.open("a") as file:
            file.write("2,3,4,0\n")

    once_opened(monkeypatch, "text", grow)
    found = READ[how](path)
    assert (found if how == "whole" else found[0]).t.tolist() == [1, 2]


def test_a_file_that_cannot_be_read_on(tmp_path, rng, monkeypatch):
    path = write_events(tmp_path / "clip.es", random_events(rng, 200, (34, 34)))
    once_opened(monkeypatch, "event-stream", path.unlink)
    with pytest.raises(RecordingError, match=r"clip\.es .*cannot be read to its end \(.*No such file"):
        read_events(path)
