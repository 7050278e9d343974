"""The converted copy: made once, by one process, completely or not at all, and again if the source
changes."""

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dapt.data
from dapt.data import cache
from dapt.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng()
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "mine.npz"
    np.savez(path, points=rng.normal(size=(50, 40, 3)), labels=np.arange(50) % 3)
    return path


def load(source, **options):
    return dapt.data.load("npz", {"train": source, **options}, "train")


def folders(source, cache=None):
    """The finished and unfinished conversions beside the source, without the lock files."""
    found = (cache or source.parent / "dapt_cache").rglob("mine-*")
    return sorted(path.name for path in found if path.is_dir())


def in_process(code: str, *arguments) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_converted_once_and_memory_mapped(source, monkeypatch):
    first = load(source)
    monkeypatch.setattr("dapt.data.npz._read", lambda *_: pytest.fail("converted twice"))
    second = load(source)
    assert isinstance(second.arrays["points"], np.memmap)
    rows = [3, 3, 49]
    np.testing.assert_array_equal(first.batch(rows)["points"], second.batch(rows)["points"])


def test_changed_source_is_converted_anew(source):
    load(source)
    old = folders(source)
    with np.load(source) as file:
        arrays = dict(file)
    np.savez(source, **(arrays | {"points": arrays["points"][::-1]}))
    changed = load(source, normalize=False)
    np.testing.assert_array_equal(
        changed.batch([0])["points"][0], arrays["points"][-1].astype("f4")
    )
    load(source)
    assert len(folders(source)) == 2 and not set(old) & set(folders(source))


def test_options_of_the_conversion_have_their_own_copies(source):
    assert load(source).num_points == 40
    assert load(source, num_points=10).num_points == 10
    assert load(source).num_points == 40
    assert len(folders(source)) == 2


