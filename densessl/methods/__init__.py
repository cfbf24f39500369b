"""One file a paper, and METHODS: the file's name is the method's."""

from densessl.method import Method
from densessl.methods.vicreg import VICReg
from densessl.methods.vicregl import VICRegL

METHODS: dict[str, type[Method]] = {"vicreg": VICReg, "vicregl": VICRegL}
