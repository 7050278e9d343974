"""DAPT as a method of Hugging Face PEFT: importing this module registers it there."""

from dapt.adapters.hf import DaptConfig, DaptLayer, DaptModel

__all__ = ["DaptConfig", "DaptLayer", "DaptModel"]
