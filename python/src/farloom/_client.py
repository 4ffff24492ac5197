"""The client: wires the link, REST and payload files, and is what a program holds. One is enough for a program; it
keeps one WebSocket, dialled by the first submission. Safe for threads; refused after a fork.
"""

import atexit
import os
import platform
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ._beside import Payload
from ._config import Config, resolve_config
from ._errors import ConfigError, FarloomError
from ._frames import PICKLE, REFERENCE, encode_reference
from ._ids import TaskIds, from_uuid, is_uuid, new_batch_id
from ._limits import MAX_INLINE_BYTES
from ._link.link import Link
from ._link.settle import settle_value
from ._link.task import PREPARING, SETTLED, Task
from ._payloads import Carriers, Payloads, sealed_result
from ._rest import Rest
from ._version import __version__

if TYPE_CHECKING:
    from ._link.stream import Lane
    from ._output import OutputChunk
    from ._secrets import Secrets
    from ._signing import Signer
    from .objects import Objects
    from .shipping import FunctionDefinition
    from .webhooks import Webhooks

SOFTWARE = f"farloom-sdk-python/{__version__} python/{platform.python_version()}"

# How long `close` waits for what is not durable yet.
CLOSE_TIMEOUT_S = 30.0
# Functions whose registration is remembered.
_MAX_FUNCTIONS = 4096


