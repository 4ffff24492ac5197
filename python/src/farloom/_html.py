"""How things look in a notebook: a line of what it is, a small table of what matters, and a link."""

from collections.abc import Iterable
from html import escape
from typing import Any


def card(title: str, rows: Iterable[tuple[str, Any]], link: str | None = None) -> str:
    """HTML of a thing. Rows whose value is None are left out; every text is escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows
        if value is not None
    )
    linked = "" if link is None else f"<div><a href='{escape(link, quote=True)}'>{escape(link)}</a></div>"
    return f"<div><b>{escape(title)}</b><table>{cells}</table>{linked}</div>"


def meter(done: float, total: float | None) -> str:
    """A bar, or the number where the whole is not known."""
    if total is None or total <= 0:
        return f"<span>{escape(f'{done:g}')}</span>"
    return f"<progress value='{done:g}' max='{total:g}'></progress> <span>{escape(f'{done:g} of {total:g}')}</span>"
