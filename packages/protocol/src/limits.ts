/**
 * Every bound of the wire, with the reason for its value. Services and agents may lower some by
 * configuration; nobody may raise one, as the other side relies on it.
 */

/** One frame. Room for a batch of inline payloads; small enough that a hostile peer costs little memory. */
export const MAX_FRAME_BYTES = 8 * 1024 * 1024;
/** Maps and arrays inside one another. Our own frames nest 5 deep. */
export const MAX_FRAME_DEPTH = 16;
/** Map entries and array elements in one frame: sparse columns of a full batch, with room. */
export const MAX_FRAME_ELEMENTS = 65_536;
/** Tasks or results in one batch. Beyond some thousands a larger batch gains nothing and delays its first task. */
export const MAX_BATCH_ITEMS = 4096;
/** Where a sender closes a batch: argument or result bytes in one frame. */
export const TARGET_BATCH_BYTES = 1024 * 1024;
/** Arguments and results above this go to payload files: 1 MiB in a row costs PostgreSQL 13.5 ms of CPU. */
export const MAX_INLINE_BYTES = 64 * 1024;
/** The largest payload file. */
export const MAX_PAYLOAD_BYTES = 1024 * 1024 * 1024;
/** The largest object. One PUT, streamed; larger data is several objects. */
export const MAX_OBJECT_BYTES = 5 * 1024 * 1024 * 1024;
/** An object's key, in UTF-8: as in S3, so that keys can be moved between the two. */
export const MAX_OBJECT_KEY_BYTES = 1024;
/** Names and texts of an object's metadata together: as in S3. */
export const MAX_OBJECT_METADATA_BYTES = 2 * 1024;
/** Objects in one page of a list, or in one deletion. */
export const MAX_OBJECT_PAGE = 1000;
/** Source or pickled code of one function. */
export const MAX_CODE_BYTES = 1024 * 1024;
/** Tail kept of each of stdout and stderr of a task. */
export const MAX_OUTPUT_TAIL_BYTES = 64 * 1024;
/** Kept of the live output of one stream of one attempt: its first and its last bytes (P33a). */
export const OUTPUT_HEAD_BYTES = 256 * 1024;
export const OUTPUT_TAIL_BYTES = 768 * 1024;
/** One piece of live output: what a stream may tell at one look. */
export const MAX_OUTPUT_PIECE_BYTES = 64 * 1024;
/** Live output of one endpoint in a second, and at once: beside it the link has room for results. */
export const OUTPUT_BYTES_PER_S = 2 * 1024 * 1024;
/** A pickled exception, in base64. A larger one does not travel: type, message and traceback tell of it. */
export const MAX_ERROR_DATA_BYTES = 64 * 1024;
/** Tail kept of a remote traceback. */
export const MAX_TRACEBACK_BYTES = 16 * 1024;
/** Nesting of JSON accepted over REST: JSON.stringify overflows the stack long after this. */
export const MAX_JSON_DEPTH = 64;
/** Tasks in one batch id: the index has 20 bits. */
export const MAX_BATCH_INDEX = 1 << 20;

/** First frame after connecting. */
export const HELLO_TIMEOUT_MS = 10_000;
/** Pings on WebSocket links. */
export const HEARTBEAT_MS = 5_000;
/** Silence after which a connection counts as dead: two pings lost, and some. */
export const DEAD_AFTER_MS = 12_000;
/** A worker that lost its node manager waits this long for a new one. */
export const WORKER_ORPHAN_MS = 60_000;
/** How long an agent keeps results of tasks that were never committed. */
export const UNKNOWN_RESULT_KEEP_MS = 10 * 60_000;

/** A socket's send buffer: stop feeding it above the first, cut it above the second. */
export const PAUSE_BUFFERED_BYTES = 1024 * 1024;
export const CUT_BUFFERED_BYTES = 8 * MAX_FRAME_BYTES;

export const PROTOCOL_VERSION = 1;
export const SUPPORTED_VERSIONS: readonly number[] = [1];
export const SUBPROTOCOL = "farloom.v1";
export const CLIENT_LINK_PATH = "/v1/link";
export const AGENT_LINK_PATH = "/v1/agent-link";