class Client:
    """A connection to one Farloom service.

    Settings come from the arguments, then FARLOOM_URL, FARLOOM_API_KEY and FARLOOM_ENDPOINT, then the file that
    `farloom login` and `farloom dev` write. With `sign_key` (or FARLOOM_SIGN_KEY), the path or name of a private key,
    what is registered and what is called is signed, for endpoints that ask for it: `pip install farloom[sign]`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        endpoint: str | None = None,
        connect_for_s: float = 20.0,
        reconnect_for_s: float = 600.0,
        request_attempts: int = 6,
        sign_key: str | None = None,
    ) -> None:
        self._set_up(
            resolve_config(
                url,
                api_key,
                endpoint,
                connect_for_s=connect_for_s,
                reconnect_for_s=reconnect_for_s,
                request_attempts=request_attempts,
                sign_key=sign_key,
            )
        )

    def _set_up(self, config: Config) -> None:
        self.config = config
        self.rest = Rest(config.url, config.bearer, SOFTWARE, config.request_attempts, config.expired)
        """Plain requests, for routes that have no method here."""
        self.payloads = Payloads(self.rest)
        self._objects: Objects | None = None
        self._signer: Signer | None = None
        if config.sign_key is not None:
            from . import _signing

            self._signer = _signing.Signer(config.sign_key)
        self._carriers = Carriers()
        self.link = Link(config, SOFTWARE, self)
        self._ids = TaskIds()
        self._endpoints: dict[str, bytes] = {}
        self._functions: OrderedDict[FunctionKey, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._preparing: set[Task] = set()
        self._is_closed = False
        self.weak = weakref.ref(self)
        _clients.add(self)
        if config.task is not None:
            # What it submitted is durable before the task ends, and its token with it.
            from ._nested import at_end

            at_end(self.close)

    @property
    def objects(self) -> "Objects":
        """The object store: put, get, head, list, delete, byte ranges."""
        if self._objects is None:
            from .objects import Objects

            self._objects = Objects(self.rest)
        return self._objects

    @property
    def secrets(self) -> "Secrets":
        """Secrets that functions are given by name: set, list, remove."""
        from ._secrets import Secrets

        return Secrets(self.rest)

    @property
    def webhooks(self) -> "Webhooks":
        """Where the service tells over HTTP of what has ended: create, list, change, delete, test, deliveries."""
        from .webhooks import Webhooks

        return Webhooks(self.rest)

    # ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def endpoint_id(self, name: str | None = None) -> bytes:
        """The id of an endpoint: given as one, or looked up by name once."""
        wanted = name if name is not None else self.config.endpoint
        if wanted is None:
            raise ConfigError(
                "SETTING_MISSING",
                what="Where the call runs",
                cure="Pass endpoint=… to the executor or the client, or set FARLOOM_ENDPOINT; "
                "'farloom endpoint list' shows what there is",
            )
        known = self._endpoints.get(wanted)
        if known is None:
            known = from_uuid(wanted if is_uuid(wanted) else self.endpoint(wanted)["id"])
            self._endpoints[wanted] = known
        return known

    def endpoint(self, name: str | None = None) -> dict[str, Any]:
        """What the service knows of an endpoint: whether it is connected, its agent, its workers."""
        from urllib.parse import quote

        wanted = name or self.config.endpoint or ""
        info: dict[str, Any] = self.rest.json("GET", f"/v1/endpoints/{quote(wanted, safe='')}")
        return info

    def register(self, definition: "FunctionDefinition") -> bytes:
        """Registers a function, once for each definition; returns its digest. The same again is the same function."""
        key = _key_of(definition)
        digest = self._functions.get(key)
        if digest is None:
            info = self.rest.json("POST", "/v1/functions", body=definition.body(), idempotent=True)
            digest = bytes.fromhex(info["id"])
            if self._signer is not None:
                self._signer.sign_registered(self.rest, definition, info)
            with self._lock:
                self._functions[key] = digest
                if len(self._functions) > _MAX_FUNCTIONS:
                    self._functions.popitem(last=False)
        return digest

    def register_function(self, fn: Callable[..., Any], **options: Any) -> str:
        """Registers a Python function and returns its id. `options` are those of `POST /v1/functions`."""
        from .shipping import describe

        return self.register(describe(fn, options)).hex()

    def function_digest(self, ref: str) -> bytes:
        """The digest of a registered function: by id, `name`, `name@version` or `owner/name@version`."""
        from urllib.parse import quote

        if len(ref) == 64:
            try:
                return bytes.fromhex(ref)
            except ValueError:
                pass
        return bytes.fromhex(self.rest.json("GET", f"/v1/functions/{quote(ref, safe='')}")["id"])

    def new_group(self) -> bytes:
        """The id of a group to submit to; a running task's own token has one."""
        return new_batch_id() if self.config.group is None else from_uuid(self.config.group)

    # ── what is known of a task ────────────────────────────────────────────────────────────────────────────────────

    def why(self, task_id: str) -> str | None:
        """Why the task does not run yet, in a sentence; None where it runs, or has ended."""
        info = self.rest.json("GET", f"/v1/tasks/{task_id}")
        waiting: dict[str, Any] = info.get("waiting") or {}
        return waiting.get("message")

    def logs(
        self,
        task_id: str,
        *,
        stream: str = "stdout",
        follow: bool = False,
        offset: int = 0,
        attempt: int | None = None,
    ) -> "Iterator[OutputChunk]":
        """What the task writes to `stdout` or `stderr`, from a byte on: what there is now, or with `follow` as it
        comes until the task has ended, over its attempts. Default: its last attempt."""
        from ._output import logs

        return logs(self.rest, task_id, stream=stream, follow=follow, offset=offset, attempt=attempt)

    # ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def new_task(
        self, lane: "Lane", digest: bytes, data: Payload, sink: Any, options: dict[str, Any] | None = None
    ) -> Task:
        # What is large becomes a reference before the link sees it (start).
        return Task(self._ids.next(), data, PICKLE, digest, lane, sink, options)  # type: ignore[arg-type]

    def start(self, task: Task, *, kick: bool = True) -> None:
        """Hands a task to the link; one with large arguments once they are uploaded."""
        link = self.link
        size = len(task.data)
        if size > 600:
            link.custody.count(task, size)
        if size > MAX_INLINE_BYTES:
            self._preparing.add(task)
            self._carriers.run(lambda: self._upload(task))
            return
        if self._signer is not None:
            self._signer.sign_call(task)
        if kick:
            link.submit(task)
        else:
            link.custody.add(task)

    def cancel(self, tasks: "list[Task]", *, force: bool) -> None:
        """Asks for the end of these tasks; does not wait."""
        for task in tasks:
            if task.phase == PREPARING and task in self._preparing:
                self._end_preparing(task, None)
        self.link.cancel([task for task in tasks if task.phase != SETTLED], force=force)

    def _end_preparing(self, task: Task, error: BaseException | None) -> None:
        with self._lock:
            if task not in self._preparing:
                return
            self._preparing.discard(task)
            task.phase = SETTLED
        self.link.custody.uncount(task)
        self.link.custody.tell_room()
        task.data = b""
        if error is None:
            task.sink.on_cancelled(task)
        else:
            task.sink.on_error(task, error)

    def _upload(self, task: Task) -> None:
        try:
            data = task.data
            reference = encode_reference(self.payloads.put(data), len(data))
            del data
        except Exception as error:
            self._end_preparing(task, error)
            return
        with self._lock:
            if task not in self._preparing:
                return
            self._preparing.discard(task)
            task.data = reference
            task.codec |= REFERENCE
        if self._signer is not None:
            self._signer.sign_call(task)
        self.link.custody.uncount(task)
        self.link.custody.tell_room()
        self.link.submit(task)

    # ── what did not come with the frame (Fetcher) ─────────────────────────────────────────────────────────────────

    def fetch_payload(self, task: Task, digest: bytes, size_bytes: int, codec: int) -> None:
        def get() -> None:
            try:
                data = self.payloads.get(digest, size_bytes)
            except Exception as error:
                task.sink.on_error(task, error)
            else:
                settle_value(task, codec, data)

        self._carriers.run(get)

    def fetch_result(self, task: Task, seal: bytes) -> None:
        def get() -> None:
            try:
                codec, data = sealed_result(self.rest, task.key, seal)
            except Exception as error:
                task.sink.on_error(task, error)
            else:
                settle_value(task, codec, data)

        self._carriers.run(get)

    # ── end ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def drain(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Waits until everything submitted is durable or has ended; False where that takes longer."""
        until = time.monotonic() + timeout_s
        custody = self.link.custody
        wait_s = 0.001
        while not (custody.is_drained and not self._preparing):
            if time.monotonic() > until or self._is_closed:
                return False
            time.sleep(wait_s)
            wait_s = min(0.05, wait_s * 2)
        return True

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Waits until everything submitted is durable, and disconnects. Idempotent.

        Stopping is not cancelling: tasks run on, and `attach` finds them again. Futures that are still open end with
        CLIENT_CLOSED.
        """
        if self._is_closed:
            return
        if not self.link.is_own_thread():
            self.drain(timeout_s)
        self._is_closed = True
        self.link.close()
        for task in list(self._preparing):
            self._end_preparing(task, FarloomError("CLIENT_CLOSED"))
        self.rest.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self.link.is_connected else "idle"
        return f"<farloom.Client {self.config.url} {state}>"

    def _after_fork(self) -> None:
        self.link.forget(
            "This client was made before a fork, and its connection belongs to the parent process. Make a new "
            "farloom.Client or farloom.Executor in the child."
        )
        self.rest.forget()
        self._is_closed = True


FunctionKey = tuple[str, bytes, str]


def _key_of(definition: "FunctionDefinition") -> FunctionKey:
    import hashlib

    told = f"{definition.name} {definition.entry} {definition.python} {sorted(definition.options.items())!r}"
    return definition.format, hashlib.sha256(definition.code).digest(), told


# ── the clients of this process ────────────────────────────────────────────────────────────────────────────────────

_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()
_defaults: dict[Config, Client] = {}
_defaults_lock = threading.Lock()


def default_client(endpoint: str | None = None) -> Client:
    """The client of these settings that executors share; made by the first one."""
    config = resolve_config(endpoint=endpoint)
    shared = Config(
        config.url,
        config.api_key,
        None,
        task=config.task,
        group=config.group,
        sign_key=config.sign_key,
        login=config.login,
    )
    with _defaults_lock:
        for key in [key for key, known in _defaults.items() if known._is_closed]:
            del _defaults[key]
        client = _defaults.get(shared)
        if client is None:
            client = Client.__new__(Client)
            client._set_up(shared)
            _defaults[shared] = client
    return client


def _after_fork_in_child() -> None:
    global _defaults_lock
    _defaults_lock = threading.Lock()
    _defaults.clear()
    for client in list(_clients):
        client._after_fork()


def _at_exit() -> None:
    # What was submitted reaches the service, as a program that ends has no other chance to say it.
    for client in list(_clients):
        client.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
