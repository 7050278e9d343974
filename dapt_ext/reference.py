"""PyTorch references of the ops, with the same signatures, for the tests to compare with.

Distances follow the kernels' order of float operations, so float32 indices agree to the last bit.
float64 inputs are computed in float64 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dapt_ext.curve_codes import CELL_BITS, CURVES
from dapt_ext.patch_encoder import PatchEncoderWeights
from dapt_ext.voxels import Cells


def farthest_point_sample(
    points: Tensor,
    num_samples: int,
    lengths: Tensor | None = None,
    start: int | Tensor = 0,
    near_origin: str = "keep",
) -> Tensor:
    """`dapt_ext.farthest_point_sample`, step by step."""
    points = _as_real(points)
    B, N, _ = points.shape
    cloud = torch.arange(B, device=points.device)
    nearest = points.new_full((B, N), torch.inf)  # squared distance to the chosen set
    nearest[_past(points, lengths)] = -1
    if near_origin == "skip":
        nearest[squared_distance(points, torch.zeros_like(points)) <= 1e-3] = -1
    first = last = torch.as_tensor(start, device=points.device).expand(B)
    idx = [last]
    for _ in range(num_samples - 1):
        nearest[cloud, last] = -1  # below every distance: never chosen again
        distance = squared_distance(points, points[cloud, last][:, None])  # [B, N]
        nearest = torch.minimum(nearest, distance)
        # If no point is left, the first one is repeated.
        last = torch.where(nearest.amax(1) < 0, first, _first_argmax(nearest))
        idx.append(last)
    return torch.stack(idx, dim=1)


def knn(
    queries: Tensor, points: Tensor, k: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`dapt_ext.knn` by a stable sort of all distances."""
    queries, points = _as_real(queries), _as_real(points)
    distance = squared_distance(queries[:, :, None], points[:, None])  # [B, M, N]
    # Points past a cloud's length must sort last, even after distances that overflow to infinity;
    # NaN does.
    order = distance.masked_fill(_past(points, lengths)[:, None], torch.nan)
    idx = order.sort(dim=-1, stable=True).indices[..., :k]
    return distance.gather(-1, idx), idx


