"""The CUDA kernels of the ops on tokens, run on the CPU in random thread order: the CPU kernels'
results to rounding, and the same bits in every order."""

import pytest
import torch
from host_module import on_host, plans

SEEDS = (0, 1)
DTYPES = {
    "float64": (torch.float64, 1e-13),
    "float32": (torch.float32, 2e-6),
    "tf32": (torch.float32, 2e-3),
    "float16": (torch.float16, 2e-3),
    "bfloat16": (torch.bfloat16, 1e-2),
}  # fmt: skip


def sum_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def fields(**given):
    """Tensors by address, dtypes by name; what is None is left out."""
    convert = {torch.Tensor: torch.Tensor.data_ptr, torch.dtype: name_of}
    return {
        name: convert.get(type(value), lambda same: same)(value)
        for name, value in given.items()
        if value is not None
    }


def run(kernel, outputs, *leading, **given):
    """Runs a kernel once per seed; gives its outputs, which have the same bits each time."""
    results = []
    for seed in SEEDS:
        for out in outputs.values():
            if out is not None:
                out.fill_(torch.nan)
        on_host.set_seed(seed)
        kernel(*leading, **fields(**given, **outputs))
        results.append({n: out.clone() for n, out in outputs.items() if out is not None})
    for name, out in results[0].items():
        bits = torch.uint8
        assert torch.equal(out.view(bits), results[1][name].view(bits)), name
    return results[0]


def check(actual, expected, tolerance, name=""):
    """By relative 2-norm, and a NaN only where one is expected."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    assert torch.equal(actual.isnan(), expected.isnan()), name
    actual, expected = actual.double().nan_to_num(), expected.double().nan_to_num()
    error = (actual - expected).norm() / expected.norm().clamp_min(1e-30)
    assert error <= tolerance, f"{name}: {error:.1e}"


# --- scale and shift ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tokens, C", [(0, 3), (1, 1), (33, 7), (900, 130), (70, 384)])
def test_scale_shift_grad(kind, tokens, C):
    dtype, _ = DTYPES[kind]
    grad, output = torch.randn(2, tokens, C).to(dtype)
    scale, shift = torch.randn(2, C, dtype=sum_dtype(dtype))
    grads = run(
        on_host.scale_shift_grad,
        {"grad_scale": torch.empty_like(scale), "grad_shift": torch.empty_like(shift)},
        grad=grad, output=output, scale=scale, shift=shift, tokens=tokens, C=C, dtype=dtype,
    )  # fmt: skip
    expected = torch.ops.dapt.scale_shift_grad(grad, output, scale, shift)
    # sums in float32 in another order
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    check(grads["grad_scale"], expected[0], tolerance)
    check(grads["grad_shift"], expected[1], tolerance)


# --- patch encoder --------------------------------------------------------------------------------


def make_encoder(D, first, middle, last, C, dtype):
    def weight(rows, cols):
        return (torch.randn(rows, cols) / cols**0.5).to(dtype)

    def bias(size):
        return (0.1 * torch.randn(size)).to(sum_dtype(dtype))

    return {
        "conv1": weight(first, D), "bias1": bias(first), "conv2": weight(middle, first),
        "conv3_global": weight(last, middle), "conv3_local": weight(last, middle),
        "bias3": bias(last), "conv4": weight(C, last), "bias4": bias(C),
    }  # fmt: skip


def check_encoder(patches, weights, kind, rows=0):
    dtype, tolerance = DTYPES[kind]
    B, G, K, D = patches.shape
    widths = {
        "D": D, "first": weights["conv1"].shape[0], "middle": weights["conv2"].shape[0],
        "last": weights["conv4"].shape[1], "C": weights["conv4"].shape[0],
    }  # fmt: skip
    result = run(
        on_host.patch_encoder, {"tokens": torch.empty(B, G, widths["C"], dtype=dtype)}, rows,
        patches=patches, **weights, P=B * G, K=K, **widths, compute=dtype, tf32=kind == "tf32",
    )  # fmt: skip
    expected = torch.ops.dapt.patch_encoder(patches, *weights.values(), dtype)
    check(result["tokens"], expected, tolerance)


@pytest.mark.parametrize("kind", DTYPES)
def test_patch_encoder_as_published(kind):
    dtype, _ = DTYPES[kind]
    patches = torch.randn(1, 5 if kind == "bfloat16" else 1, 32, 3).to(dtype)
    rows = {"float64": 32, "bfloat16": 128}.get(kind, 64)
    check_encoder(patches, make_encoder(3, 128, 256, 512, 384, dtype), kind, rows)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(
    "B, G, K, D, first, middle, last, C",
    [(2, 3, 1, 3, 5, 7, 9, 11), (1, 5, 8, 6, 33, 48, 70, 30), (1, 2, 40, 40, 16, 17, 32, 47)],
)
def test_patch_encoder(kind, B, G, K, D, first, middle, last, C):
    dtype, _ = DTYPES[kind]
    weights = make_encoder(D, first, middle, last, C, dtype)
    patches = torch.randn(B, G, K, D).to(dtype)
    patches[:, 0, K // 2, D - 1] = torch.nan  # only its own patch's
    for rows in (0, 16, 64):  # chosen, patches in several parts, several patches at once
        check_encoder(patches, weights, kind, rows)


def test_patch_encoder_plans():
    published = dict(P=4096, K=32, D=3, first=128, middle=256, last=512, C=384)
    plan = repr(plans.patch_encoder(plans.H100, **published, compute="bfloat16"))
    assert plan.startswith("4 patches a block, 128 points")
    plan = repr(plans.patch_encoder(plans.A100, **published, compute="bfloat16"))
    assert plan.startswith("2 patches a block, 64 points")
    for device in (plans.H100, plans.A100):
        plans.patch_encoder(device, **published, compute="float64")
    with pytest.raises(ValueError, match="does not fit the GPU's shared memory"):
        plans.patch_encoder(plans.A100, **{**published, "last": 20_000}, compute="float32")
