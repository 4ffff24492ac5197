"""Whether the endpoint's Python can run what is shipped: compared before anything is submitted.

Text runs on any Python. A pickle of a function holds bytecode, which is of one Python minor, and refers to cloudpickle.
Packages that a function says it requires must be there. What cannot be known here (an agent that has never connected,
an environment that the function brings itself) the worker checks.
"""

from typing import TYPE_CHECKING, Any

from ._errors import FarloomError
from ._packages import parse_requirement, satisfies
from .shipping import PYTHON_MINOR

if TYPE_CHECKING:
    from .shipping import FunctionDefinition


def check_environment(definition: "FunctionDefinition", endpoint: dict[str, Any]) -> None:
    """Raises FarloomError ENVIRONMENT_MISMATCH with the cure."""
    env = definition.options.get("env") or {}
    requires = env.get("requires") or []
    interpreter = env.get("interpreter") or "default"
    pythons = (endpoint.get("agentInfo") or {}).get("pythons") or {}
    known = pythons.get(interpreter)
    name = str(endpoint.get("name") or endpoint.get("id") or "?")
    if not known:
        # A path or `conda:NAME` is the function's own; what an older agent tells of its Pythons is not all there is.
        is_name = interpreter != "default" and "/" not in interpreter and ":" not in interpreter
        if is_name and any("packages" in python for python in pythons.values()):
            there = ", ".join(sorted(pythons))
            detail = f"there is no environment {interpreter} whose Python starts; there are {there}. Name one of "
            detail += f"these, or add [environments.{interpreter}] to agent.toml there (and start the agent again)"
            raise FarloomError("ENVIRONMENT_MISMATCH", endpoint=name, detail=detail)
        return
    lacking = _lacking(requires, known.get("packages"))
    if lacking:
        program = known.get("program") or "python3"
        detail = f"{definition.name} requires {'; '.join(lacking)} in its environment {interpreter} ({program}, Python "
        detail += f"{known['version']}). On that machine: {program} -m pip install {' '.join(map(repr, requires))} "
        detail += "(and start the agent again), or name another environment"
        raise FarloomError("ENVIRONMENT_MISMATCH", endpoint=name, detail=detail)
    if definition.python is None:
        return
    import cloudpickle

    version, program, there = str(known["version"]), known.get("program") or "python3", known.get("cloudpickle")
    minor = ".".join(version.split(".")[:2])
    here: str = cloudpickle.__version__
    shipped = definition.description.partition(". ")[0].rstrip(".")
    if minor != PYTHON_MINOR:
        detail = (
            f"{definition.name} travels as a pickle of Python {PYTHON_MINOR}, and {program} there is Python {version}. "
            f"Run this program with Python {minor}, start the agent with a Python {PYTHON_MINOR} (--python), or let "
            f"the function travel as text, which any Python runs ({shipped})"
        )
    elif there is None or there.partition(".")[0] != here.partition(".")[0]:
        has = "has no cloudpickle" if there is None else f"has cloudpickle {there}, here is {here}"
        detail = f"{definition.name} travels by cloudpickle, and {program} there {has}. On that machine: {program} -m "
        detail += f"pip install cloudpickle=={here} (and start the agent again)"
    else:
        return
    raise FarloomError("ENVIRONMENT_MISMATCH", endpoint=name, detail=detail)


def _lacking(requires: list[str], packages: dict[str, str] | None) -> list[str]:
    """What is required and not there, and what is there instead. Nothing where nobody knows what there is."""
    lacking = []
    for text in requires if packages is not None else []:
        name, rules = parse_requirement(text)
        version = (packages or {}).get(name)
        if version is None:
            lacking.append(f"{text}, which is not there")
        elif not satisfies(version, rules):
            lacking.append(f"{text}, there is {version}")
    return lacking
