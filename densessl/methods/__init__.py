"""One file a paper, and METHODS: the file's name is the method's."""

import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location

from densessl.errors import UserError
from densessl.method import Method
from densessl.method_source import own_file
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


def find_method(name: str) -> type[Method]:
    """The class of a name of METHODS, or of PATH.py:CLASS.

    That file is run: it is code of the user's, and nothing but ``method.name`` of a configuration leads to it. Raises
    UserError with the line where it fails, and for what is no method.
    """
    own = own_file(name)
    if own is None:
        return METHODS[name]
    path, word = own
    spec = spec_from_file_location(f"own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"method.name={name}: {path} can't be imported")
    module = sys.modules[spec.name] = module_from_spec(spec)
    sys.path.append(str(path.resolve().parent))  # what stands beside it can be imported, as beside a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        raise UserError(f"{path}:{lines[-1] if lines else 1}: {type(error).__name__}: {error}") from error
    found = getattr(module, word, None)
    if not (isinstance(found, type) and issubclass(found, Method) and found.forward is not Method.forward):
        raise UserError(f"{path}: {word} is no method: class {word}(densessl.method.Method) with a forward is one")
    return found
