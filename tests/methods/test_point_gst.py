"""PointGST: its graphs, formulas and parameter counts, and clouds independent of their batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dapt
from dapt.errors import UsageError
from dapt.methods.point_gst import curve_codes, graph_bases
from support.methods import randomize

TASK = dapt.Classification(5, head="linear")


@pytest.fixture
def attach(small_backbone):
    def attach(name="point_mae", groups=12, **fields):
        backbone = small_backbone(name, **({"num_groups": groups} if name == "point_mae" else {}))
        model = dapt.attach(backbone, dapt.PointGst(**{"rank": 5} | fields), TASK).eval()
        randomize(model)
        return model

    return attach


def restated_basis(centers, smallest):
    """The published basis of one run of centers [L, 3], pair by pair, in numpy."""
    centers = centers.double().numpy()
    L = len(centers)
    weights = np.ones((L, L))
    for i in range(L):
        for j in range(L):
            if i != j:
                distance = float(np.linalg.norm(centers[i] - centers[j]))
                weights[i, j] = 1 / max(distance / smallest, 1)
    scale = np.diag((weights.sum(1) + 1e-6) ** -0.5)
    _, vectors = np.linalg.eigh(np.eye(L) - scale @ weights @ scale)
    for column in vectors.T:
        column *= np.sign(column[np.abs(column).argmax()])
    return torch.from_numpy(vectors)


def smallest_distance(runs):
    """The smallest positive distance within any of the runs."""
    distances = torch.cat([torch.pdist(run.double()) for run in runs if len(run) > 1])
    return float(distances[distances > 0].min())


def restated_code(center):
    """Interleaves 16 bits per axis, bit by bit: z, x, y from the least significant up."""
    cells = [int(np.trunc(np.float32(100) * np.float32(c))) & 0xFFFF for c in center]
    bits = [cells[axis] >> i & 1 for i in range(16) for axis in (2, 0, 1)]
    return sum(bit << i for i, bit in enumerate(bits))


def restated(model, cloud, local, transposed=False, mates=()):
    """One cloud's tokens after the final norm; ``mates`` share its measure of distance."""
    backbone, stack = model.backbone, model.backbone.blocks
    groups = [backbone.tokenizer.group(points) for points in (cloud, *mates)]

    def runs_of(centers):
        order = sorted(range(len(centers)), key=lambda i: restated_code(centers[i]))
        return order, [centers[order[i : i + local]] for i in range(0, len(order), local)]

    centers = groups[0].centers[0]
    order, runs = runs_of(centers)
    all_runs = [run for group in groups for run in runs_of(group.centers[0])[1]]
    U = restated_basis(centers, smallest_distance([group.centers[0] for group in groups]))
    at_runs = smallest_distance(all_runs)
    U_runs = [restated_basis(run, at_runs) for run in runs]
    if transposed:
        U, U_runs = U.T, [u.T for u in U_runs]

    x = torch.cat([backbone.cls_token[0], backbone.tokenizer.encode(groups[0].patches)[0]])
    positions = torch.cat([backbone.cls_pos[0], backbone.pos_embed(centers[None])[0]])
    for block, adapter in zip(stack.frozen, stack.adapters, strict=True):

        def filtered(X, U, norm, adapter=adapter):
            V = U.float() @ X
            return U.float().T @ (V + F.silu(adapter.mix(norm(V))))

        z = x + positions
        y = z + block.attn(block.norm1(z)[None])[0]
        h = adapter.down(y)
        a = F.silu(h)
        a[1:] += filtered(h[1:], U, adapter.norm_whole)
        for i, u in enumerate(U_runs):
            rows = [1 + row for row in order[i * local : (i + 1) * local]]
            a[rows] += filtered(h[rows], u, adapter.norm_runs)
        x = y + block.mlp(block.norm2(y)) + adapter.up(a)
    return backbone.norm(x)


