"""No secret in what the fabric's processes write, in their command lines, or in a file that may hold none: the
forms of test/support/secret-patterns.json, as test/support/secret-watch.ts looks for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORMS = [
    (form["kind"], re.compile(form["pattern"].encode()))
    for form in json.loads((ROOT / "test/support/secret-patterns.json").read_text())
]
RANDOM = "32 random bytes"
HOLDERS = re.compile(
    r"/(private-key\.pem|signing-key\.pem|sign-keys/[^/]+\.pem|first-admin-token|api-key|run/workers\.json|blocks/[^/]+\.json)[^/]*$"
)
# The database's own folder is not text; what is in it is hashed, which other tests hold.
NOT_OURS = "/service/postgres/"
# What users' programs send and their functions give back: random letters are theirs there, and Lithops hands its
# workers, among their arguments, the token of its storage.
JOURNAL = re.compile(r"/agent-([^/]+)/journal/")
USERS_OWN = {("a signed token", "lithops")}
MAX_BYTES = 8 * 1024 * 1024


def kinds_in(data: bytes) -> list[str]:
    """What kinds of secrets there are in it."""
    return [kind for kind, form in FORMS if any(_is_one(kind, match.group()) for match in form.finditer(data))]


def _is_one(kind: str, found: bytes) -> bool:
    """Random bytes are letters of both cases and digits; names and digests are not."""
    if kind != RANDOM:
        return True
    return all(len(re.findall(letters, found)) >= 2 for letters in (rb"[a-z]", rb"[A-Z]", rb"[0-9]"))


def told(folder: Path) -> Iterator[str]:
    """Each kind of secret in each file of the folder that may have none, in words."""
    for path in folder.rglob("*"):
        if HOLDERS.search(str(path)) or NOT_OURS in str(path) or path.is_symlink() or not path.is_file():
            continue
        try:
            data = path.read_bytes()[-MAX_BYTES:]
        except OSError:
            continue  # It has gone meanwhile.
        for kind in kinds_in(data):
            if (kind, _journal_of(path)) in USERS_OWN or (kind == RANDOM and _journal_of(path)):
                continue
            yield f"{kind} in the file {path.relative_to(folder)}"


def _journal_of(path: Path) -> str | None:
    """The name of the agent whose journal it is of, if it is one's."""
    found = JOURNAL.search(str(path))
    return found and found.group(1)


def told_by_arguments(pid: int) -> Iterator[str]:
    """Each kind of secret in the command line of the process, or of what it has started, in words."""
    for one in _descendants(pid):
        try:
            argv = Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        for kind in kinds_in(argv):
            yield f"{kind} in the command line of {argv.split(bytes(1))[0].decode(errors='replace')}"


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found
