"""`torch.ops.dapt.*` believe nothing: every argument of every op, each kind of wrong, is refused in
a sentence, and what is accepted stays in memory (`make sanitize` runs this under
AddressSanitizer)."""

import pytest
import raw_ops

TENSORS = [(op, name) for op in raw_ops.names() for name in raw_ops.arguments_of(op, "Tensor")]


def test_every_op_has_a_sample():
    assert sorted(raw_ops.samples()) == raw_ops.names()


@pytest.mark.parametrize("op", raw_ops.names())
def test_samples_are_valid(op):
    for result in raw_ops.call(op, raw_ops.samples()[op]):
        assert result.is_cpu and not (result.is_floating_point() and result.isnan().any())


@pytest.mark.parametrize("op, name", TENSORS)
def test_meta_among_cpu(op, name):
    """Which would call the fake kernel, whose results on the CPU are memory that nobody wrote."""
    arguments = raw_ops.samples()[op]
    arguments[name] = arguments[name].to("meta")
    if len(raw_ops.arguments_of(op, "Tensor")) == 1:
        assert all(result.is_meta for result in raw_ops.call(op, arguments))
        return
    with pytest.raises(RuntimeError, match="must be on the device of"):
        raw_ops.call(op, arguments)
