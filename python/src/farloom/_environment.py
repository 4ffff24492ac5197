"""Whether the endpoint's Python can run what is shipped: compared before anything is submitted.

Text runs on any Python. A pickle of a function holds bytecode, which is of one Python minor, and refers to cloudpickle.
What cannot be known here (an agent that has never connected, another interpreter) the worker checks itself.
"""

from typing import TYPE_CHECKING, Any

from ._errors import FarloomError
from .shipping import PYTHON_MINOR

if TYPE_CHECKING:
    from .shipping import FunctionDefinition


def check_environment(definition: "FunctionDefinition", endpoint: dict[str, Any]) -> None:
    """Raises FarloomError ENVIRONMENT_MISMATCH with the cure."""
    if definition.python is None:
        return
    interpreter = (definition.options.get("env") or {}).get("interpreter") or "default"
    known = ((endpoint.get("agentInfo") or {}).get("pythons") or {}).get(interpreter)
    if not known:
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
    name = str(endpoint.get("name") or endpoint.get("id") or "?")
    raise FarloomError("ENVIRONMENT_MISMATCH", endpoint=name, detail=detail)
