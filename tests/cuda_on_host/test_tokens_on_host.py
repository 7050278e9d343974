"""The CUDA kernels of the token ops run on the CPU in random thread order give the CPU kernels'
results up to rounding, and the same bits in every order."""

import pytest
import torch
from host_module import SANITIZE, fields, on_host, plans

import dapt_ext

SEEDS = (0,) if SANITIZE else (0, 1)
DTYPES = {
    "float64": (torch.float64, 1e-13),
    "float32": (torch.float32, 1e-5),
    "tf32": (torch.float32, 2e-3),
    "float16": (torch.float16, 2e-3),
    "bfloat16": (torch.bfloat16, 1e-2),
}  # fmt: skip


def sum_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def run(kernel, outputs, *leading, **given):
    """Runs a kernel once per seed and returns its outputs, which must have the same bits each
    time."""
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
        assert torch.equal(out.view(bits), results[-1][name].view(bits)), name
    return results[0]


def check(actual, expected, tolerance, name="", least=1e-30):
    """Compares by 2-norm, relative to `expected` or to `least`; NaNs must be where expected."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    assert torch.equal(actual.isnan(), expected.isnan()), name
    actual, expected = actual.double().nan_to_num(), expected.double().nan_to_num()
    error = (actual - expected).norm() / expected.norm().clamp_min(least)
    assert error <= tolerance, f"{name}: {error:.1e}"


# --- scale and shift ------------------------------------------------------------------------------


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("C, D", [(1, 1), (300, 1), (5, 0), (33, 7), (70, 384)])
def test_scale_shift_fold(kind, C, D, with_bias):
    dtype, _ = DTYPES[kind]
    sums = sum_dtype(dtype)
    weight, (bias, scale, shift) = torch.randn(C, D, dtype=sums), torch.randn(3, C, dtype=sums)
    given = {"weight": weight, "bias": bias if with_bias else None}
    folded = run(
        on_host.scale_shift_fold,
        {"folded": torch.empty(C, D, dtype=dtype), "offset": torch.empty(C, dtype=dtype)},
        **given, scale=scale, shift=shift, C=C, D=D, weight_dtype=sums, dtype=dtype,
    )  # fmt: skip
    expected = torch.ops.dapt.scale_shift_fold(*given.values(), scale, shift, dtype)
    assert torch.equal(folded["folded"], expected[0])
    # the CPU may fuse a product and a sum
    tolerance = {torch.float64: 1e-15, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
    check(folded["offset"], expected[1], tolerance)

    grad_folded, grad_offset = torch.randn(C, D, dtype=sums), torch.randn(C, dtype=sums)
    grads = run(
        on_host.scale_shift_fold_grad, {"grad_scale": torch.empty_like(scale)},
        grad_folded=grad_folded, grad_offset=grad_offset, **given, C=C, D=D, weight_dtype=sums,
    )  # fmt: skip
    expected = torch.ops.dapt.scale_shift_fold_grad(grad_folded, grad_offset, *given.values())
    check(grads["grad_scale"], expected, 1e-12 if sums == torch.float64 else 1e-5)


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tokens, C", [(0, 3), (1, 1), (33, 7), (1500, 130), (70, 384)])
def test_scale_shift_grad(kind, tokens, C):
    dtype, _ = DTYPES[kind]
    grad, output = torch.randn(2, tokens, C).to(dtype)
    scale, shift = torch.randn(2, C, dtype=sum_dtype(dtype))
    scale[0], least = -0.0, 0.1  # about every twelfth of the others is nearer to zero
    grads = run(
        on_host.scale_shift_grad,
        {"grad_scale": torch.empty_like(scale), "grad_shift": torch.empty_like(shift)},
        grad=grad, output=output, scale=scale, shift=shift, tokens=tokens, C=C, dtype=dtype,
        least_scale=least,
    )  # fmt: skip
    expected = torch.ops.dapt.scale_shift_grad(grad, output, scale, shift, least)
    # float32 sums in a different order
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    check(grads["grad_scale"], expected[0], tolerance)
    check(grads["grad_shift"], expected[1], tolerance)


# --- submanifold convolution ----------------------------------------------------------------------


def make_conv(M, C, D, dtype):
    cells = torch.randint(7, (M, 3))
    neighbors = dapt_ext.neighbor_map(cells[dapt_ext.unique_cells(cells)[0]])
    weight = (torch.randn(D, 3, 3, 3, C) / (9 * C) ** 0.5).to(dtype)
    return torch.randn(len(neighbors), C).to(dtype), weight, torch.randn(D).to(dtype), neighbors


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("M, C, D", [(1, 3, 2), (40, 16, 33), (150, 65, 70), (200, 36, 18)])
def test_submanifold_conv(kind, M, C, D):
    dtype, tolerance = DTYPES[kind]
    x, weight, bias, neighbors = make_conv(M, C, D, dtype)
    sizes = {"M": len(x), "taps": 27, "dtype": dtype, "tf32": kind == "tf32"}
    given = {"neighbors": neighbors, **sizes}
    out = run(
        on_host.submanifold_conv, {"out": torch.empty(len(x), D, dtype=dtype)},
        x=x, weight=weight, bias=bias, C=C, D=D, weight_d=27 * C, weight_tap=C, weight_c=1, **given,
    )["out"]  # fmt: skip
    check(out, torch.ops.dapt.submanifold_conv(x, weight, bias, neighbors), tolerance)

    grad = torch.randn(len(x), D).to(dtype)
    last_tap = weight.flatten(1, 3)[:, -1:]
    grad_x = run(
        on_host.submanifold_conv, {"out": torch.empty(len(x), C, dtype=dtype)},
        x=grad, weight=last_tap, C=D, D=C, weight_d=1, weight_tap=-C, weight_c=27 * C, **given,
    )["out"]  # fmt: skip
    expected = torch.ops.dapt.submanifold_conv_input_grad(grad, weight, neighbors)
    check(grad_x, expected, tolerance)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("M, C, D", [(1, 3, 2), (300, 16, 33), (150, 65, 70)])
def test_submanifold_conv_weight_grad(kind, M, C, D):
    dtype, tolerance = DTYPES[kind]
    x, weight, _, neighbors = make_conv(M, C, D, dtype)
    grad = torch.randn(len(x), D).to(dtype)
    result = run(
        on_host.submanifold_conv_weight_grad,
        {"grad_weight": torch.empty(weight.shape, dtype=sum_dtype(dtype))},
        grad=grad, x=x, neighbors=neighbors, M=len(x), C=C, D=D, taps=27, dtype=dtype,
        tf32=kind == "tf32",
    )["grad_weight"]  # fmt: skip
    expected = torch.ops.dapt.submanifold_conv_weight_grad(grad, x, neighbors)
    check(result, expected.to(result.dtype), tolerance)


def test_weight_grad_of_many_rows():
    """The sums of several parts of the rows are added up."""
    line = torch.zeros(4500, 3, dtype=torch.long)
    line[:, 2] = torch.arange(4500)
    neighbors = dapt_ext.neighbor_map(line)
    x, grad = torch.randn(len(neighbors), 4), torch.randn(len(neighbors), 3)
    result = run(
        on_host.submanifold_conv_weight_grad, {"grad_weight": torch.empty(3, 27, 4)},
        grad=grad, x=x, neighbors=neighbors, M=len(x), C=4, D=3, taps=27, dtype=torch.float32,
    )["grad_weight"]  # fmt: skip
    expected = torch.ops.dapt.submanifold_conv_weight_grad(grad, x, neighbors)
    check(result, expected.flatten(1, 3), 1e-5)


def test_neighbors_out_of_range_stay_in_memory():
    """Neighbors on a device are not checked, so kernels treat invalid ones as absent."""
    x, weight, _, neighbors = make_conv(30, 5, 6, torch.float32)
    wild = neighbors.where(neighbors != 3, 2**40).where(neighbors != 4, -(2**40))
    tame = neighbors.where((neighbors != 3) & (neighbors != 4), -1)
    out = run(
        on_host.submanifold_conv, {"out": torch.empty(len(x), 6)}, x=x, weight=weight,
        neighbors=wild, M=len(x), C=5, D=6, taps=27, weight_d=135, weight_tap=5, weight_c=1,
        dtype=torch.float32,
    )["out"]  # fmt: skip
    check(out, torch.ops.dapt.submanifold_conv(x, weight, None, tame), 1e-5)


# --- patch encoder --------------------------------------------------------------------------------


def make_encoder(D, first, middle, last, C, dtype):
    def weight(rows, cols):
        return (torch.randn(rows, cols) / cols**0.5).to(dtype)

    def bias(size):
        return (0.1 * torch.randn(size)).to(sum_dtype(dtype))

    return {
        "conv1": weight(first, D), "bias1": bias(first), "conv2": weight(middle, first),
        "conv3_global": weight(last, middle), "conv3_local": weight(last, first),
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
    G, K = {"bfloat16": (5, 32), "float64": (1, 12)}.get(kind, (1, 32))
    patches = torch.randn(1, G, K, 3).to(dtype)
    rows = {"float64": 16, "bfloat16": 128}.get(kind, 64)
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
    patches[:, 0, K // 2, D - 1] = torch.nan  # affects only its own patch
    for rows in (0, 16, 64):  # the default, patches in several parts, several patches at once
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


# --- dynamic adapter ------------------------------------------------------------------------------

TINY = plans.Device(multiprocessors=1, shared_per_block=227 * 1024, max_cluster=1, code=90)
PARAMETERS = (
    "norm_weight", "norm_bias", "down_weight", "down_bias",
    "scale_weight", "scale_bias", "up_weight", "up_bias",
)  # fmt: skip
ACTIVATIONS = ("gelu", "relu", "quickgelu")


def make_adapter(B, T, C, r, dtype, norm=True, scale=True):
    """The inputs of torch.ops.dapt.dynamic_adapter that are tensors."""
    high = sum_dtype(dtype)
    return {
        "x": (2 * torch.randn(B, T, C) + 0.5).to(dtype),
        "norm_weight": torch.randn(C).to(high) if norm else None,
        "norm_bias": torch.randn(C).to(high) if norm else None,
        "down_weight": (torch.randn(r, C) / C**0.5).to(dtype),
        "down_bias": torch.randn(r).to(high),
        "scale_weight": (torch.randn(1, C) / C**0.5).to(high) if scale else None,
        "scale_bias": (0.5 + torch.rand(1)).to(high) if scale else None,
        "up_weight": (torch.randn(C, r) / r**0.5).to(dtype),
        "up_bias": torch.randn(C).to(high),
    }


def run_adapter(
    kind, B, T, C, r, *, device=plans.H100, activation="gelu", dropout=0.0, low=False, prompt=True,
    mlp=True, residual=True, path=True, norm=True, scale=True, frozen=(), mixed=False,
    masters=False,
):  # fmt: skip
    """Compares the kernels' forward and backward with the CPU's ops."""
    dtype, tolerance = DTYPES[kind]
    tf32 = kind == "tf32"
    given = make_adapter(B, T, C, r, dtype, norm, scale)
    high = sum_dtype(dtype)
    weight_dtype = high if masters else dtype
    given |= {n: given[n].to(weight_dtype) for n in ("down_weight", "up_weight")}
    if masters:
        given["down_weight"] += 1e-4 * torch.randn(r, C)  # no longer representable in 16 bits
    other = torch.float32 if mixed else dtype
    given["mlp_out"] = torch.randn(B, T, C).to(other) if mlp else None
    given["residual"] = torch.randn(B, T, C).to(other) if residual else None
    given["path_factor"] = torch.tensor([0.0, 1.25, 1.0] * B)[:B].to(high) if path else None
    given["seed"] = torch.randint(2**63 - 1, ()) if dropout else None
    scalars = dict(static_scale=0.7, dropout=dropout, eps=1e-5)
    expected = torch.ops.dapt.dynamic_adapter(
        *given.values(), activation, *scalars.values(), dtype, other, prompt, not low
    )
    shared = dict(
        **{n: t for n, t in given.items() if n not in ("mlp_out", "residual")},
        B=B, T=T, C=C, r=r, x_dtype=dtype, mlp_dtype=other, residual_dtype=other, out_dtype=other,
        compute=dtype, weight_dtype=weight_dtype, activation=ACTIVATIONS.index(activation),
        tf32=tf32, **scalars,
    )  # fmt: skip
    outputs = {
        "out": torch.empty(B, T, C, dtype=other),
        "prompt_mean": torch.empty(B, C, dtype=other) if prompt else None,
        "hidden": None if low else torch.empty(B, T, r, dtype=dtype),
        "stats": torch.empty(B, T, 3, dtype=high),
    }
    made = run(
        on_host.dynamic_adapter, outputs, device, **shared,
        mlp_out=given["mlp_out"], residual=given["residual"],
    )  # fmt: skip
    hidden, stats = made.get("hidden"), made["stats"]
    live = stats[..., 2:] != 0  # the CPU skips the hidden row of a token with scale 0
    for (name, mine), theirs in zip(outputs.items(), expected, strict=True):
        if name == "hidden" and not low:
            check(hidden.where(live, 0), theirs.where(live, 0), tolerance, name)
        elif mine is not None:
            check(made[name], theirs, tolerance, name)

    grad_out = torch.randn(B, T, C).to(other)
    grad_prompt = torch.randn(B, C).to(other) * T if prompt else None
    shapes = {"x": (given["x"].shape, dtype), "mlp_out": ((B, T, C), other)}
    shapes |= {n: (given[n].shape, high) for n in PARAMETERS if given[n] is not None}
    order = ["x", "mlp_out", *PARAMETERS]
    kept = [n for n in order if n in shapes and n not in frozen]
    tensors = [given[n] for n in ("x", *PARAMETERS, "path_factor", "seed")]
    expected = torch.ops.dapt.dynamic_adapter_backward(
        grad_out, grad_prompt, *tensors, expected[3], None if low else expected[2], activation,
        0.7, dropout, 1e-5, dtype, other, list(shapes),
    )  # fmt: skip
    grads = run(
        on_host.dynamic_adapter_backward,
        {f"grad_{n}": torch.empty(shapes[n][0], dtype=shapes[n][1]) for n in kept},
        device, **shared, stats=stats, hidden=hidden, grad_out=grad_out,
        grad_prompt_mean=grad_prompt,
    )  # fmt: skip
    # A single number, whose terms may cancel, is measured by the same terms times those of z.
    usual = {
        f"{of}_bias": expected[order.index(f"{of}_weight")].double().norm() / C**0.5
        for of in ("scale", "down")
    }
    for name in kept:
        least = max(float(usual.get(name, 0)), 1e-30)
        # one number per token, with C terms that cancel
        slack = 10 if name.startswith("scale") else 4
        check(grads[f"grad_{name}"], expected[order.index(name)], slack * tolerance, name, least)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("C, r", [(48, 1), (96, 30), (192, 64), (50, 8), (131, 72)])
def test_adapter(kind, C, r):
    run_adapter(kind, 3, 21, C, r, dropout=0.3)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("B, T, C, r", [(1, 1, 1024, 64), (1, 17, 384, 256), (2, 16, 768, 72)])
def test_adapter_of_wide_rows(kind, B, T, C, r):
    run_adapter(kind, B, T, C, r)


@pytest.mark.parametrize("kind", ["float64", "bfloat16"])
@pytest.mark.parametrize(
    "options",
    [
        dict(low=True, dropout=0.5),
        dict(low=True, prompt=False, path=False),
        dict(norm=False, scale=False),
        dict(activation="relu", norm=False),
        dict(activation="quickgelu", scale=False),
        dict(mlp=False, residual=False, path=False),
        dict(frozen=("x", "norm_weight", "norm_bias")),
        dict(frozen=("x", "mlp_out", "down_weight", "scale_weight", "up_bias"), norm=False),
        dict(frozen=("x", "norm_weight", "norm_bias", "down_bias", "scale_bias", "down_weight")),
        dict(frozen=PARAMETERS),
        dict(frozen=("x", *PARAMETERS[:-2]), prompt=False),  # no gradient that needs a weight
        dict(frozen=("x", *PARAMETERS), prompt=False),
    ],
    ids=str,
)
def test_adapter_options(kind, options):
    run_adapter(kind, 2, 35, 60, 20, **options)


@pytest.mark.parametrize("by_cloud", [True, False])
def test_adapter_of_many_tiles_per_block(by_cloud):
    """With few multiprocessors, a block sums over several tiles, some across the end of a cloud."""
    run_adapter("float32", 5, 70, 40, 12, device=TINY, prompt=by_cloud, path=by_cloud)


@pytest.mark.parametrize(
    "options",
    [
        dict(norm=False),
        dict(norm=False, low=True),
        dict(frozen=("x",)),
        dict(frozen=("x", *PARAMETERS[:2], "scale_weight")),
        dict(frozen=("x", *PARAMETERS[:6])),
    ],
    ids=str,
)
def test_adapter_ends_a_tile_early(options):
    """Whatever is omitted, a block's next tile must wait until this one is done."""
    run_adapter("float32", 2, 100, 40, 12, device=TINY, **options)


