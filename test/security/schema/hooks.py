"""What schemathesis does besides inventing requests: asks as each caller in turn, names things that there are, and looks for
what the caller was not to see.

  1. Half of the ids and names that it invents become real ones, of the caller's own or of another tenant. Which, follows
     from the request itself: the same seed makes the same requests.
  2. What ends a thing is only tried on another tenant's, so that the caller has what it began with until the end:
     schemathesis learns names from replies, and would end the key that it asks with.
  3. Nothing waits: a long poll holds its request as long as it was asked to, and an invented one for minutes.
"""

import hashlib
import itertools
import json
import os
import re
from urllib.parse import quote

import schemathesis

with open(os.environ["FARLOOM_SCHEMA_CALLERS"], encoding="utf-8") as file:
    CALLERS = json.load(file)
# Tells in a report whose request it was; the service reads nothing of it.
ASKED_BY = "x-asked-by"
_turns = itertools.cycle(CALLERS)
# What a parameter called `id` names, by the path's first word behind the version.
IDS = {
    "endpoints": ["endpoint", "endpointRef"],
    "tasks": ["task", "open"],
    "groups": ["group"],
    "keys": ["key"],
    "sessions": ["session"],
}
NAMES = {
    "ref": ["function", "functionRef"],
    "digest": ["payload"],
    "bucket": ["bucket"],
    "key": ["object"],
    "team": ["team", "teamRef"],
    "person": ["person"],
    "name": ["person"],
    "endpoint": ["endpoint", "endpointRef"],
    "function": ["function", "functionRef"],
    "group": ["group"],
}
ENDS = ("/revoke", "/disable", "/delete")
MAY_BE_REAL = re.compile(r"[\w.@/%-]+")


def _real(caller, case, place, name, invented):
    """Whose thing stands there instead of what was invented; None: the invention stays (1, 2)."""
    kinds = IDS.get((case.path.split("/") + ["", ""])[2], []) if name == "id" else NAMES.get(name, [])
    if not kinds:
        return None
    seed = repr((case.method, case.path, place, name, case.path_parameters, case.query, case.body))
    luck = hashlib.sha256(seed.encode("utf-8", "replace")).digest()
    ends = case.method == "DELETE" or case.path.endswith(ENDS)
    may_be_real = ends and MAY_BE_REAL.fullmatch(str(invented)) is not None
    if luck[0] < 128 and not may_be_real:
        return None
    whose = caller["foreign"] if ends or luck[1] < 100 else caller["own"]
    value = whose[kinds[luck[2] % len(kinds)]]
    return quote(value, safe="") if place == "path_parameters" else value


@schemathesis.hook
def before_call(_context, case, _kwargs):
    caller = next(_turns)
    case.headers[ASKED_BY] = caller["name"]
    case.headers.pop("authorization", None)
    if caller["credential"] is not None:
        case.headers["authorization"] = f"Bearer {caller['credential']}"
    for place in ("path_parameters", "query", "body"):
        values = getattr(case, place)
        if not isinstance(values, dict):
            continue
        found = {name: _real(caller, case, place, name, value) for name, value in values.items()}
        values.update({name: value for name, value in found.items() if value is not None})
    if isinstance(case.query, dict):
        for name in ("wait", "follow"):
            case.query.pop(name, None)  # 3


def _caller(case):
    return next(caller for caller in CALLERS if caller["name"] == case.headers[ASKED_BY])


@schemathesis.check
def tells_nothing_of_others(_context, response, case):
    """No reply has what only another tenant knows, unless the request itself said it."""
    said = repr((case.path_parameters, case.query, case.body, case.headers))
    for secret in _caller(case)["secret"]:
        if secret not in said and secret.encode() in response.content:
            raise AssertionError(f"the reply tells {secret!r}, which is another tenant's")


@schemathesis.check
def lets_nobody_in(_context, response, case):
    """Without a credential every operation that asks for one says so, before it looks at anything else."""
    if _caller(case)["credential"] is not None or not case.operation.definition.raw.get("security"):
        return
    if response.status_code == 401:
        return
    # What was made up is no path that there is.
    if response.status_code in (400, 404) and response.json()["code"] in ("REQUEST_INVALID", "ROUTE_NOT_FOUND"):
        return
    raise AssertionError(f"answered {response.status_code} to nobody")
