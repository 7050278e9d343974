"""DAPT as a method of Hugging Face PEFT: importing this module registers it there."""

from dapt.adapters.hf import DaptConfig, DaptModel
from dapt.adapters.hf_layer import DaptLayer

__all__ = ["DaptConfig", "DaptLayer", "DaptModel"]
