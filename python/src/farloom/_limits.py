"""Bounds of the wire, as packages/protocol/src/limits.ts has them (a test holds the two together), and our own."""

from typing import Final

MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
MAX_FRAME_ELEMENTS: Final = 65_536
MAX_BATCH_ITEMS: Final = 4096
TARGET_BATCH_BYTES: Final = 1024 * 1024
MAX_INLINE_BYTES: Final = 64 * 1024
MAX_PAYLOAD_BYTES: Final = 1024 * 1024 * 1024
MAX_CODE_BYTES: Final = 1024 * 1024
MAX_BATCH_INDEX: Final = 1 << 20
PAUSE_BUFFERED_BYTES: Final = 1024 * 1024

PROTOCOL_VERSION: Final = 1
SUBPROTOCOL: Final = "farloom.v1"
CLIENT_LINK_PATH: Final = "/v1/link"

# Ours. `submit` blocks while this much is submitted and not yet durable with the service.
MAX_UNACKNOWLEDGED_TASKS: Final = 100_000
MAX_UNACKNOWLEDGED_BYTES: Final = 64 * 1024 * 1024
# Smaller arguments are bounded by their number alone: 100,000 of them are below 64 MiB.
COUNTED_BYTES: Final = 600
# Ids in one watch frame: 1 MiB.
WATCH_IDS: Final = 65_536
