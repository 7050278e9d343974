"""The CUDA kernels on a GPU compared with the CPU kernels: identical indices, floats equal up to
rounding, the same bits in every run, and no synchronization with the device.

Skipped without a GPU. `DAPT_TEST_DEVICE=cpu` runs the tests themselves on the CPU.
"""

import copy
import logging
import os
from unittest import mock

import pytest
import torch

import dapt_ext
from dapt_ext import PatchEncoderWeights

DEVICE = os.environ.get("DAPT_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"
)
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def no_tf32():
    """Keeps float32 products in full precision, including those of cuDNN's convolutions."""
    libraries = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [library.allow_tf32 for library in libraries]
    for library in libraries:
        library.allow_tf32 = False
    yield
    for library, allowed in zip(libraries, before, strict=True):
        library.allow_tf32 = allowed


def on_device(function, *tensors, **options):
    """The device's results on the CPU, after two runs that must give the same bits."""
    moved = [t.to(DEVICE) if isinstance(t, torch.Tensor) else t for t in tensors]
    runs = [as_tuple(function(*moved, **options)) for _ in range(2)]
    for once, again in zip(*runs, strict=True):
        assert torch.equal(once.view(torch.uint8), again.view(torch.uint8))
    return [result.cpu() for result in runs[0]]


def as_tuple(results):
    results = results if isinstance(results, tuple) else (results,)
    return tuple(result.contiguous() for result in results)


def assert_same(function, *tensors, **options):
    """Asserts that integers are equal, and floats up to rounding."""
    expected = as_tuple(function(*tensors, **options))
    for mine, cpu in zip(on_device(function, *tensors, **options), expected, strict=True):
        assert mine.dtype == cpu.dtype and mine.shape == cpu.shape
        if cpu.is_floating_point():
            torch.testing.assert_close(mine, cpu, rtol=1e-5, atol=1e-6, equal_nan=True)
        else:
            assert torch.equal(mine, cpu)


@pytest.mark.parametrize(
    "B, N, M", [(1, 1, 1), (3, 97, 97), (32, 2048, 128), (2, 8192, 1200), (1, 100_003, 1024)]
)
def test_fps(B, N, M):
    assert_same(dapt_ext.farthest_point_sample, torch.randn(B, N, 3), M)
    assert_same(dapt_ext.farthest_point_sample, torch.randint(4, (B, N, 3)).float(), M)


def test_fps_of_a_million_points():
    assert_same(dapt_ext.farthest_point_sample, torch.randn(1, 1_000_000, 3), 256)


def test_awkward_clouds(make_cloud):
    cloud = make_cloud(2, 515)
    assert_same(dapt_ext.farthest_point_sample, cloud, 200)
    assert_same(lambda q, p: dapt_ext.knn(q, p, 33)[1], cloud[:, :70].contiguous(), cloud)
    assert_same(lambda p: dapt_ext.group(p, 40, 17)[2:], cloud)
    assert_same(lambda p: dapt_ext.group(p, 40, 17, near_origin="skip")[2:], 0.02 * cloud)


def test_real_scans(scans):
    for cloud in scans.values():
        assert_same(dapt_ext.farthest_point_sample, cloud, 1024)
        assert_same(lambda p: dapt_ext.group(p, 128, 32), cloud)


@pytest.mark.parametrize("B, Q, N, k", [(2, 5, 9, 9), (32, 128, 2048, 32), (1, 4096, 40_001, 64)])
def test_knn(B, Q, N, k):
    assert_same(dapt_ext.knn, torch.randn(B, Q, 3), torch.randn(B, N, 3), k)


def test_lengths():
    lengths = torch.tensor([300, 77, 512])
    points = torch.randn(3, 512, 3)
    assert_same(lambda p, n: dapt_ext.group(p, 20, 16, lengths=n), points, lengths)


def test_ball_query_and_chamfer():
    assert_same(dapt_ext.ball_query, torch.randn(4, 65, 3), torch.randn(4, 999, 3), 0.4, 32)
    assert_same(dapt_ext.chamfer, torch.randn(5, 333, 3), torch.randn(5, 1025, 3))


