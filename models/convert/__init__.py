"""Published Cosmos checkpoints, turned into world folders that `load_world` reads."""

from worldbridge.models.convert.convert import convert
from worldbridge.models.convert.errors import ConvertError
from worldbridge.models.convert.recognise import SIZES

__all__ = ["SIZES", "ConvertError", "convert"]
