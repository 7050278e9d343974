"""Attacks on the program: hostile files, settings and flags, and moments to be killed at, each with
a count of what came of it. `python tests/attack.py --minutes 10` runs all of them.

A file of this folder registers its attacks by `harness.attack`; `test_attack.py` runs each of them
at a small, fixed size.
"""
