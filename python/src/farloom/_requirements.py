"""What a function asks for, in the words that people use, as the fields of `POST /v1/functions`."""

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ._errors import FarloomError
from ._packages import parse_requirement

_UNITS = {"": 2**20, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def memory_mb(value: int | float | str | None) -> int | None:
    """Mebibytes from a number of them, or from a text such as `8GB`, `512MiB`, `1.5 G`."""
    if value is None:
        return None
    if not isinstance(value, str):
        return max(1, math.ceil(value))
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", value.upper())
    if match is None:
        raise FarloomError(
            "FUNCTION_INVALID", detail=f"memory={value!r} is no size; write 8GB, 512MiB or a number of MiB"
        )
    return max(1, math.ceil(float(match[1]) * _UNITS[match[2] or ""] / 2**20))


def walltime_ms(value: float | str | datetime.timedelta | None) -> int | None:
    """Milliseconds from seconds, a timedelta, or a text as in Slurm: `MM:SS`, `HH:MM:SS`, `D-HH:MM:SS`."""
    if value is None:
        return None
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = re.fullmatch(r"\s*(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)\s*", value)
        if match is None:
            detail = f"walltime={value!r} is no time; write HH:MM:SS, D-HH:MM:SS or a number of seconds"
            raise FarloomError("FUNCTION_INVALID", detail=detail)
        days, hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    else:
        seconds = float(value)
    return max(1, round(seconds * 1000))


def environment_of(value: "str | Mapping[str, Any] | None") -> dict[str, Any]:
    """`env` of a definition: from the name of an environment, or from {interpreter, vars, requires}."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"interpreter": value}
    unknown = set(value) - {"interpreter", "vars", "requires", "isolation", "network"}
    if unknown:
        known = "interpreter, vars, requires, isolation and network"
        detail = f"environment has {', '.join(sorted(unknown))}; it may have {known}"
        raise FarloomError("FUNCTION_INVALID", detail=detail)
    return {name: part for name, part in value.items() if part is not None}


def required(packages: "str | Iterable[str] | None") -> dict[str, Any]:
    """`requires` of an environment; each must be a name, with versions perhaps, as pip takes them."""
    listed = [packages] if isinstance(packages, str) else list(packages or ())
    for one in listed:
        parse_requirement(one)
    return {"requires": listed} if listed else {}


def secret_names(names: "str | Iterable[str]") -> list[str]:
    """Names of secrets, each once; a text is one name."""
    return list(dict.fromkeys([names] if isinstance(names, str) else names))


def definition_options(told: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a definition from the keywords of `@farloom.function`."""
    resources = {
        "cores": told.get("cores"),
        "memoryMb": memory_mb(told.get("memory")),
        "gpus": told.get("gpus"),
        "nodes": told.get("nodes"),
        "ranks": told.get("ranks"),
        "ranksPerNode": told.get("ranks_per_node"),
    }
    backoff_s = told.get("backoff_s")
    wants = {name: told[name] for name in ("isolation", "network") if told.get(name) is not None}
    if told.get("secrets"):
        wants["secrets"] = secret_names(told["secrets"])
    return {
        "mode": told.get("mode"),
        "retries": told.get("retries") or None,
        "backoffMs": round(backoff_s * 1000) if backoff_s else None,
        "timeoutMs": walltime_ms(told.get("walltime")),
        "resources": {name: value for name, value in resources.items() if value is not None} or None,
        "env": environment_of(told.get("environment")) | required(told.get("requires")) | wants,
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says; resources and environment part by part."""
    out = dict(base)
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(out.get(name), dict):
            out[name] = {**out[name], **value}
        elif value is not None:
            out[name] = value
    return out