def test_damaged_copy_is_made_anew(source, caplog):
    expected = load(source).batch(range(50))["points"].clone()
    [name] = folders(source)
    folder = source.parent / "dapt_cache" / name
    for damage in ("points.npy", "labels.npy", "meta.json"):
        content = (folder / damage).read_bytes()
        (folder / damage).write_bytes(content[: len(content) // 2])
        caplog.clear()
        assert load(source).batch(range(50))["points"].equal(expected)
        assert "damaged" in caplog.text
        (folder / damage).unlink()
        assert load(source).batch(range(50))["points"].equal(expected)


@pytest.mark.parametrize("name", ["points.npy", "labels.npy", "meta.json", "record.json"])
def test_flipped_bits_and_emptied_files_are_found(source, caplog, name):
    rows = range(50)
    expected = {key: values.clone() for key, values in load(source).batch(rows).items()}
    path = source.parent / "dapt_cache" / folders(source)[0] / name
    chance = random.Random(0)
    whole, times = path.read_bytes(), path.stat()
    for harm in ["empty", "flip", "flip", "flip"]:
        content = bytearray(b"" if harm == "empty" else whole)
        if harm == "flip":
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        again = load(source).batch(rows)
        assert all(again[key].equal(expected[key]) for key in expected)
    assert "damaged" in caplog.text or "changed" in caplog.text


@pytest.mark.parametrize("how", ["in place", "renamed"])
def test_another_source_of_the_same_size_and_time(source, caplog, how):
    """rsync -t and restored backups leave such files."""
    rng = np.random.default_rng(5)
    points = rng.normal(size=(50, 40, 3))
    load(source)
    times = source.stat()
    other = source if how == "in place" else source.with_name("other.npz")
    np.savez(other, points=points, labels=np.arange(50) % 3)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(source)
    assert source.stat().st_size == times.st_size
    assert source.stat().st_mtime_ns == times.st_mtime_ns
    fresh = load(source, normalize=True).batch([7])["points"][0]
    expected = points[7] - points[7].mean(0)
    expected /= np.linalg.norm(expected, axis=1).max()
    np.testing.assert_allclose(fresh, expected, atol=1e-6)  # float32
    assert "changed" in caplog.text


def test_a_source_that_was_only_touched_is_not_converted_again(source, monkeypatch):
    load(source)
    times = source.stat()
    copy = source.with_name("copy.npz")
    copy.write_bytes(source.read_bytes())
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.replace(source)
    monkeypatch.setattr("dapt.data.npz._read", lambda *_: pytest.fail("converted twice"))
    load(source)
    checksum = cache._checksum

    def unread(path):
        assert path != source
        return checksum(path)

    monkeypatch.setattr(cache, "_checksum", unread)
    load(source)  # records its new times


def test_a_source_that_changes_while_it_is_read(source, monkeypatch):
    convert = dapt.data.file_dataset.write_arrays

    def changing(*arguments):
        convert(*arguments)
        os.utime(source)

    with monkeypatch.context() as patch:
        patch.setattr(dapt.data.file_dataset, "write_arrays", changing)
        with pytest.raises(DataError, match="changed while it was read"):
            load(source)
    assert folders(source) == [] and len(load(source)) == 50


def test_given_folder_keeps_sources_apart(source, tmp_path):
    other = tmp_path / "more" / "data" / "mine.npz"
    other.parent.mkdir(parents=True)
    np.savez(other, points=np.ones((4, 7, 3)), labels=np.arange(4))
    cache = tmp_path / "cache"
    assert len(load(source, cache=cache)) == 50
    assert len(load(other, cache=cache)) == 4
    assert len(load(source, cache=cache)) == 50
    assert len(folders(source, cache)) == 2 and not (source.parent / "dapt_cache").exists()


def test_read_only_source_is_left_alone(source, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    source.parent.chmod(0o555)
    try:
        assert len(load(source)) == 50
        assert "read-only" in caplog.text and str(tmp_path / "home" / "dapt") in caplog.text
        assert len(folders(source, tmp_path / "home" / "dapt")) == 1
        assert [path.name for path in source.parent.iterdir()] == ["mine.npz"]
        caplog.clear()
        load(source)
        assert not caplog.text
    finally:
        source.parent.chmod(0o755)


COUNTED = """
import sys, time
import dapt.data, dapt.data.npz as npz
read = npz._read
def slow(*arguments):
    print("reading", flush=True)
    time.sleep(0.5)
    return read(*arguments)
npz._read = slow
dataset = dapt.data.load("npz", {"train": sys.argv[1]}, "train")
print(float(dataset.batch(range(50))["points"].double().sum()))
"""


def test_two_processes_convert_once(source):
    processes = [in_process(COUNTED, source) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({output[-1] for output in outputs}) == 1
    reads = sorted(output.count("reading") for output in outputs)
    assert reads[0] == 0 < reads[1]  # only one of the processes converts


KILLED = """
import sys, time
import dapt.data.convert as convert
import dapt.data
from dapt.data import cache
row = convert._row
def slow(sample, *arguments):
    if sample.where.startswith("cloud 20 "):
        print("halfway", flush=True)
        time.sleep(600)
    return row(sample, *arguments)
convert._row = slow
dapt.data.load("npz", {"train": sys.argv[1]}, "train")
"""


def test_killed_half_way(source):
    process = in_process(KILLED, source)
    assert process.stdout.readline() == "halfway\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [unfinished] = folders(source)
    assert unfinished.endswith(".tmp")
    start = time.monotonic()
    assert len(load(source)) == 50
    assert time.monotonic() - start < 60  # the dead process left no lock
    [finished] = folders(source)
    assert not finished.endswith(".tmp")


@pytest.mark.parametrize(
    "number, words", [(errno.ENOSPC, "disk is full"), (errno.EIO, "Input/output error")]
)
def test_disk_that_cannot_be_written(source, monkeypatch, number, words):
    def fail(_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(DataError, match=f"cannot write .*{words}.* option cache"):
            load(source)
    assert folders(source) == []
    assert len(load(source)) == 50


TOO_LARGE = """
import resource, sys
import dapt.data
from dapt.data import cache
from dapt.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    dapt.data.load("npz", {"train": sys.argv[1]}, "train")
except DataError as error:
    print(error)
"""


def test_write_that_fails_is_an_error_not_a_crash(source):
    """A memory-mapped write would end the process with SIGBUS when the disk is full."""
    process = in_process(TOO_LARGE, source)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "cannot write the converted data" in output
    assert folders(source) == []


def test_cache_folder_that_is_a_file(source, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match="cannot write .* option cache names another folder"):
        load(source, cache=tmp_path / "cache")


def test_dataset_travels_to_a_process_as_file_names(source):
    dataset = load(source)
    content = pickle.dumps(dataset)
    assert len(content) < dataset.arrays["points"].nbytes / 5
    copy = pickle.loads(content)
    assert isinstance(copy.arrays["points"], np.memmap)
    assert copy.batch([7])["points"].equal(dataset.batch([7])["points"])
    assert pickle.loads(pickle.dumps(copy)).batch([7])["points"].equal(copy.batch([7])["points"])


def test_finished_copy_in_a_read_only_folder_is_used(source, monkeypatch):
    load(source)
    cache = source.parent / "dapt_cache"
    monkeypatch.setattr("dapt.data.npz._read", lambda *_: pytest.fail("converted twice"))
    cache.chmod(0o555)
    try:
        assert len(load(source)) == 50
    finally:
        cache.chmod(0o755)
