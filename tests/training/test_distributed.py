"""Batch norm over two processes compared with one, in float64."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from dapt.runs.processes import synchronize_batch_norms

ROWS, CHANNELS = 10, 7


def network():
    torch.manual_seed(3)
    layers = [nn.Linear(CHANNELS, CHANNELS), nn.BatchNorm1d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(CHANNELS, 2)).double()


def step(model, x):
    model(x).square().mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def work(rank, port, x, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = network()
    synchronize_batch_norms(model)
    grads = step(nn.parallel.DistributedDataParallel(model), x.chunk(2)[rank])
    if rank == 0:
        grads = {name.removeprefix("module."): grad for name, grad in grads.items()}
        torch.save({"grads": grads, "state": model.state_dict()}, results)
    dist.destroy_process_group()


def test_two_processes_normalize_as_one(tmp_path):
    x = torch.randn(ROWS, CHANNELS, dtype=torch.float64)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, x, tmp_path / "results"), nprocs=2)
    got = torch.load(tmp_path / "results", weights_only=True)
    model = network()
    for name, grad in step(model, x).items():
        torch.testing.assert_close(got["grads"][name], grad, rtol=1e-9, atol=1e-12)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(got["state"][name], value, rtol=1e-9, atol=1e-12)
