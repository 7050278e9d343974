"""Every attack at a small, fixed size."""

import pytest

from attack.harness import Budget, gather


@pytest.mark.parametrize("name", sorted(gather()))
def test_nothing_breaks(name):
    run, small = gather()[name]
    tally = run(Budget(small))
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.cases >= small
