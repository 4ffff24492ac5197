"""Webhooks: the service tells over HTTP of what has ended (docs/webhooks.md).

    hook = farloom.Client().webhooks.create("https://lab.example/hook", ["group.done"])
    hook["secret"]  # whsec_…, shown once

and where it arrives:

    event = farloom.webhooks.verify(secret, request.headers, request.body)  # after import farloom.webhooks
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ._rest import Rest

# How far the sender's clock may be from ours; what is older may be a repetition by somebody else.
TOLERANCE_S = 300.0


class Webhooks:
    """One's own webhooks, as the service keeps them."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def create(
        self,
        url: str,
        events: Sequence[str],
        *,
        name: str = "",
        only_failed: bool = False,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Registers a URL for `task.done`, `group.done` or both. The `secret` in the answer is shown once."""
        body: dict[str, Any] = {"url": url, "events": list(events), "name": name, "onlyFailed": only_failed}
        if endpoint is not None:
            body["endpoint"] = endpoint
        return self._json("POST", "", body)

    def list(self) -> Sequence[dict[str, Any]]:
        items: Sequence[dict[str, Any]] = self._json("GET", "")["items"]
        return items

    def get(self, webhook_id: str) -> dict[str, Any]:
        return self._json("GET", _part(webhook_id))

    def change(self, webhook_id: str, **changes: Any) -> dict[str, Any]:
        """Changes `url`, `events`, `name`, `only_failed`, `endpoint` (None: any) or `enabled`."""
        body = {"onlyFailed" if key == "only_failed" else key: value for key, value in changes.items()}
        return self._json("PATCH", _part(webhook_id), body)

    def delete(self, webhook_id: str) -> None:
        self._rest.send("DELETE", "/v1/webhooks" + _part(webhook_id))

    def rotate(self, webhook_id: str) -> dict[str, Any]:
        """Another `secret`; the one before signs beside it for 24 hours."""
        return self._json("POST", _part(webhook_id) + "/rotate")

    def test(self, webhook_id: str) -> dict[str, Any]:
        """Sends a ping and tells what came of it."""
        return self._json("POST", _part(webhook_id) + "/test")

    def deliveries(self, webhook_id: str, limit: int = 50) -> Sequence[dict[str, Any]]:
        """What became of the last ones, the newest first."""
        path = f"/v1/webhooks{_part(webhook_id)}/deliveries"
        items: Sequence[dict[str, Any]] = self._rest.json("GET", path, query={"limit": limit})["items"]
        return items

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer: dict[str, Any] = self._rest.json(method, "/v1/webhooks" + path, body=body)
        return answer


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now_s: float | None = None) -> dict[str, Any]:
    """The event in a request that a webhook brought, after its signature was checked.

    `body` is what came, unchanged. The same event may come twice, with the same `webhook-id` header. Raises ValueError
    where the request is not the service's, or is more than five minutes old.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp = lower["webhook-id"], lower["webhook-timestamp"]
        given = lower["webhook-signature"].split()
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        sent_s = int(timestamp)
    except (KeyError, ValueError, binascii.Error) as wrong:
        raise ValueError("the request has no signature that could be checked") from wrong
    if abs((time.time() if now_s is None else now_s) - sent_s) > TOLERANCE_S:
        raise ValueError("the request was signed more than five minutes ago")
    mac = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    wanted = "v1," + base64.b64encode(mac).decode()
    if not any(hmac.compare_digest(wanted.encode(), one.encode()) for one in given):
        raise ValueError("the request's signature does not fit")
    event: dict[str, Any] = json.loads(body)
    return event


def _part(webhook_id: str) -> str:
    return "/" + quote(webhook_id, safe="")
