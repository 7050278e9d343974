"""docs/backbones/methods.md states what happens for every pair of method and backbone.

Regenerate it with `DAPT_WRITE=1 pytest tests/models/test_methods_page.py`.
"""

import os
from pathlib import Path

import pytest

import dapt
from dapt.errors import UsageError
from support.fixtures import SMALL
from support.methods import FAMILY, TASK

PAGE = Path(__file__).parents[2] / "docs" / "backbones" / "methods.md"
METHODS = {
    name: FAMILY[name]
    for name in FAMILY
    if "," not in name or name in ("density, dapt", "density, full, ReLU")
    if name not in ("reversible prefix", "reversible dapt")
} | {"reversible": dapt.Reversible()}
FAMILIES = {  # the columns: one size represents all that are built alike
    "point_mae": "point_mae, act, recon, point_mae_tiny",
    "point_bert": "point_bert",
    "point_m2ae": "point_m2ae",
    "pcp_mae": "pcp_mae",
    "point_femae": "point_femae",
    "point_gpt_s": "point_gpt_s, _b, _l",
    "recon_pp_small": "recon_pp_small, _base, _large",
    "uni3d_tiny": "uni3d_tiny, _small",
    "uni3d_base": "uni3d_base, _large",
    "uni3d_giant": "uni3d_giant",
    "ptv3_tiny": "ptv3_*",
}
HEAD = """\
# Methods on backbones

The table shows what `dapt.attach` does with each method on each backbone: ✓ means that it trains, and a number refers to the error message below. `tests/models/test_methods_page.py` attaches each pair and compares the result with this page; `tests/models/test_matrix.py` trains them.
"""  # noqa: E501


def refusal(backbone, method):
    """The error message, or None."""
    try:
        dapt.detach(dapt.attach(backbone, method, TASK))
    except UsageError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def page(small_backbone):
    sentences, rows = {}, []
    backbones = {name: small_backbone(name) for name in FAMILIES}
    for name, method in METHODS.items():
        cells = []
        for backbone in backbones.values():
            why = refusal(backbone, method)
            number = None if why is None else sentences.setdefault(why, len(sentences) + 1)
            cells.append("✓" if number is None else str(number))
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    columns = " | ".join(FAMILIES.values())
    table = [f"| method | {columns} |", "|---" * (len(FAMILIES) + 1) + "|", *rows]
    said = [f"{number}. {why}" for why, number in sentences.items()]
    return "\n".join([HEAD, *table, "", *said]) + "\n"


@pytest.mark.skipif("peft:lora" not in FAMILY, reason="the page has methods of the package peft")
def test_the_page_says_what_happens(small_backbone):
    assert FAMILIES.keys() == SMALL.keys()
    text = page(small_backbone)
    if os.environ.get("DAPT_WRITE"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "regenerate it: DAPT_WRITE=1 pytest " + __file__
