"""Whether packages are there in the versions that are asked for: the part of pip's rules that needs no pip.

`name`, `name[extra]`, `name>=2,<3`, `name~=1.4`, `name==1.*`. Of versions the numbers are compared; what follows them
(a1, .post2, +cu121) makes no difference.
"""

import re

from ._errors import FarloomError

Requirement = tuple[str, list[tuple[str, str]]]

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(.*)")
_VERSION = re.compile(r"\s*(==|!=|<=|>=|~=|<|>)\s*v?(\d+(?:\.\d+)*(?:\.\*)?)[^,\s]*\s*")


def parse_requirement(text: str) -> Requirement:
    """The name as package lists have it, and what its version must be. Raises FarloomError FUNCTION_INVALID."""
    match = _NAME.fullmatch(text)
    rest = "" if match is None else match[2]
    rules = [_VERSION.fullmatch(part) for part in rest.split(",")] if rest else []
    if match is None or None in rules:
        detail = f"requires has {text!r}, which is no package as pip names them, such as numpy or numpy>=2"
        raise FarloomError("FUNCTION_INVALID", detail=detail)
    return re.sub(r"[-_.]+", "-", match[1]).lower(), [(rule[1], rule[2]) for rule in rules if rule is not None]


def satisfies(version: str, rules: list[tuple[str, str]]) -> bool:
    have = _numbers(version)
    for operator, wanted in rules:
        is_prefix = wanted.endswith(".*")
        numbers = _numbers(wanted.removesuffix(".*"))
        width = len(numbers) if is_prefix else max(len(have), len(numbers))
        a, b = _padded(have, width)[:width], _padded(numbers, width)
        holds = {
            "==": a == b,
            "!=": a != b,
            "<=": a <= b,
            ">=": a >= b,
            "<": a < b,
            ">": a > b,
            "~=": a >= b and have[: len(numbers) - 1] == numbers[:-1],
        }[operator]
        if not holds:
            return False
    return True


def _numbers(version: str) -> list[int]:
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version.strip())
    return [int(part) for part in match[1].split(".")] if match else []


def _padded(numbers: list[int], width: int) -> list[int]:
    return numbers + [0] * (width - len(numbers))
