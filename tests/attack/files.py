"""Small valid files of every format, damaged in every way that a file can be.

A mutant is read in another process, which may use 10 seconds and 1 GiB. It must be refused in one
sentence or read completely: as many points as its header says, each of them finite.
"""

import io
import json
import multiprocessing
import os
import pickle
import re
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from attack.harness import Budget, Tally, attack
from dapt.errors import DaptError

SECONDS = 10
MEMORY = 2**30
NUMBERS = (0, 1, 2, 3, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (b"-1", b"0", b"1", b"99999999", b"1e400", b"nan", b"", b"\x00", b"\xff\xfe", b"4294967296")


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Applies one to three changes that target lengths, numbers, lines and fields."""
    for _ in range(rng.integers(1, 4)):
        content = CHANGES[rng.integers(len(CHANGES))](bytearray(content), rng)
    return bytes(content)


def _place(content: bytes, rng: np.random.Generator) -> int:
    """A random position; half of all changes hit the first bytes, where headers are."""
    few = min(len(content), 300)
    return int(rng.integers((few if rng.random() < 0.5 else len(content)) or 1))


def _cut(content, rng):
    return content[: rng.integers(len(content) + 1)]


def _flip(content, rng):
    for _ in range(min(rng.integers(1, 9), len(content))):
        content[_place(content, rng)] ^= 1 << rng.integers(8)
    return content


def _number(content, rng):
    """Overwrites a number of any width and byte order with a value that breaks arithmetic."""
    size, order = int(rng.choice([1, 2, 4, 8])), "little" if rng.random() < 0.8 else "big"
    place = _place(content, rng)
    value = NUMBERS[rng.integers(len(NUMBERS))] % 256**size
    content[place : place + size] = value.to_bytes(size, order)
    return content


def _word(content, rng):
    """Replaces a number or a name in a text file or in a text header."""
    words = list(re.finditer(rb"[\w.+-]+", bytes(content[:4096])))
    if not words:
        return content
    word = words[rng.integers(len(words))]
    new = WORDS[rng.integers(len(WORDS))]
    if rng.random() < 0.3:
        new = words[rng.integers(len(words))][0]
    return content[: word.start()] + new + content[word.end() :]


def _splice(content, rng):
    a, b = sorted(rng.integers(len(content) + 1, size=2))
    place = _place(content, rng)
    return content[:place] + content[a:b] + content[place:]


def _drop(content, rng):
    a = _place(content, rng)
    return content[:a] + content[a + rng.integers(1, 40) :]


def _double(content, rng):
    return content + content if rng.random() < 0.3 else _line(content, rng)


def _line(content, rng):
    lines = bytes(content).splitlines(keepends=True)
    if not lines:
        return content
    a, b = rng.integers(len(lines), size=2)
    lines.insert(int(b), lines[a] * int(rng.choice([1, 2, 50])))
    return bytearray(b"".join(lines))


def _nest(content, rng):
    place = _place(content, rng)
    opening = [b"[", b"{a: ", b"(", b"&a [*a, ", b"\x85", b"2"][rng.integers(6)]
    return content[:place] + opening * int(rng.choice([1, 30, 3000])) + content[place:]


CHANGES = (_cut, _flip, _number, _word, _splice, _drop, _double, _nest)


# small valid files

POINTS = np.random.default_rng(7).normal(size=(24, 3))
FACES = np.random.default_rng(8).permuted(np.tile(np.arange(24), (20, 1)), axis=1)[:, :3]


def _exported(kind: str, **options) -> bytes:
    import trimesh

    content = trimesh.Trimesh(POINTS, FACES, process=False).export(file_type=kind, **options)
    return content.encode() if isinstance(content, str) else content


def _saved(save: Callable, *args, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **arrays)
    return buffer.getvalue()


def _pcd(kind: str) -> bytes:
    head = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 24\nHEIGHT 1\n"
    head += f"POINTS 24\nDATA {kind}\n"
    values = POINTS.astype("<f4")
    if kind == "ascii":
        body = _saved(np.savetxt, values)
    else:
        body = values.tobytes()
    if kind == "binary_compressed":
        raw = values.T.tobytes()  # 288 bytes, stored as literal runs
        packed = b"".join(b"\x1f" + raw[i : i + 32] for i in range(0, len(raw), 32))
        body = struct.pack("<II", len(packed), len(raw)) + packed
    return head.encode() + body


def _las() -> bytes:
    import laspy

    las = laspy.create(point_format=3, file_version="1.4")
    las.x, las.y, las.z = POINTS.T
    return _saved(lambda buffer: las.write(buffer))


def _h5() -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("data", data=np.stack([POINTS] * 4), compression="gzip")
        file["label"] = np.array([0, 1, 0, 1])
    return buffer.getvalue()


def _set() -> dict[str, np.ndarray]:
    return {
        "points": np.stack([POINTS] * 4),
        "labels": np.array([0, 1, 0, 1]),
        "class_names": np.array(["a", "b"]),
    }


def _pickled() -> list[bytes]:
    content = [[POINTS] * 3, [np.array([i]) for i in range(3)]]
    return [pickle.dumps(content, protocol) for protocol in (0, 2, 4, 5)]


def _config() -> bytes:
    return (
        b"data: {name: npz, train: a.npz, up: z}\nmethod:\n  name: dapt\n  rank: 8\n"
        b"task: classification\nbackbone: {name: point_mae, checkpoint: none, num_groups: 8}\n"
        b"epochs: 3\nlearning_rate: 1e-3\nseed: 5\nmethods: {linear: {epochs: 2}}\n"
    )


# How each format is read in the watched process; returns the number of points, or None.


def _cloud(path: Path) -> int:
    from dapt.data import read_cloud

    points = read_cloud(path, 64)
    return len(points)


def _dataset(name: str, options: Callable[[Path], dict]) -> Callable[[Path], int]:
    def read(path: Path) -> int:
        import dapt.data

        dataset = dapt.data.load(name, options(path), "train")
        batch = dataset.batch(range(len(dataset)))
        assert batch["points"].isfinite().all() and len(batch["points"]) == len(dataset)
        return len(dataset)

    return read


def _scan(path: Path) -> int:
    from dapt.data.scanobjectnn import ScanObjectNN

    class One(ScanObjectNN):
        def files(self, split):
            return [path]

    return len(One(root=path.parent, variant="bg").load("train"))


def _pickle(path: Path) -> None:
    from dapt.data.pickles import load_pickle

    load_pickle(path)


def _dat(path: Path) -> int:
    from dapt.data.modelnet import _dat_samples

    return len(_dat_samples(path))


def _yaml(path: Path) -> None:
    from dapt.runs.settings import parse

    parse("dapt", ["--config", str(path), "--out", str(path.parent / "run")])


def _run(path: Path) -> None:
    from dapt.runs.folder import RunFolder

    path.replace(path.with_name("config.yaml"))
    RunFolder(path.parent).settings()


def _weights(path: Path) -> None:
    from dapt.models.weight_files import read_state

    dict(read_state(path))


def _adapter(path: Path) -> None:
    """Loads an adapter with mutated settings; its weights are intact."""
    import hashlib

    import safetensors.torch
    import torch

    from dapt.adapters import adapter_files

    weights = safetensors.torch.save({"a": torch.ones(2, 3)})
    (path.parent / adapter_files.WEIGHTS).write_bytes(weights)
    content = path.read_bytes().replace(b"DIGEST", hashlib.sha256(weights).hexdigest().encode())
    (path.parent / adapter_files.CONFIG).write_bytes(content)
    adapter_files.read(path.parent)


def _adapter_config() -> bytes:
    config = {
        "format_version": 1,
        "method": {"name": "linear"},
        "task": {"name": "classification", "num_classes": 2, "class_names": ["a", "b"]},
        "backbone": {"kind": "PointMAE", "config": {"dim": 12}, "fingerprint": "0"},
        "weights_sha256": "DIGEST",
    }
    return json.dumps(config, indent=1).encode()


def _tensors(kind: str) -> bytes:
    import safetensors.torch
    import torch

    state = {"a.weight": torch.ones(4, 3), "a.bias": torch.zeros(4)}
    if kind == "safetensors":
        return safetensors.torch.save(state)
    return _saved(lambda buffer: torch.save({"base_model": state}, buffer))


def _promised(content: bytes, suffix: str) -> int | None:
    """The number of points in the header of a mutant without faces, if it has one."""
    patterns = {".pcd": rb"^POINTS (\d+)\s*$", ".ply": rb"^element vertex (\d+)\s*$"}
    if suffix not in patterns or (suffix == ".ply" and b"element face 0" not in content):
        return None
    found = re.findall(patterns[suffix], content.partition(b"end_header")[0], re.MULTILINE)
    return int(found[0]) if len(found) == 1 else None


FORMATS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[Path], int | None]]] = {
    "ply": (".ply", lambda: [_exported("ply", encoding=e) for e in ("ascii", "binary")], _cloud),
    "off": (".off", lambda: [_exported("off")], _cloud),
    "obj": (".obj", lambda: [b"mtllib a.mtl\nusemtl b\n" + _exported("obj")], _cloud),
    "pcd": (".pcd", lambda: list(map(_pcd, ("ascii", "binary", "binary_compressed"))), _cloud),
    "las": (".las", lambda: [_las()], _cloud),
    "xyz": (".xyz", lambda: [_saved(np.savetxt, POINTS)], _cloud),
    "npy": (".npy", lambda: [_saved(np.save, POINTS)], _cloud),
    "npz": (
        ".npz",
        lambda: [_saved(np.savez, **_set()), _saved(np.savez_compressed, **_set())],
        _dataset("npz", lambda path: {"train": path}),
    ),
    "h5": (".h5", lambda: [_h5()], _scan),
    "scenes": (
        ".npy",
        lambda: [_saved(np.save, np.column_stack([POINTS, np.arange(24) % 2]))],
        _dataset("scenes", lambda path: {"train": path.parent, "num_points": 8, "min_points": 1}),
    ),
    "pickle": (".pkl", _pickled, _pickle),
    "modelnet dat": (".dat", _pickled, _dat),
    "config": (".yaml", lambda: [_config()], _yaml),
    "config of a run": (".yaml", lambda: [_config()], _run),
    "adapter config": (".json", lambda: [_adapter_config()], _adapter),
    "safetensors": (".safetensors", lambda: [_tensors("safetensors")], _weights),
    "pth": (".pth", lambda: [_tensors("pth")], _weights),
}


# the watched process


def _serve(pipe) -> None:
    """Reads file after file in an address space one gigabyte larger than at the start."""
    import logging
    import warnings

    import dapt.data
    import dapt.runs.settings  # noqa: F401

    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:  # so that its imports do not count
        for name, (suffix, seeds, read) in FORMATS.items():
            for number, content in enumerate(seeds()):
                path = Path(folder) / f"{name} {number}" / f"a{suffix}"
                path.parent.mkdir()
                path.write_bytes(content)
                _ended(read, path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    pipe.send(None)
    while True:
        name, path = pipe.recv()
        pipe.send(_ended(FORMATS[name][2], Path(path)))


def _ended(read: Callable, path: Path) -> tuple[str, object]:
    try:
        return "read", read(path)
    except DaptError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return "broken", "takes more than a gigabyte"
            cause = cause.__cause__ or cause.__context__
        sentence = " ".join(str(error).split())
        return ("refused", sentence) if sentence else ("broken", "is refused without a word")
    except BaseException as error:
        return "broken", f"ends in {error!r:.200}"


class Watched:
    """A process that reads files, and is restarted after a file has killed it."""

    process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        assert self.pipe.poll(300), "the reading process does not start"
        self.pipe.recv()

    def read(self, name: str, path: Path) -> tuple[str, object]:
        """Reads a file of this format and returns the outcome."""
        if self.process is None:
            self._start()
        self.pipe.send((name, str(path)))
        try:
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
            outcome = "broken", f"takes more than {SECONDS} s"
        except (EOFError, OSError):
            outcome = "broken", "kills the process"
        self.process.kill()
        self.process.join()
        self.process = None
        return outcome


READER = Watched()


def _attack(name: str) -> Callable[[Budget], Tally]:
    def run(budget: Budget) -> Tally:
        suffix, seeds, _ = FORMATS[name]
        seeds, tally = seeds(), Tally()
        with tempfile.TemporaryDirectory() as folder:
            for case, rng in budget.numbers():
                content = mutated(seeds[rng.integers(len(seeds))], rng)
                path = Path(folder) / str(case) / f"a{suffix}"
                path.parent.mkdir()
                path.write_bytes(content)
                began = time.monotonic()
                outcome, found = READER.read(name, path)
                promised = _promised(content, suffix)
                if outcome == "read" and promised is not None and found != promised:
                    outcome, found = "broken", f"reads as {found} points and promises {promised}"
                if outcome == "broken":
                    took = time.monotonic() - began
                    tally.fail(f"{name}, case {case} of seed {budget.seed}: {found} ({took:.1f} s)")
                    _keep(content, f"{name} {budget.seed} {case}{suffix}")
                else:
                    tally.add(outcome)
        return tally

    return run


def _keep(content: bytes, name: str) -> None:
    """Saves an input that broke something, if DAPT_ATTACK_KEEP names a folder."""
    if folder := os.environ.get("DAPT_ATTACK_KEEP"):
        (Path(folder) / name).write_bytes(content)


for _name in FORMATS:
    attack(f"files: {_name}", small=25)(_attack(_name))
