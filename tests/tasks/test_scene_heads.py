"""Labels for the points of scenes: the published heads of PTv3 encoders, with every method."""

import pytest
import torch

import dapt
from dapt.errors import UsageError
from dapt.models import backbone_config
from dapt.tasks.scene_heads import LinearSceneHead, decoder_widths, lovasz_loss

LABELS = 6


def scene(points=150, batch=2):
    return torch.randn(batch, points, 9)


def attached(backbone, method=None, **fields):
    task = dapt.SemanticSegmentation(LABELS, **fields)
    return dapt.attach(backbone, method or dapt.Linear(), task)


def test_linear_head_is_one_layer_over_the_upcast_scales(small_backbone):
    backbone, points = small_backbone("ptv3_tiny").eval(), scene()
    features, head = backbone(points), LinearSceneHead(backbone.config.dims, LABELS)
    together = head.layer(features.upcast(first=0))  # [M, LABELS]
    torch.testing.assert_close(head.of_cells(features), together, rtol=1e-4, atol=1e-5)
    logits = head(features, points[..., :3])
    expected = together[features.rows[0]]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["auto", "linear", "decoder"])
def test_points_that_were_not_seen_are_labeled_too(small_backbone, head):
    model, points = attached(small_backbone("ptv3_tiny"), head=head).eval(), scene()
    seen = model(points)
    assert seen.shape == (2, 150, LABELS)
    again = model(points, queries=points.clone())  # the same points in different memory
    torch.testing.assert_close(again, seen, rtol=1e-3, atol=1e-3)
    assert model(points, queries=torch.randn(2, 40, 3)).shape == (2, 40, LABELS)


@pytest.mark.parametrize(
    "name, widths",
    [
        ("ptv3_base", (64, 96, 192, 384)),
        ("ptv3_small", (64, 64, 128, 256)),
        ("ptv3_utonia_base", (54, 108, 216, 432)),
    ],
)
def test_published_widths_of_the_decoder(name, widths):
    assert decoder_widths(backbone_config(name)) == widths


@pytest.mark.parametrize("head", ["linear", "decoder"])
@pytest.mark.parametrize(
    "method", [dapt.Linear(), dapt.Full(), dapt.Dapt(rank=4), dapt.Adapter(rank=3)]
)
def test_every_method_learns_with_every_head(small_backbone, tmp_path, head, method):
    backbone, points = small_backbone("ptv3_tiny"), scene()
    model = attached(backbone, method, head=head, lovasz=1.0)
    truth = {"part_labels": torch.randint(LABELS, (2, 150))}
    optimizer = torch.optim.AdamW([weight for _, weight in model.own_parameters()], 3e-3)
    losses = []
    for _ in range(6):
        model.train()
        loss = model.adapter.task.loss(model(points), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_adapter(tmp_path)
    again = dapt.load_adapter(tmp_path, small_backbone("ptv3_tiny")).eval()
    assert torch.equal(again(points), model.eval()(points))


def test_part_segmentation_reads_all_scales(small_backbone):
    task = dapt.PartSegmentation(3, 7)
    model = dapt.attach(small_backbone("ptv3_tiny"), dapt.Linear(), task).eval()
    logits = model(scene(), torch.tensor([0, 2]))
    assert logits.shape == (2, 150, 7) and logits.isfinite().all()


def test_other_backbones_have_no_such_head(small_backbone):
    with pytest.raises(UsageError, match="head 'decoder' reads the scales of a PTv3 encoder"):
        attached(small_backbone("point_mae"), head="decoder")
    with pytest.raises(UsageError, match="head must be auto, linear or decoder, got 'mlp'"):
        dapt.SemanticSegmentation(LABELS, head="mlp")


def jaccard_loss(wrong, is_label):
    """1 - IoU for a set of mistakes: points of the label missed, and others given it."""
    missed, taken = (wrong & is_label).sum(), (wrong & ~is_label).sum()
    return (missed + taken) / (is_label.sum() + taken)


def test_lovasz_loss_extends_the_jaccard_loss():
    """If each probability is 0 or 1, it is the mean of 1 - IoU over the classes that occur."""
    truth, chosen = torch.randint(3, (2, 60))
    truth[:10] = -1
    logits = torch.full((60, 4), -50.0).scatter(1, chosen[:, None], 50.0)
    kept = truth >= 0
    expected = [
        jaccard_loss((truth == c)[kept] != (chosen == c)[kept], (truth == c)[kept])
        for c in truth[kept].unique()
    ]
    torch.testing.assert_close(lovasz_loss(logits, truth, -1), torch.stack(expected).mean())


def test_lovasz_loss_has_a_gradient_and_no_labels_no_loss():
    logits = torch.randn(40, 4, requires_grad=True)
    lovasz_loss(logits, torch.randint(4, (40,)), -1).backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0
    assert lovasz_loss(logits, torch.full((40,), -1), -1) == 0