def group(
    points: Tensor,
    num_groups: int,
    group_size: int,
    lengths: Tensor | None = None,
    start: int | Tensor = 0,
    near_origin: str = "keep",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`dapt_ext.group`: centers, their neighbors, and the difference."""
    points = _as_real(points)
    center_idx = farthest_point_sample(points, num_groups, lengths, start, near_origin)  # [B, G]
    centers = gather(points, center_idx)  # [B, G, 3]
    patch_idx = knn(centers, points, group_size, lengths)[1]  # [B, G, K]
    patches = gather(points, patch_idx) - centers[:, :, None]
    return patches, centers, patch_idx, center_idx


def gather(values: Tensor, idx: Tensor) -> Tensor:
    """`dapt_ext.gather`; an index below zero gives a row of zeros."""
    cloud = torch.arange(len(values), device=idx.device).view(-1, *[1] * (idx.dim() - 1))
    rows = values[cloud, idx.clamp(min=0)]
    return rows.masked_fill((idx < 0)[..., None], 0)


def ball_query(
    queries: Tensor,
    points: Tensor,
    radius: float,
    max_neighbors: int,
    lengths: Tensor | None = None,
) -> Tensor:
    """`dapt_ext.ball_query`: all hits in index order, truncated or padded with the first."""
    queries, points = _as_real(queries), _as_real(points)
    N = points.shape[1]
    sq_radius = torch.as_tensor(radius, dtype=points.dtype).square()
    inside = squared_distance(queries[:, :, None], points[:, None]) < sq_radius  # [B, M, N]
    inside &= ~_past(points, lengths)[:, None]
    order = torch.where(inside, torch.arange(N, device=points.device), N)
    if N < max_neighbors:
        order = torch.nn.functional.pad(order, (0, max_neighbors - N), value=N)
    idx = order.sort(dim=-1).values[..., :max_neighbors]
    first = torch.where(idx[..., :1] < N, idx[..., :1], -1)
    return torch.where(idx < N, idx, first)


def interpolate(
    queries: Tensor,
    points: Tensor,
    values: Tensor,
    k: int = 3,
    epsilon: float = 1e-8,
    lengths: Tensor | None = None,
) -> Tensor:
    """`dapt_ext.interpolate`: the mean of the k nearest, weighted by inverse squared distance."""
    sq_dist, idx = knn(queries, points, k, lengths)
    weights = 1 / (sq_dist + epsilon)
    total = weights.sum(-1, keepdim=True)
    weights = torch.where(total > 0, weights / total, 1 / k)  # [B, M, k]; 1/k if all are infinite
    return (gather(_as_real(values), idx) * weights[..., None]).sum(2).to(values.dtype)


def chamfer(
    a: Tensor, b: Tensor, a_lengths: Tensor | None = None, b_lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`dapt_ext.chamfer` from the full matrix of distances."""
    distance = squared_distance(_as_real(a)[:, :, None], _as_real(b)[:, None])  # [B, N, M]
    past_a, past_b = _past(a, a_lengths), _past(b, b_lengths)
    sq_ab = distance.masked_fill(past_b[:, None], torch.inf).amin(2)
    sq_ba = distance.masked_fill(past_a[:, :, None], torch.inf).amin(1)
    return sq_ab.masked_fill(past_a, 0), sq_ba.masked_fill(past_b, 0)


def _past(points: Tensor, lengths: Tensor | None) -> Tensor:
    """Which points lie past the length of their cloud: bool [B, N]."""
    B, N, _ = points.shape
    last = torch.full((B,), N, device=points.device) if lengths is None else lengths
    return torch.arange(N, device=points.device) >= last[:, None]


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance over the last dimension: fma(dz, dz, fma(dy, dy, dx * dx)) in 3-D.

    Args:
        a: [..., D].
        b: [..., D].
    """
    first, *others = (a - b).unbind(-1)
    total = first * first
    for difference in others:
        total = _Fma.apply(difference, difference, total)
    return total


class _Fma(torch.autograd.Function):
    """a * b + c with a single rounding, for which PyTorch has no function."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        if a.dtype == torch.float64:
            return a * b + c
        # The product is exact in float64. Rounding the sum to odd there makes the second rounding,
        # to float32, harmless (Boldo and Melquiond 2008).
        product, addend = a.double() * b.double(), c.double()
        total = product + addend
        shifted = total - product
        error = (product - (total - shifted)) + (addend - shifted)
        bits = total.view(torch.int64)
        toward_zero = (error < 0) != (total < 0)
        is_even = (error != 0) & error.isfinite() & (bits & 1 == 0)
        bits = torch.where(is_even, bits + torch.where(toward_zero, -1, 1), bits)
        return bits.view(torch.float64).float()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return grad * b, grad * a, grad


def _first_argmax(values: Tensor) -> Tensor:
    """Index of the maximum along the last dimension; ties go to the lowest."""
    return (values == values.amax(-1, keepdim=True)).int().argmax(-1)


def _as_real(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def dynamic_adapter(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    scale_weight: Tensor | None = None,
    scale_bias: Tensor | None = None,
    static_scale: float = 1.0,
    mlp_out: Tensor | None = None,
    residual: Tensor | None = None,
    path_factor: Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
    activation: str = "gelu",
    prompt: bool = True,
    eps: float = 1e-5,
    memory: str = "default",
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`dapt_ext.dynamic_adapter`; `seed` replaces the one that the op would draw."""
    z = x
    if norm_weight is not None:
        z = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)  # [B, T, C]
    hidden = _ACTIVATIONS[activation](F.linear(z, down_weight, down_bias))  # [B, T, r]
    if training and dropout > 0:
        if seed is None:
            seed = torch.randint(2**63 - 1, (), device=x.device)
        hidden = hidden * dropout_factors(seed, hidden.shape, dropout)
    a = F.linear(hidden, up_weight, up_bias)
    if scale_weight is not None:
        a = a * F.relu(F.linear(z, scale_weight, scale_bias))  # [B, T, 1]
    else:
        a = a * static_scale
    out = a if mlp_out is None else mlp_out + a
    if path_factor is not None:
        out = path_factor[:, None, None] * out
    if residual is not None:
        out = residual + out
    return out, F.gelu(a).mean(1) if prompt else None


def dynamic_adapters(
    x: Tensor, adapters: Tensor, *, prompt: bool = True, **given
) -> tuple[Tensor, Tensor | None]:
    """`dynamic_adapter` for one cloud after another, each with its own adapter.

    Args:
        x: [B, T, C].
        adapters: int64 [B], the index of each cloud's adapter.
        prompt: Whether to compute the means for prompts.
        given: Further arguments of `dynamic_adapter`. Tensors have one row per adapter, `mlp_out`
            and `residual` one per cloud.
    """
    outs, prompts = [], []
    for b, adapter in enumerate(adapters.tolist()):
        own = {}
        for name, value in given.items():
            of_cloud = name in ("mlp_out", "residual")
            rows = slice(b, b + 1) if of_cloud else adapter
            own[name] = value[rows] if isinstance(value, Tensor) else value
        out, mean = dynamic_adapter(x[b : b + 1], **own, prompt=prompt)
        outs.append(out)
        prompts.append(mean)
    if not outs:
        return x.new_empty(x.shape), x.new_empty(0, x.shape[2]) if prompt else None
    return torch.cat(outs), torch.cat(prompts) if prompt else None


_ACTIVATIONS = {
    "gelu": F.gelu,
    "relu": F.relu,
    "quickgelu": lambda h: h * torch.sigmoid(1.702 * h),
}


def dynamic_adapter_backward(
    grad_out: Tensor | None,
    grad_prompt: Tensor | None,
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    down_weight: Tensor,
    down_bias: Tensor,
    scale_weight: Tensor | None,
    scale_bias: Tensor | None,
    up_weight: Tensor,
    up_bias: Tensor,
    path_factor: Tensor | None,
    kept: Tensor | float,
    activation: str,
    static_scale: float,
    eps: float,
) -> dict[str, Tensor]:
    """The gradients of `dynamic_adapter`, written out.

    Args:
        grad_out, grad_prompt: Gradients of the outputs; None counts as zero.
        x: [B, T, C].
        norm_weight, norm_bias: [C].
        down_weight: [r, C].
        down_bias: [r].
        scale_weight: [1, C].
        scale_bias: [1].
        up_weight: [C, r].
        up_bias: [C].
        path_factor: [B].
        kept: The factors by which dropout multiplied the hidden units.
        activation: The activation of the hidden units.
        static_scale: Used when there is no learned scale.
        eps: Added to the variance in the norm.
    """
    x_hat, deviation = x, None
    if norm_weight is not None:
        centered = x - x.mean(-1, keepdim=True)
        deviation = (centered.square().mean(-1, keepdim=True) + eps).sqrt()
        x_hat = centered / deviation
    z = x_hat if norm_weight is None else x_hat * norm_weight + norm_bias  # [B, T, C]
    hidden = F.linear(z, down_weight, down_bias)  # [B, T, r]
    active = _ACTIVATIONS[activation](hidden) * kept
    up = F.linear(active, up_weight, up_bias)  # [B, T, C]
    gate = None if scale_weight is None else F.linear(z, scale_weight, scale_bias)  # [B, T, 1]
    scale = static_scale if gate is None else gate.relu()

    through_path = torch.zeros_like(up)
    if grad_out is not None:
        through_path = grad_out if path_factor is None else path_factor[:, None, None] * grad_out
    grad_a = through_path
    if grad_prompt is not None:
        grad_a = grad_a + _SLOPES["gelu"](scale * up) * grad_prompt[:, None] / x.shape[1]
    grad_up = scale * grad_a
    grad_hidden = F.linear(grad_up, up_weight.t()) * kept * _SLOPES[activation](hidden)
    grad_z = F.linear(grad_hidden, down_weight.t())
    grads = {
        "mlp_out": through_path,
        "up_weight": torch.einsum("btc,btr->cr", grad_up, active),
        "up_bias": grad_up.sum((0, 1)),
        "down_weight": torch.einsum("btr,btc->rc", grad_hidden, z),
        "down_bias": grad_hidden.sum((0, 1)),
    }
    if gate is not None:
        grad_gate = (grad_a * up).sum(-1, keepdim=True) * (gate > 0)  # [B, T, 1]
        grad_z = grad_z + grad_gate * scale_weight
        grads["scale_weight"] = (grad_gate * z).sum((0, 1))[None]
        grads["scale_bias"] = grad_gate.sum((0, 1))
    grads["x"] = grad_z
    if norm_weight is not None:
        grads["norm_weight"] = (grad_z * x_hat).sum((0, 1))
        grads["norm_bias"] = grad_z.sum((0, 1))
        grad_hat = grad_z * norm_weight
        tilt = (grad_hat * x_hat).mean(-1, keepdim=True)
        grads["x"] = (grad_hat - grad_hat.mean(-1, keepdim=True) - x_hat * tilt) / deviation
    return grads


def _gelu_slope(h: Tensor) -> Tensor:
    density = torch.exp(-0.5 * h * h) / (2 * torch.pi) ** 0.5
    return 0.5 * (1 + torch.erf(h / 2**0.5)) + h * density


def _quickgelu_slope(h: Tensor) -> Tensor:
    share = torch.sigmoid(1.702 * h)
    return share * (1 + 1.702 * h * (1 - share))


_SLOPES = {"gelu": _gelu_slope, "relu": lambda h: (h > 0).to(h), "quickgelu": _quickgelu_slope}


def dropout_factors(seed: Tensor, shape: torch.Size, dropout: float) -> Tensor:
    """The factors by which dropout multiplies hidden units.

    Args:
        seed: One int64 number.
        shape: The shape of the hidden units, [..., rank].
        dropout: The dropout rate.
    """
    kept = dropout_mask(seed, shape[:-1].numel(), shape[-1], dropout)
    return kept.view(shape) * (1 / (1 - dropout) if dropout < 1 else 0.0)


def dropout_mask(seed: Tensor, tokens: int, rank: int, dropout: float) -> Tensor:
    """bool [tokens, rank], True where kept.

    Hidden unit j of token t takes word j % 4 of Philox4x32-10 (Salmon et al. 2011) with the key
    `seed` and the counter (t, j / 4).

    Args:
        seed: One int64 number.
        tokens: The number of tokens in all clouds.
        rank: The number of hidden units.
        dropout: The dropout rate.
    """
    t = torch.arange(tokens, device=seed.device)[:, None]
    quad = torch.arange((rank + 3) // 4, device=seed.device)[None]
    low = 0xFFFFFFFF
    words = [(t & low) + 0 * quad, (t >> 32) + 0 * quad, quad + 0 * t, 0 * t + 0 * quad]
    key = [seed & low, (seed >> 32) & low]
    for _ in range(10):
        high0, low0 = _multiply_words(0xD2511F53, words[0])
        high1, low1 = _multiply_words(0xCD9E8D57, words[2])
        words = [high1 ^ words[1] ^ key[0], low1, high0 ^ words[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    drawn = torch.stack(words, dim=-1).flatten(1)[:, :rank]  # [tokens, rank], 32 random bits each
    return drawn >= int(dropout * 2**32)


def _multiply_words(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the product of two 32-bit words."""
    high, low = a * (b >> 16), a * (b & 0xFFFF)  # below 2^48
    return (high + (low >> 16)) >> 16, (a * b) & 0xFFFFFFFF


def scale_shift_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor
) -> Tensor:
    """`dapt_ext.scale_shift_linear`, unfused."""
    return scale * F.linear(x, weight, bias) + shift


def scale_shift_norm(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5
) -> Tensor:
    """`dapt_ext.scale_shift_norm`, unfused."""
    return scale * F.layer_norm(x, x.shape[-1:], weight, bias, eps) + shift


def patch_encoder(patches: Tensor, weights: PatchEncoderWeights) -> Tensor:
    """`dapt_ext.patch_encoder`, layer by layer."""
    w = weights
    points = F.linear(patches, w.conv1, w.bias1).relu()  # [B, G, K, 128]
    points = F.linear(points, w.conv2, w.bias2)  # [B, G, K, 256]
    whole = points.amax(-2, keepdim=True).expand_as(points)
    points = torch.cat([whole, points], dim=-1)
    conv3 = torch.cat([w.conv3_global, w.conv3_local], dim=1)
    points = F.linear(points, conv3, w.bias3).relu()  # [B, G, K, 512]
    return F.linear(points, w.conv4, w.bias4).amax(-2)  # [B, G, C]


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """`dapt_ext.attention` with the full attention matrix."""
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D]
    shares = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (shares @ v).transpose(1, 2).flatten(2)


def attention_backward(grad: Tensor, qkv: Tensor, num_heads: int) -> Tensor:
    """The gradient of qkv, [B, T, 3 C].

    Args:
        grad: [B, T, C], the gradient of the output.
        qkv: [B, T, 3 C].
        num_heads: The number of heads, which divides C.
    """
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D]
    grad = grad.unflatten(2, (num_heads, -1)).transpose(1, 2)  # [B, H, T, D]
    scale = q.shape[-1] ** -0.5
    shares = (q @ k.transpose(-2, -1) * scale).softmax(-1)  # [B, H, T, T]
    grad_shares = grad @ v.transpose(-2, -1)
    mean = (shares * grad_shares).sum(-1, keepdim=True)
    grad_scores = shares * (grad_shares - mean) * scale
    grads = grad_scores @ k, grad_scores.transpose(-2, -1) @ q, shares.transpose(-2, -1) @ grad
    return torch.stack(grads).permute(1, 3, 0, 2, 4).flatten(2)