def test_cells():
    points = torch.randn(3, 5000, 3)
    assert_same(lambda p: tuple(dapt_ext.grid_sample(p, 0.1)), points)
    voxels = dapt_ext.grid_sample(points, 0.1)
    assert_same(dapt_ext.neighbor_map, voxels.cells, voxels.scenes)
    assert_same(lambda cells, scenes: dapt_ext.curve_codes(cells, 8, scenes), *voxels[:2])


def gradients(function, *tensors):
    """Outputs, and the gradients of all floating inputs for fixed incoming gradients."""

    def run(*inputs):
        inputs = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
        outputs = as_tuple(function(*inputs))
        rng = torch.Generator().manual_seed(5)
        slopes = [torch.randn(o.shape, generator=rng).to(o) for o in outputs]
        wanted = [t for t in inputs if t.requires_grad]
        return *(o.detach() for o in outputs), *torch.autograd.grad(outputs, wanted, slopes)

    return run


def test_gather_and_interpolate_both_ways():
    values, idx = torch.randn(3, 200, 17), torch.randint(200, (3, 64, 9))
    assert_same(gradients(dapt_ext.gather), values, idx)
    clouds = torch.randn(3, 150, 3), torch.randn(3, 200, 3), values
    assert_same(lambda q, p, v: gradients(lambda v: dapt_ext.interpolate(q, p, v))(v), *clouds)


