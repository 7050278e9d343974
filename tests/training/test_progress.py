"""The line of an epoch is short, aligned, and shows the score that counts."""

import pytest

from dapt.training.progress import epoch_line

SCORES = {
    "accuracy": {"validation_accuracy": 0.5, "validation_loss": 1.0, "test_accuracy": 0.4},
    "parts": {
        "validation_instance_miou": 0.5,
        "validation_class_miou": 0.1,
        "test_instance_miou": 1.0,
    },
    "pretraining": {"validation_loss": 0.01, "probe_accuracy": 0.7},
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("epochs", [1, 10, 300, 1000])
def test_fits_and_is_aligned(scores, epochs):
    lines = [
        epoch_line({"epoch": e, "train_loss": loss, **scores, "seconds": s}, epochs, is_best=True)
        for e, loss, s in ((0, 12.5, 9.04), (epochs - 1, 0.1234, 1234.5))
    ]
    assert len(lines[0]) == len(lines[1]) <= 80 and lines[0].endswith("(best)")
    assert lines[0].index("val") == lines[1].index("val")


def test_says_the_score_that_counts():
    line = epoch_line({"epoch": 2, "train_loss": 1.0, **SCORES["parts"]}, 10, is_best=False)
    assert line == "epoch  3/10  loss  1.0000  val mIoU 0.5000  test mIoU 1.0000"