def test_adapter_in_mixed_dtypes():
    run_adapter("bfloat16", 2, 20, 64, 16, mixed=True)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("low", [True, False])
def test_adapter_rounds_float32_weights_itself(kind, low):
    run_adapter(kind, 2, 20, 70, 18, masters=True, low=low)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_patch_encoder_rounds_float32_weights_itself(kind):
    dtype, _ = DTYPES[kind]
    widths = (6, 33, 48, 70, 30)
    weights = make_encoder(*widths, torch.float32)
    rounded = {n: w.to(dtype) if n.startswith("conv") else w for n, w in weights.items()}
    patches, tokens = torch.randn(1, 3, 8, 6).to(dtype), []
    for own, weight_dtype in ((weights, torch.float32), (rounded, dtype)):
        made = run(
            on_host.patch_encoder, {"tokens": torch.empty(1, 3, 30, dtype=dtype)}, 0,
            patches=patches, **own, P=3, K=8, compute=dtype, weight_dtype=weight_dtype,
            **dict(zip(("D", "first", "middle", "last", "C"), widths, strict=True)),
        )  # fmt: skip
        tokens.append(made["tokens"])
    assert torch.equal(*tokens)


def test_adapter_reads_rows_that_are_not_aligned():
    """x starts in the middle of a vector load."""
    given = make_adapter(1, 3, 64, 8, torch.float32)
    moved = torch.empty(3 * 64 + 1)[1:].view(1, 3, 64).copy_(given["x"])
    results = []
    for x in (given["x"], moved):
        made = run(
            on_host.dynamic_adapter,
            {"out": torch.empty(1, 3, 64), "stats": torch.empty(1, 3, 3)},
            plans.H100, **{**given, "x": x}, B=1, T=3, C=64, r=8, x_dtype=x.dtype,
            out_dtype=x.dtype, compute=x.dtype, eps=1e-5,
        )  # fmt: skip
        results.append(made["out"])
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
def test_dropout_mask_is_that_of_the_cpu(kind, rate):
    """If up_weight is the identity, out - residual is the active row itself, so its zeros are the
    mask."""
    dtype, _ = DTYPES[kind]
    T, C = 37, 30
    given = make_adapter(1, T, C, C, dtype, norm=False, scale=False)
    given["down_bias"] += 10  # no unit is zero by itself
    given["up_weight"] = torch.eye(C, dtype=dtype)
    given["up_bias"].zero_()
    seed = torch.randint(2**63 - 1, ())
    out, *_ = torch.ops.dapt.dynamic_adapter(
        *given.values(), None, None, None, seed, "gelu", 1.0, rate, 1e-5, dtype, dtype, False, False
    )
    made = run(
        on_host.dynamic_adapter,
        {"out": torch.empty_like(out), "stats": torch.empty(1, T, 3, dtype=sum_dtype(dtype))},
        plans.H100, **given, seed=seed, B=1, T=T, C=C, r=C, x_dtype=dtype, out_dtype=dtype,
        compute=dtype, static_scale=1.0, dropout=rate,
    )  # fmt: skip
    dropped = made["out"] == 0
    assert torch.equal(dropped, out == 0)
    assert abs(dropped.double().mean() - rate) <= 0.1


