"""Convert published Cosmos checkpoints into world folders that `load_world` reads."""

from worldbridge.models.convert.convert import convert
from worldbridge.models.convert.detect import SIZES
from worldbridge.models.errors import ConvertError

__all__ = ["SIZES", "ConvertError", "convert"]
