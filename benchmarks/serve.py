"""The server under load, over HTTP on the loopback address: one that batches requests for several
adapters against one that runs a cloud at a time, and its memory after minutes of mixed requests.

Both servers are up and take turns, so that other load on the machine affects both alike.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import torch
from measure import write_json

import dapt
from dapt.data.preprocessing import Preprocessing

TOKEN = "of the benchmark alone"
HOST = "127.0.0.1"


def make_adapters(folder: Path, backbone: str, count: int, points: int) -> None:
    """Saves `count` DAPT adapters, each in a folder of its own."""
    for number in range(count):
        torch.manual_seed(number)
        network = dapt.create_backbone(backbone, **checkpoint_of(backbone))
        model = dapt.attach(network, dapt.Dapt(), dapt.Classification(15))
        model.save_adapter(folder / f"task{number}", preprocessing=Preprocessing(points))


def checkpoint_of(backbone: str) -> dict[str, str]:
    return {"checkpoint": "shipped" if backbone == "point_mae_tiny" else "none"}


def run_server(folder: Path, backbone: str, batch: int, threads: int) -> None:
    """Serves all adapters of the folder from the child process and prints the URL."""
    from dapt.inference.serving.limits import Limits
    from dapt.inference.serving.running import serve
    from dapt.inference.serving.shelf import Shelf
    from dapt.inference.trained import TrainedModel

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shelf = Shelf(folder)
    model = TrainedModel(dapt.create_backbone(backbone, **checkpoint_of(backbone))).eval()
    for path in sorted(folder.iterdir()):
        model.load_adapter(path, path.name, activate=False)
        shelf.put(path.name, model)
    serve(shelf, HOST, 0, Limits(batch=batch, queue=256), TOKEN, lambda url: print(url, flush=True))


@contextmanager
def server(folder: Path, args: argparse.Namespace, batch: int) -> Iterator[int]:
    """Runs a server in a process of its own; yields its port."""
    words = [f"--as_server={folder}", f"--backbone={args.backbone}", f"--batch={batch}"]
    child = subprocess.Popen(
        [sys.executable, __file__, *words, f"--threads={args.threads}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(child.stdout.readline().rpartition(":")[2])
    finally:
        child.terminate()
        child.wait()


class Client(threading.Thread):
    """Sends requests back to back, each for a random adapter."""

    def __init__(self, port: int, bodies: list[bytes], adapters: int, until: float, seed: int):
        super().__init__(daemon=True)
        self.port, self.bodies, self.adapters, self.until = port, bodies, adapters, until
        self.chance = random.Random(seed)
        self.seconds: list[float] = []
        self.refused = 0

    def run(self) -> None:
        connection = HTTPConnection(HOST, self.port, timeout=120)
        while time.monotonic() < self.until:
            name = f"task{self.chance.randrange(self.adapters)}"
            begun = time.monotonic()
            connection.request(
                "POST", f"/predict?adapter={name}&format=npy", self.chance.choice(self.bodies)
            )
            response = connection.getresponse()
            told = json.loads(response.read())
            if response.status == 200 and told["answers"][0]["label"]:
                self.seconds.append(time.monotonic() - begun)
            else:
                self.refused += 1
        connection.close()


def load(port: int, clients: int, bodies: list[bytes], adapters: int, seconds: float) -> Client:
    """Sends requests from many clients at once for some seconds; returns their combined record."""
    begun, before = time.monotonic(), counts(port)
    several = [Client(port, bodies, adapters, begun + seconds, seed) for seed in range(clients)]
    for each in several:
        each.start()
    for each in several:
        each.join()
    total = several[0]
    total.seconds = [reading for each in several for reading in each.seconds]
    total.refused = sum(each.refused for each in several)
    total.rate = len(total.seconds) / (time.monotonic() - begun)
    after = counts(port)
    spent = {name: after[name] - before[name] for name in after}
    total.cpu_seconds = spent["process_cpu_seconds_total"] / max(len(total.seconds), 1)
    total.batch = spent["dapt_batch_clouds_sum"] / max(spent["dapt_batch_clouds_count"], 1)
    return total


def load_rows(folder: Path, args: argparse.Namespace, bodies: list[bytes]) -> list[dict]:
    """Requests per second and their latencies, batched and one at a time, in turns."""
    rows = []
    with server(folder, args, args.batch) as batched, server(folder, args, 1) as single:
        ports = {"batched": batched, "one at a time": single}
        for port in ports.values():
            load(port, 2, bodies, args.adapters, 2.0)  # warm up
        for clients in args.clients:
            turns: dict[str, list[Client]] = {name: [] for name in ports}
            for _ in range(args.turns):
                for name, port in ports.items():
                    done = load(port, clients, bodies, args.adapters, args.seconds)
                    turns[name].append(done)
            ratio = statistics.median(a.rate / b.rate for a, b in zip(*turns.values(), strict=True))
            for name, done in turns.items():
                times = np.concatenate([each.seconds for each in done])
                rows.append(
                    {
                        "clients": clients,
                        "server": name,
                        "requests_per_second": statistics.median(each.rate for each in done),
                        "p50_ms": 1e3 * float(np.percentile(times, 50)),
                        "p99_ms": 1e3 * float(np.percentile(times, 99)),
                        "cpu_ms": 1e3 * statistics.median(each.cpu_seconds for each in done),
                        "clouds_in_a_batch": statistics.median(each.batch for each in done),
                        "requests": len(times),
                        "refused": sum(each.refused for each in done),
                        "times_as_many": ratio if name == "batched" else 1.0,
                    }
                )
                print(table_row(rows[-1]), flush=True)
    return rows


def table_row(row: dict) -> str:
    return (
        f"| {row['clients']} | {row['server']} | {row['requests_per_second']:.1f} | "
        f"{row['p50_ms']:.0f} | {row['p99_ms']:.0f} | {row['times_as_many']:.2f} | "
        f"{row['cpu_ms']:.1f} | {row['clouds_in_a_batch']:.1f} |"
    )


def soak_row(folder: Path, args: argparse.Namespace, bodies: list[bytes]) -> dict:
    """Memory of a server that answers, refuses, loads and unloads for minutes."""
    with server(folder, args, args.batch) as port:
        load(port, 8, bodies, args.adapters - 1, 10.0)
        stop, readings, begun = threading.Event(), [], time.monotonic()
        others = [
            threading.Thread(target=part, args=(port, stop, args.adapters - 1), daemon=True)
            for part in (mistaken, loading)
        ]
        for each in others:
            each.start()
        asking = threading.Thread(
            target=lambda: readings.append(load(port, 8, bodies, args.adapters - 1, args.soak))
        )
        asking.start()
        resident = []
        while asking.is_alive():
            resident.append(
                (time.monotonic() - begun, counts(port)["process_resident_memory_bytes"] / 2**20)
            )
            asking.join(2.0)
        stop.set()
        for each in others:
            each.join()
    seconds, mebibytes = np.array(resident).T
    half = len(mebibytes) // 2
    slope = np.polyfit(seconds[half:], mebibytes[half:], 1)[0] * 60
    row = {
        "soak_seconds": args.soak,
        "requests": len(readings[0].seconds),
        "refused": readings[0].refused,
        "resident_mib": {
            "begin": mebibytes[0],
            "half": mebibytes[half],
            "end": mebibytes[-1],
            "most": mebibytes.max(),
        },
        "mib_per_minute_of_the_second_half": slope,
    }
    print(json.dumps(row, indent=1))
    return row


def mistaken(port: int, stop: threading.Event, last: int) -> None:
    """Sends requests that must be refused, and drops connections midway."""
    bodies = [b"", b"\x93NUMPY", npy(np.full((1024, 3), np.nan)), bytes(2**20)]
    while not stop.wait(0.2):
        connection = HTTPConnection(HOST, port, timeout=120)
        connection.request("POST", "/predict?adapter=task0&format=npy", random.choice(bodies))
        assert connection.getresponse().status == 422
        connection.close()
        with socket.create_connection((HOST, port)) as broken:
            broken.sendall(
                b"POST /predict?adapter=task0&format=npy HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            )
            broken.sendall(b"Content-Length: 100000\r\n\r\n" + bytes(1000))


def loading(port: int, stop: threading.Event, last: int) -> None:
    """Keeps loading and unloading the last adapter."""
    right = {"Authorization": f"Bearer {TOKEN}"}
    while not stop.wait(0.5):
        for method, wanted in (("PUT", 200), ("DELETE", 204)):
            connection = HTTPConnection(HOST, port, timeout=120)
            connection.request(method, f"/adapters/task{last}", headers=right)
            response = connection.getresponse()
            response.read()
            assert response.status == wanted
            connection.close()


def counts(port: int) -> dict[str, float]:
    """The server's own metrics, by name."""
    connection = HTTPConnection(HOST, port, timeout=120)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def npy(points: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, points)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="point_mae_tiny")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--points", type=int, default=1024, help="points that the network sees")
    parser.add_argument("--sent", type=int, default=2048, help="points per request")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds per turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--soak", type=float, default=180.0, help="seconds; 0: none")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--as_server", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_server:
        return run_server(args.as_server, args.backbone, args.batch, args.threads)
    rng = np.random.default_rng(0)
    bodies = [npy(rng.normal(size=(args.sent, 3)).astype(np.float32)) for _ in range(16)]
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(Path(folder), args.backbone, args.adapters, args.points)
        print("| clients | server | requests a second | p50, ms | p99, ms | times as many ", end="")
        print("| CPU ms a request | clouds in a batch |")
        print("|---|---|---|---|---|---|---|---|")
        rows = load_rows(Path(folder), args, bodies) if args.clients else []
        if args.soak:
            rows.append(soak_row(Path(folder), args, bodies))
    if args.json:
        write_json(args.json, shlex.join(["python", *sys.argv]), "cpu", rows)


if __name__ == "__main__":
    main()