@pytest.mark.parametrize("local", [4, 5, 11, 12, 100])
@pytest.mark.parametrize("transform", ["U", "Ut"])
@torch.no_grad()
def test_follows_its_formulas(attach, local, transform):
    model, points = attach(local=local, transform=transform), torch.randn(3, 80, 3)
    features = model.features(points)
    for cloud in range(3):
        wanted = restated(model, points[cloud : cloud + 1], local, transform == "Ut")
        got = torch.cat([features.cls[cloud : cloud + 1], features.patches[cloud]])
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)  # float32


@torch.no_grad()
def test_only_the_released_measure_is_of_the_whole_batch(attach):
    """There, a cloud's basis depends on the rest of its batch."""
    points = torch.randn(3, 80, 3)
    points[1] *= 0.02
    for published in (False, True):
        model = attach(local=4, published=published)
        alone, among = model(points[:1])[0], model(points)[0]
        change = (alone - among).abs().max()
        assert change > 1e-3 if published else change < 1e-5
        mates = [points[1:2], points[2:]] if published else []
        wanted = restated(model, points[:1], 4, mates=mates)
        got = model.features(points)
        torch.testing.assert_close(got.patches[0], wanted[1:], atol=1e-3, rtol=1e-3)


def test_what_the_basis_is():
    """It is orthonormal, ordered by frequency, and its signs do not depend on the library."""
    centers = torch.randn(2, 3, 20, 3)
    [U] = graph_bases([centers], whole_batch=False)
    identity = torch.eye(20, dtype=torch.float64).expand(2, 3, 20, 20)
    torch.testing.assert_close(U.mT @ U, identity)
    largest = U.gather(-2, U.abs().argmax(-2, keepdim=True))
    assert (largest > 0).all()
    smallest = smallest_distance(list(centers[0]))
    for run in range(3):
        torch.testing.assert_close(U[0, run], restated_basis(centers[0, run], smallest))
    # a rotated, shifted and scaled cloud has the same graph
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = 3 * centers.double() @ turn + torch.randn(3)
    torch.testing.assert_close(graph_bases([moved], False)[0], U, atol=1e-6, rtol=0)


def test_coincident_and_alone_centers_have_a_basis():
    twice = torch.randn(1, 1, 6, 3).repeat(1, 1, 2, 1)
    for centers in (twice, torch.zeros(1, 1, 7, 3), torch.randn(1, 4, 1, 3)):
        [U] = graph_bases([centers], whole_batch=False)
        assert U.isfinite().all()
        torch.testing.assert_close(U @ U.mT, torch.eye(U.shape[-1], dtype=U.dtype).expand(U.shape))


def test_order_along_the_curve():
    centers = torch.cat([torch.randn(200, 3), torch.tensor([[0.0, -0.004, 1.5], [-3.2, 0, 0]])])
    codes = curve_codes(centers[None])[0].tolist()
    assert codes == [restated_code(center) for center in centers.numpy()]


def test_a_fresh_adapter_changes_nothing(small_backbone):
    points = torch.randn(2, 80, 3)
    with torch.no_grad():
        plain = small_backbone().eval()(points)
    model = dapt.attach(small_backbone(), dapt.PointGst(), TASK).eval()
    torch.testing.assert_close(model.features(points).patches, plain.patches)


@pytest.mark.parametrize("classes, trained", [(15, 622_831), (40, 629_256)])
def test_published_counts(classes, trained):
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    model = dapt.attach(backbone, dapt.PointGst(), dapt.Classification(classes))
    assert model.count_parameters()[0] == trained


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda build: dapt.PointGst(rank=0), "rank must be at least 1, got 0"),
        (lambda build: dapt.PointGst(local=0), "local must be at least 1, got 0"),
        (lambda build: dapt.PointGst(transform="V"), "transform must be 'U' or 'Ut', got 'V'"),
        (
            lambda build: dapt.attach(build(), dapt.Reversible.on(dapt.PointGst()), TASK),
            "reversible works on one stack of plain blocks, not on that of .* PointGstStack",
        ),
    ],
)
def test_mistakes(small_backbone, make, message):
    with pytest.raises(UsageError, match=message):
        make(small_backbone)
