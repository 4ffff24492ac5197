"""Secrets: stored by name, given to functions that name them, read back by nobody."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from ._rest import Rest


class SecretInfo(NamedTuple):
    """A secret without its value. Times as the API writes them."""

    name: str
    endpoints: list[str]
    """The endpoints that it may go to alone; empty: yours."""
    created_at: str
    updated_at: str
    last_used_at: str | None


class Secrets:
    """Your secrets: `client.secrets`."""

    def __init__(self, rest: "Rest") -> None:
        self._rest = rest

    def set(self, name: str, value: str, *, endpoints: Iterable[str] | None = None) -> SecretInfo:
        """Stores a secret, or another value for it.

        `endpoints` are those that it may go to, by id, name or owner/name; by default all of yours, and no other.
        """
        body: dict[str, object] = {"value": value}
        if endpoints is not None:
            body["endpoints"] = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        return _info(self._rest.json("PUT", f"/v1/secrets/{_part(name)}", body=body, idempotent=True))

    def list(self) -> "list[SecretInfo]":
        """By name, without values."""
        items = cast("dict[str, list[dict[str, object]]]", self._rest.json("GET", "/v1/secrets"))["items"]
        return [_info(item) for item in items]

    def remove(self, name: str) -> None:
        """Tasks that begin from now on are not given it. Raises FarloomError SECRET_NOT_FOUND."""
        self._rest.json("DELETE", f"/v1/secrets/{_part(name)}")


def _part(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _info(item: "dict[str, object]") -> SecretInfo:
    return SecretInfo(
        str(item["name"]),
        cast("list[str]", item["endpoints"]),
        str(item["createdAt"]),
        str(item["updatedAt"]),
        cast("str | None", item.get("lastUsedAt")),
    )
