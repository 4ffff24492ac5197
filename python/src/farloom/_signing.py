"""Signing at the client's end (PROTOCOL.md P37): functions as they are registered, and calls as they are submitted.

What is signed is computed here, from what the caller gave: a service that answers with something else gets no
signature. Needs `cryptography`, which comes with `pip install farloom[sign]`. The rules are those of
packages/sdk/src/signing.ts; packages/protocol/vectors/trust.json holds the two together.
"""

import base64
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._errors import FarloomError
from ._ids import to_uuid
from ._rest import Rest

if TYPE_CHECKING:
    from ._link.task import Task
    from .shipping import FunctionDefinition

FUNCTION_TYPE = "application/vnd.farloom.function.v1+json"
INVOCATION_TYPE = "application/vnd.farloom.invocation.v1+json"
MAX_INVOCATION_S = 7 * 86_400
# Deaths of workers and agents that a task survives in mode at_least_once (packages/protocol, task/machine.ts).
_LOSSES = 13


def canonical_json(value: Any) -> str:
    """Sorted keys, no None, no spaces: the same value gives the same text in every language."""
    return json.dumps(_without_none(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, (list, tuple)) else value


def pre_auth_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: PAE(type, payload)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()[:16]


def options_digest(options: Mapping[str, Any] | None) -> str:
    """SHA-256 of what of a call's options changes what is run: its environment and directory."""
    given = options or {}
    parts = {"cwd": given.get("cwd"), "env": given.get("env") or None}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def definition_digest(body: Mapping[str, Any], code: bytes) -> str:
    """The digest of the definition that the service makes of a registration."""
    retries = body.get("retries") or 0
    is_code = body["runtime"] != "command"
    is_source = body.get("format", "source") == "source"
    text = canonical_json(
        {
            "v": 1,
            "codeSha256": hashlib.sha256(code if is_code else b"").hexdigest(),
            "runtime": body["runtime"],
            "format": body.get("format", "source"),
            "entry": (body.get("entry") or body["name"]) if is_code and is_source else "",
            "mode": body.get("mode") or ("at_least_once" if retries else "at_most_once"),
            "timeoutMs": body.get("timeoutMs") or 0,
            "retries": retries,
            "backoffMs": body.get("backoffMs") or 0,
            "env": body.get("env") or {},
            "resources": body.get("resources") or {},
            "command": body.get("command"),
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()


def key_path(given: str) -> str:
    """The file of a key that is given as a path, or by its name alone."""
    if re.search(r"[/\\.]", given):
        return given
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "farloom", "sign-keys", f"{given}.pem")


class Signer:
    """A private key and what it signs. Safe for threads."""

    def __init__(self, given: str, passphrase: str | None = None) -> None:
        """Reads the key: a path, or the name that `farloom keys sign-key create` gave it. Raises FarloomError."""
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import (
                Encoding,
                PublicFormat,
                load_pem_private_key,
            )
        except ImportError as error:
            raise _failed("signing needs the package cryptography: pip install 'farloom[sign]'") from error
        path = key_path(given)
        try:
            if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                raise _failed(f"others can read the key {path}; run: chmod 600 '{path}'")
            with open(path, "rb") as file:
                text = file.read()
        except OSError as error:
            raise _failed(f"the key {path} cannot be read; make one with 'farloom keys sign-key create'") from error
        is_encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in text
        phrase = passphrase or os.environ.get("FARLOOM_SIGN_PASSPHRASE") or None
        if is_encrypted and phrase is None:
            raise _failed(f"the key {path} is encrypted: set FARLOOM_SIGN_PASSPHRASE")
        try:
            key = load_pem_private_key(text, phrase.encode() if is_encrypted and phrase else None)
        except (ValueError, TypeError) as error:
            what = "the passphrase is wrong, or the file is damaged" if is_encrypted else "it is no PEM file of a key"
            raise _failed(f"the key {path}: {what}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _failed(f"the key {path} is not an Ed25519 key")
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = key_id(self.public_key)
        # How often a call of a function may be begun, of those that were registered here.
        self._attempts: dict[bytes, int] = {}

    def envelope(self, payload_type: str, statement: Mapping[str, Any]) -> str:
        """A signed statement, in the one form that envelopes have."""
        payload = canonical_json(statement).encode()
        signature = self._key.sign(pre_auth_encoding(payload_type, payload))
        signatures = [{"keyid": self.key_id, "sig": base64.b64encode(signature).decode()}]
        body = {"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": signatures}
        return canonical_json(body)

    def sign_registered(self, rest: Rest, definition: "FunctionDefinition", info: Mapping[str, Any]) -> None:
        """Signs what was just registered, and hands the signature in; the same again adds nothing."""
        from urllib.parse import quote

        body = definition.body()
        digest = definition_digest(body, definition.code)
        if digest != info["id"]:
            raise _failed(f"the service keeps the function {info['id']}, and what was given is {digest}")
        if info["name"] != definition.name:
            raise _failed(f"the service calls it {info['name']}, not {definition.name}")
        self._remember(bytes.fromhex(digest), body)
        path = f"/v1/functions/{quote(info['ref'], safe='')}/signatures"
        kept = rest.json("GET", path)["items"]
        if any(one["name"] == info["ref"] and "expiresAt" not in one and self.key_id in one["keyIds"] for one in kept):
            return
        statement = {"function": digest, "name": info["ref"], "created": int(time.time())}
        rest.json("POST", path, body={"envelope": self.envelope(FUNCTION_TYPE, statement)}, idempotent=True)

    def _remember(self, digest: bytes, body: Mapping[str, Any]) -> None:
        retries = body.get("retries") or 0
        mode = body.get("mode") or ("at_least_once" if retries else "at_most_once")
        if len(self._attempts) >= 4096:
            self._attempts.clear()
        self._attempts[digest] = 1 + retries + (_LOSSES if mode == "at_least_once" else 0)

    def sign_call(self, task: "Task") -> None:
        """Signs a call whose arguments are as they travel; the signature goes with its options."""
        statement = {
            "task": task.id,
            "function": task.digest.hex(),
            "endpoint": to_uuid(task.lane.endpoint),
            "arguments": hashlib.sha256(task.key + task.data).hexdigest(),
            "codec": task.codec,
            "options": options_digest(task.options),
            "attempts": self._attempts.get(task.digest, 1),
            "expires": int(time.time()) + MAX_INVOCATION_S,
            "key": self.key_id,
        }
        task.options = {**(task.options or {}), "invocation": self.envelope(INVOCATION_TYPE, statement)}


def _failed(detail: str) -> FarloomError:
    return FarloomError("SIGNING_FAILED", detail=detail)