def near(mine, cpu, tolerance):
    for i, (a, b) in enumerate(zip(mine, cpu, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape
        error = (a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-20)
        assert error <= tolerance, f"result {i}: {error:.1e}"


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    "M, C, D",
    [
        (900, 18, 33), (9000, 64, 64), (5000, 96, 96), (700, 7, 130), (2000, 128, 65),
        (300, 512, 512), (12_000, 512, 96),
    ],
)  # fmt: skip
def test_submanifold_conv(M, C, D, dtype):
    cells = torch.randint(round(2 * M ** (1 / 3)), (M, 3))
    neighbors = dapt_ext.neighbor_map(cells[dapt_ext.unique_cells(cells)[0]])
    x, weight = torch.randn(len(neighbors), C), torch.randn(D, 3, 3, 3, C) / (9 * C) ** 0.5
    run = gradients(dapt_ext.submanifold_conv)
    arguments = x.to(dtype), weight.to(dtype), torch.randn(D).to(dtype), neighbors
    near(on_device(run, *arguments), run(*arguments), ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("gather_from", ["1", "1000"])
def test_submanifold_conv_either_way(monkeypatch, gather_from, dtype):
    monkeypatch.setenv("DAPT_GATHER_FROM", gather_from)
    test_submanifold_conv(700, 40, 90, dtype)
    test_submanifold_conv(700, 90, 40, dtype)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
def test_a_wide_submanifold_conv_waits_for_nothing_and_can_be_captured():
    neighbors = dapt_ext.neighbor_map(torch.cartesian_prod(*[torch.arange(9)] * 3)).cuda()
    x, weight = torch.randn(729, 128).cuda(), torch.randn(160, 3, 3, 3, 128).cuda()
    slopes = torch.randn(729, 160).cuda()

    def step():
        inputs = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
        out = dapt_ext.submanifold_conv(*inputs, None, neighbors)
        return out.detach(), *torch.autograd.grad(out, inputs, slopes)

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.normal_()
    graph.replay()
    for mine, ordinary in zip(captured, step(), strict=True):
        torch.testing.assert_close(mine, ordinary, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("B, T, C, r", [(2, 7, 48, 5), (8, 130, 384, 64)])
def test_dynamic_adapter(B, T, C, r, memory, dtype):
    x, mlp_out, residual = (torch.randn(B, T, C, dtype=dtype) for _ in range(3))
    weights = [
        torch.randn(s) * 0.05 for s in ((r, C), (r,), (C, r), (C,), (C,), (C,), (1, C), (1,))
    ]
    weights[4] += 1
    weights[7] += 0.5
    seed = torch.tensor(1234567)

    def adapter(x, mlp_out, residual, down, down_b, up, up_b, norm, norm_b, scale, scale_b):
        with mock.patch.object(torch, "randint", lambda *_, device: seed.to(device)):
            return dapt_ext.dynamic_adapter(
                x, down, down_b, up, up_b, norm_weight=norm, norm_bias=norm_b,
                scale_weight=scale, scale_bias=scale_b, mlp_out=mlp_out, residual=residual,
                dropout=0.3, training=True, memory=memory,
            )  # fmt: skip

    tensors = x, mlp_out, residual, *weights
    near(on_device(gradients(adapter), *tensors), gradients(adapter)(*tensors), ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
def test_dynamic_adapters(dtype):
    A, B, T, C, r = 3, 5, 67, 96, 12
    x, mlp_out, residual = (torch.randn(B, T, C, dtype=dtype) for _ in range(3))
    shapes = ((A, r, C), (A, r), (A, C, r), (A, C), (A, C), (A, C), (A, 1, C), (A, 1))
    weights = [0.05 * torch.randn(shape) for shape in shapes]

    def adapters(x, mlp_out, residual, which, down, down_b, up, up_b, norm, norm_b, scale, scale_b):
        return dapt_ext.dynamic_adapters(
            x, which, down, down_b, up, up_b, norm_weight=1 + norm, norm_bias=norm_b,
            scale_weight=scale, scale_bias=0.5 + scale_b, mlp_out=mlp_out, residual=residual,
        )  # fmt: skip

    tensors = x, mlp_out, residual, torch.tensor([2, 0, 2, 1, 0]), *weights
    near(on_device(adapters, *tensors), adapters(*tensors), ROUNDING[dtype])


def test_scale_shift():
    x, scale, shift = torch.randn(3, 65, 48), 1 + 0.1 * torch.randn(96), torch.randn(96)
    weight, bias = torch.randn(96, 48) / 7, torch.randn(96)

    def linear(x, scale, shift):
        return dapt_ext.scale_shift_linear(x, weight.to(x.device), bias.to(x.device), scale, shift)

    tensors = x, scale, shift
    near(on_device(gradients(linear), *tensors), gradients(linear)(*tensors), 2e-5)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_patch_encoder(dtype):
    sizes = [(128, 3), 128, (256, 128), 256, (512, 256), (512, 256), 512, (384, 512), 384]
    weights = [torch.randn(s) * (s[-1] if isinstance(s, tuple) else 100) ** -0.5 for s in sizes]

    def encoder(patches, *weights):
        with torch.autocast(patches.device.type, dtype, enabled=dtype != torch.float32):
            return dapt_ext.patch_encoder(patches, PatchEncoderWeights(*weights))

    tensors = 0.2 * torch.randn(2, 33, 32, 3), *weights
    near(on_device(encoder, *tensors), as_tuple(encoder(*tensors)), ROUNDING[dtype])


def test_attention():
    qkv = torch.randn(2, 130, 3 * 96)

    def attend(qkv):
        return dapt_ext.attention(qkv, 6)

    near(on_device(attend, qkv), as_tuple(attend(qkv)), 2e-5)


class TestModel:
    """DAPT on the shipped backbone."""

    @pytest.fixture
    def model(self):
        dapt = pytest.importorskip("dapt")
        torch.manual_seed(0)
        backbone = dapt.create_backbone("point_mae_tiny", checkpoint="shipped")
        method = dapt.Dapt(rank=8, dropout=0.2, drop_path=0.3)
        return dapt.attach(backbone, method, task=dapt.Classification(7))

    @staticmethod
    def step(model, points):
        model(points).square().sum().backward()

    def test_logits_and_gradients(self, model):
        for module in model.modules():  # no randomness is left
            for rate in ("dropout", "drop_path"):
                if isinstance(getattr(module, rate, None), float):
                    setattr(module, rate, 0.0)
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        points = torch.randn(4, 512, 3, generator=torch.Generator().manual_seed(1))
        results = []
        for device in ("cpu", DEVICE):
            own = copy.deepcopy(model).to(device).train()
            out = own(points.to(device))
            out.square().sum().backward()
            results.append([out.cpu(), *(w.grad.cpu() for _, w in own.own_parameters())])
        # The head's batch norm over four clouds amplifies rounding, and takes away every gradient
        # of the bias before it: what is left of that one is rounding alone.
        largest = max(result.norm() for result in results[0])
        for mine, cpu in zip(results[1], results[0], strict=True):
            assert (mine - cpu).norm() <= 1e-2 * cpu.norm() + 1e-5 * largest

    @pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
    def test_a_step_waits_for_nothing(self, model):
        model = model.cuda().train()
        points = torch.randn(4, 512, 3, device="cuda")
        self.step(model, points)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.step(model, points)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
    def test_inference_as_a_cuda_graph(self, model):
        model = model.cuda().eval()
        points = torch.randn(4, 512, 3, device="cuda")
        with torch.no_grad():
            expected = model(points)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = model(points)
            points.copy_(points.flip(0))
            graph.replay()
        torch.testing.assert_close(out, expected.flip(0), rtol=1e-4, atol=1e-5)

    @staticmethod
    def trained(model, dtype=torch.float32, between=lambda: None, **options):
        """The weights after eight steps with dropout and drop-path, each with its own seed; with
        options, by a `StepGraph`."""
        step_graph = pytest.importorskip("dapt.training.step_graph")
        own = copy.deepcopy(model).cuda().train()
        weights = [weight for _, weight in own.own_parameters()]
        optimizer = torch.optim.AdamW(weights, 1e-3, fused=True, capturable=bool(options))

        def step(batch):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                loss = own(batch["points"]).square().mean()
            loss.backward()
            between()
            optimizer.step()

        run = step_graph.StepGraph(step, torch.device("cuda"), **options) if options else step
        for i in range(8):
            torch.manual_seed(i)
            run({"points": torch.randn(4, 512, 3, device="cuda")})
        return [weight.detach().cpu() for weight in weights]

    @pytest.mark.parametrize("dtype", ROUNDING)
    @pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
    def test_training_steps_as_one_cuda_graph(self, model, dtype):
        """Each replay reads a new seed."""
        ordinary = self.trained(model, dtype)
        graph = self.trained(model, dtype, required=True)
        torch.testing.assert_close(graph, ordinary, rtol=1e-4, atol=1e-5)

    @pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
    def test_a_capture_that_breaks_leaves_nothing_behind(self, model, caplog):
        """Neither in the stream nor in the memory nor in the random numbers."""
        caplog.set_level(logging.INFO)
        ordinary = self.trained(model)
        without = self.trained(model, between=torch.cuda.synchronize, required=False)
        assert "cuda_graph off: the step cannot be one CUDA graph" in caplog.text
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        torch.testing.assert_close(without, ordinary, rtol=1e-4, atol=1e-5)
        graph = self.trained(model, required=True)
        torch.testing.assert_close(graph, ordinary, rtol=1e-4, atol=1e-5)

    @pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
    def test_a_run_takes_a_cuda_graph_by_itself(self, tmp_path, caplog):
        weights = [trained_by_command(tmp_path / graph, graph) for graph in ("auto", "off")]
        said = [message for message in caplog.messages if "cuda_graph" in message]
        assert len(said) == 1 and said[0].startswith("cuda_graph on"), said
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def trained_by_command(out, graph):
    """The adapter after two epochs of `dapt train` on synthetic scans."""
    cli = pytest.importorskip("dapt.cli")
    from safetensors.torch import load_file

    sizes = {"train_size": 64, "test_size": 16, "num_points": 256}
    flags = ["--config", "synthetic", "--epochs", "2", "--batch_size", "8", "--num_workers", "0"]
    flags += [word for name, size in sizes.items() for word in (f"--data.{name}", str(size))]
    flags += ["--method", "dapt", "--method.drop_path", "0.2", "--method.dropout", "0.1"]
    flags += ["--validation", "0", "--precision", "fp32", "--cuda_graph", graph, "--out", str(out)]
    assert cli.main(["train", *flags]) == 0
    return load_file(out / "adapter" / "adapter_model.safetensors")
