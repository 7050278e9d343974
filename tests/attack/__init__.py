"""Attacks on the program: hostile files, settings and flags, and kills at any moment, with a count
of the outcomes. `python tests/attack.py --minutes 10` runs all of them.

Each file of this folder registers its attacks with `harness.attack`; `test_attack.py` runs each of
them at a small, fixed size.
"""
