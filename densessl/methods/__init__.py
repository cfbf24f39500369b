"""One file a paper, and METHODS: the file's name is the method's."""

from densessl.method import Method
from densessl.methods.barlow_twins import BarlowTwins
from densessl.methods.byol import BYOL
from densessl.methods.deepcluster_v2 import DeepClusterV2
from densessl.methods.densecl import DenseCL
from densessl.methods.dino import DINO
from densessl.methods.moco_v2 import MoCoV2
from densessl.methods.moco_v3 import MoCoV3
from densessl.methods.pixpro import PixPro
from densessl.methods.simclr import SimCLR
from densessl.methods.simsiam import SimSiam
from densessl.methods.swav import SwAV
from densessl.methods.vicreg import VICReg
from densessl.methods.vicregl import VICRegL
from densessl.methods.wmse import WMSE

METHODS: dict[str, type[Method]] = {
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "deepcluster_v2": DeepClusterV2,
    "densecl": DenseCL,
    "dino": DINO,
    "moco_v2": MoCoV2,
    "moco_v3": MoCoV3,
    "pixpro": PixPro,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "swav": SwAV,
    "vicreg": VICReg,
    "vicregl": VICRegL,
    "wmse": WMSE,
}
