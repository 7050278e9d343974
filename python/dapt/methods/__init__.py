"""Methods that adapt a frozen backbone, one file each, behind one interface."""

from dapt.methods.adapter import Adapter
from dapt.methods.dapt import Dapt
from dapt.methods.density import Density
from dapt.methods.full import Full
from dapt.methods.ga_prompt import GaPrompt
from dapt.methods.idpt import Idpt
from dapt.methods.linear import Linear
from dapt.methods.method import METHODS, Method, method_class, names, register
from dapt.methods.peft import Peft
from dapt.methods.point_gst import PointGst
from dapt.methods.point_lora import PointLora
from dapt.methods.point_peft import PointPeft
from dapt.methods.ppt import Ppt
from dapt.methods.prefix import Prefix
from dapt.methods.reversible import Reversible
from dapt.methods.stag import Stag
from dapt.methods.vpt import Vpt

__all__ = [
    "METHODS",
    "Adapter",
    "Dapt",
    "Density",
    "Full",
    "GaPrompt",
    "Idpt",
    "Linear",
    "Method",
    "Peft",
    "PointGst",
    "PointLora",
    "PointPeft",
    "Ppt",
    "Prefix",
    "Reversible",
    "Stag",
    "Vpt",
    "method_class",
    "names",
    "register",
]