def curve_codes(
    cells: Tensor,
    depth: int | Tensor,
    scenes: Tensor | None = None,
    curves: Sequence[str] = CURVES,
) -> Tensor:
    """`dapt_ext.curve_codes`, bit by bit."""
    scenes = torch.zeros_like(cells[:, 0]) if scenes is None else scenes
    depths = torch.as_tensor(depth, device=cells.device)
    bits = int(depths.max()) if depths.numel() else 0
    depths = depths[scenes] if depths.dim() else depths.expand(len(cells))  # [M]
    codes = []
    for curve in curves:
        axes = cells[:, [1, 0, 2]] if curve.endswith("-trans") else cells
        is_hilbert = curve.startswith("hilbert")
        code = _hilbert_code(axes, depths, bits) if is_hilbert else _z_code(axes, bits)
        codes.append(scenes << 3 * CELL_BITS | code)
    return torch.stack(codes)


def _z_code(cells: Tensor, bits: int) -> Tensor:
    """Bit i of x, y and z becomes bit 3 i + 2, 3 i + 1 and 3 i."""
    code = torch.zeros_like(cells[:, 0])
    for bit in range(bits):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << 3 * bit + 2 - axis
    return code


def _hilbert_code(cells: Tensor, depths: Tensor, bits: int) -> Tensor:
    """Skilling's transform (2004) from the top bit down, then Gray code to binary."""
    axes = list(cells.unbind(1))
    for bit in reversed(range(bits)):
        below = torch.where(bit < depths, (1 << bit) - 1, 0)
        for axis in range(3):
            is_set = axes[axis] >> bit & 1 == 1
            differ = torch.where(is_set, 0, (axes[0] ^ axes[axis]) & below)
            first = axes[0] ^ torch.where(is_set, below, differ)
            axes[axis] = axes[axis] ^ differ
            axes[0] = first
    code = _z_code(torch.stack(axes, 1), bits)
    for shift in (1, 2, 4, 8, 16, 32):
        code ^= code >> shift
    return code