@pytest.mark.parametrize("kind", DTYPES)
def test_code_compiled_for_an_older_gpu_multiplies_what_it_can(kind):
    """PTX for 7.5 has no tensor cores, even when the driver compiles it for a GPU that has them."""
    older = plans.Device(multiprocessors=108, shared_per_block=163 * 1024, max_cluster=1, code=75)
    on_host.play_device(older, major=8)
    try:
        if kind in ("float64", "float32"):
            run_adapter(kind, 1, 5, 20, 8)
        else:
            with pytest.raises(
                RuntimeError, match=r"compiled for .* 8.0 or later, .* were for 7.5"
            ):
                run_adapter(kind, 1, 5, 20, 8)
    finally:
        on_host.play_device()


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("prompt, norm, scale", [(True, True, True), (False, False, False)])
def test_an_adapter_for_each_cloud(kind, prompt, norm, scale):
    dtype, tolerance = DTYPES[kind]
    A, B, T, C, r = 3, 4, 21, 60, 20
    stack = [make_adapter(B, T, C, r, dtype, norm, scale) for _ in range(A)]
    given = {
        name: None if value is None else torch.stack([one[name] for one in stack])
        for name, value in stack[0].items()
        if name != "x"
    }
    x, mlp_out, residual = torch.randn(3, B, T, C).to(dtype)
    adapters = torch.tensor([2, 0, 2, 1])
    expected = torch.ops.dapt.dynamic_adapters(
        x, adapters, *given.values(), mlp_out, residual, "gelu", 0.7, 1e-5, dtype, dtype, prompt
    )
    outputs = {
        "out": torch.empty(B, T, C, dtype=dtype),
        "prompt_mean": torch.empty(B, C, dtype=dtype) if prompt else None,
        "stats": torch.empty(B, T, 3, dtype=sum_dtype(dtype)),
    }
    sizes = dict(B=B, T=T, C=C, r=r, A=A)
    shared = dict(
        x=x, **given, mlp_out=mlp_out, residual=residual, **sizes, x_dtype=dtype, mlp_dtype=dtype,
        residual_dtype=dtype, out_dtype=dtype, compute=dtype, static_scale=0.7, eps=1e-5,
        tf32=kind == "tf32",
    )  # fmt: skip
    made = run(on_host.dynamic_adapter, outputs, plans.H100, adapters=adapters, **shared)
    check(made["out"], expected[0], tolerance)
    if prompt:
        check(made["prompt_mean"], expected[1], tolerance)
    # Without DAPT_CHECK=1 the numbers are not checked, but memory stays safe whatever they are.
    wild = torch.tensor([2, -5, 2, 10**12])
    tame = run(on_host.dynamic_adapter, outputs, plans.H100, adapters=wild, **shared)
    assert torch.equal(tame["out"][[0, 2]], made["out"][[0, 2]]) and tame["out"].isfinite().all()


def test_adapter_without_tokens():
    run_adapter("float32", 2, 0, 8, 4, prompt=False)


def test_adapter_plans():
    shape = dict(B=32, T=137, C=384, r=64, path_factor=1)
    for device in (plans.H100, plans.A100):
        assert repr(plans.dynamic_adapter(device, **shape, compute="bfloat16")).startswith("288 ")
        plans.dynamic_adapter(device, **{**shape, "C": 1024, "r": 256}, compute="float32")
    with pytest.raises(ValueError, match="needs .* bytes of the GPU's shared memory"):
        plans.dynamic_adapter(plans.A100, **{**shape, "C": 10_000}, compute="float32")
