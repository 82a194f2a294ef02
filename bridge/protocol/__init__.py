"""Protocol 2: every message between client, gateway and worker. Pure: no sockets, no clocks.

docs/protocol.md describes it for authors of clients; `schema` writes that document's tables.
"""

from worldbridge.bridge.protocol.client import *
from worldbridge.bridge.protocol.codec import *
from worldbridge.bridge.protocol.errors import *
from worldbridge.bridge.protocol.types import *
from worldbridge.bridge.protocol.worker import *