def unique_cells(cells: Tensor, scenes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`dapt_ext.unique_cells` by sorted keys, restored to the order of first occurrence."""
    keys = _cell_keys(cells, scenes)
    unique, inverse, counts = keys.unique(return_inverse=True, return_counts=True)  # by key
    number = torch.arange(len(keys), device=keys.device)
    first = torch.full_like(unique, len(keys)).scatter_reduce(0, inverse, number, "amin")
    first, order = first.sort()
    return first, order.argsort()[inverse], counts[order]


def grid_sample(points: Tensor, size: float, lengths: Tensor | None = None) -> Cells:
    """`dapt_ext.grid_sample` in float64."""
    points = points.float().double()
    B, N, _ = points.shape
    place = torch.arange(N, device=points.device)
    is_valid = (place < N if lengths is None else place < lengths[:, None]).expand(B, N)
    corner = points.masked_fill(~is_valid[..., None], torch.inf).amin(1, keepdim=True)
    cells = ((points - corner) / size).floor().long()[is_valid]
    scenes = torch.arange(B, device=points.device)[:, None].expand(B, N)[is_valid]
    first, numbers, counts = unique_cells(cells, scenes)
    inverse = torch.full_like(is_valid, -1, dtype=torch.long)
    inverse[is_valid] = numbers
    rows = is_valid.flatten().nonzero()[:, 0]
    return Cells(cells[first], scenes[first], rows[first], inverse, counts)


def neighbor_map(cells: Tensor, scenes: Tensor | None = None) -> Tensor:
    """`dapt_ext.neighbor_map`: looks up each of the 27 cells in the sorted keys."""
    scenes = torch.zeros_like(cells[:, 0]) if scenes is None else scenes
    keys, order = _cell_keys(cells, scenes).sort()
    steps = torch.arange(-1, 2, device=cells.device)
    around = cells[:, None] + torch.cartesian_prod(steps, steps, steps)  # [M, 27, 3]
    inside = ((around >= 0) & (around < 1 << CELL_BITS)).all(-1)
    wanted = _cell_keys(around.flatten(0, 1), scenes.repeat_interleave(27)).view(-1, 27)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(inside & (keys[place] == wanted), order[place], -1)


def _cell_keys(cells: Tensor, scenes: Tensor | None) -> Tensor:
    x, y, z = cells.unbind(-1)
    key = x << 2 * CELL_BITS | y << CELL_BITS | z
    return key if scenes is None else scenes << 3 * CELL_BITS | key


def submanifold_conv(x: Tensor, weight: Tensor, bias: Tensor | None, neighbors: Tensor) -> Tensor:
    """`dapt_ext.submanifold_conv`, one tap at a time."""
    taps = weight.flatten(1, 3)  # [D, 27, C]
    out = x.new_zeros(len(x), len(weight))
    for tap in range(taps.shape[1]):
        rows = (neighbors[:, tap] >= 0).nonzero()[:, 0]
        product = F.linear(x[neighbors[rows, tap]], taps[:, tap])
        out = out.index_add(0, rows, product)
    return out if bias is None else out + bias
