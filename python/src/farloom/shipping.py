"""How a function travels: what is registered for it.

`describe` decides, and says why in the description that the function's record keeps:

  source   plain text: readable in the record, and it runs on any Python minor (_source.py says what can be text)
  pickle   by cloudpickle, for closures, lambdas, methods and what refers to classes or state of its program; it needs
           the same Python minor on the worker, which `env.python` says, and a cloudpickle of the same major
"""

import builtins
import re
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ._errors import FarloomError
from ._limits import MAX_CODE_BYTES
from ._source import NotText, source_of

PYTHON_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"

Ship = Literal["auto", "source", "pickle"]
Modules = Iterable[types.ModuleType | str]


@dataclass(frozen=True)
class FunctionDefinition:
    """What is registered. `options` are the fields of `POST /v1/functions` that do not follow from the code."""

    name: str
    format: Literal["source", "pickle"]
    code: bytes
    entry: str = ""
    python: str | None = None
    """The Python minor that the code needs; None where any will do."""
    description: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The body of `POST /v1/functions`."""
        body: dict[str, Any] = {"name": self.name, "runtime": "python", "format": self.format}
        if self.format == "source":
            body["code"] = self.code.decode()
            body["entry"] = self.entry
        else:
            import base64

            body["code"] = base64.b64encode(self.code).decode()
        if self.description:
            body["description"] = self.description[:4096]
        options = {name: value for name, value in self.options.items() if value is not None}
        env = {**options.pop("env", {})}
        if self.python is not None:
            env["python"] = self.python
        if env:
            body["env"] = env
        return body | options


def describe(
    fn: Callable[..., Any],
    options: dict[str, Any] | None = None,
    *,
    ship: Ship = "auto",
    modules: Modules = (),
    decorated: bool = False,
) -> FunctionDefinition:
    """The definition of a Python callable. Raises FarloomError FUNCTION_INVALID where it cannot travel.

    `ship` asks for one way; `modules` are modules of the project that travel with it; `decorated` says that its `def`
    may have `@farloom.function` above it, which stays here.
    """
    name = function_name(fn)
    sources, head, told = _carried(modules)
    reason = "that was asked for"
    if ship != "pickle":
        try:
            text = source_of(fn, carried=sources, decorated=decorated)
        except NotText as why_not:
            reason = f"it {why_not}"
            if ship == "source":
                detail = f"{name} cannot travel as source text: it {why_not}"
                raise FarloomError("FUNCTION_INVALID", detail=detail) from None
        else:
            code = _with_head(head, text.code)
            why = f"Shipped as source text: {text.why}.{told}"
            return _sized(FunctionDefinition(name, "source", code.encode(), text.entry, None, why, options or {}))
    why = f"Shipped by cloudpickle, for Python {PYTHON_MINOR}: {reason}.{told}"
    code_bytes = _pickled_with(head, pickled(fn))
    return _sized(FunctionDefinition(name, "pickle", code_bytes, "", PYTHON_MINOR, why, options or {}))


def describe_chunk(fn: Callable[..., Any], options: dict[str, Any] | None = None, **how: Any) -> FunctionDefinition:
    """A definition that calls `fn` once for each tuple of arguments in a list, and gives the list of results."""
    return _around(fn, "chunk", "[{0}(*args) for args in calls]", "calls", options, how)


def describe_reduction(fn: Callable[..., Any], options: dict[str, Any] | None = None, **how: Any) -> FunctionDefinition:
    """A definition that folds a list of values into one by `fn(a, b)`, from left to right."""
    return _around(fn, "reduce", "__import__('functools').reduce({0}, values)", "values", options, how)


def _around(
    fn: Callable[..., Any], what: str, body: str, argument: str, options: dict[str, Any] | None, how: dict[str, Any]
) -> FunctionDefinition:
    """A function of one argument around `fn`, in the way in which `fn` itself travels."""
    own = getattr(fn, "__farloom_definition__", None)
    inner: FunctionDefinition = describe(fn, options, **how) if own is None else own(options)
    if inner.format == "source":
        entry = f"farloom_{what}"
        text = inner.code.decode()
        text += f"\n\ndef {entry}({argument}):\n    return {body.format(inner.entry)}\n"
        code, python = text.encode(), None
    else:
        entry, python = "", inner.python
        namespace: dict[str, Any] = {"__name__": f"farloom_{what}", "__builtins__": builtins}
        make = f"def make(data):\n    fn = __import__('pickle').loads(data)\n    return lambda {argument}: "
        exec(make + body.format("fn"), namespace)
        code = pickled(_Made(namespace["make"], inner.code))
    description = f"{inner.description} Each call is of a list of them ({what})."
    return _sized(FunctionDefinition(inner.name, inner.format, code, entry, python, description, inner.options))


def pickled(fn: Callable[..., Any]) -> bytes:
    import cloudpickle

    try:
        code: bytes = cloudpickle.dumps(fn, protocol=5)
    except Exception as error:
        detail = f"{function_name(fn)} cannot be pickled: {type(error).__name__}: {error}"
        raise FarloomError("FUNCTION_INVALID", detail=detail) from error
    return code


class _Made:
    """What unpickles as `make(*args)`, where `make` travels by value."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._made = make, args

    def __call__(self) -> Any:
        return self._made[0](*self._made[1])

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made


def _carried(modules: Modules) -> tuple[frozenset[str], str, str]:
    """Names of the modules that travel along, the text that brings them, and what the record says of them."""
    wanted = [modules] if isinstance(modules, (str, types.ModuleType)) else list(modules)
    if not wanted:
        return frozenset(), "", ""
    from ._bundle import bundle_text, read_modules

    sources = read_modules(wanted)
    return frozenset(sources), bundle_text(sources), f" With it travel the modules {', '.join(sources)}."


def _with_head(head: str, text: str) -> str:
    future = "from __future__ import annotations\n"
    if head and text.startswith(future):
        return future + head + text[len(future) :]
    return head + text


def _pickled_with(head: str, code: bytes) -> bytes:
    if not head:
        return code
    namespace: dict[str, Any] = {"__name__": "farloom_modules", "__builtins__": builtins}
    exec("def make(head, data):\n    exec(head, {})\n    return __import__('pickle').loads(data)\n", namespace)
    return pickled(_Made(namespace["make"], head, code))


def function_name(fn: Callable[..., Any]) -> str:
    """The name in the record: letters, digits and _ . - alone."""
    inner = fn
    while isinstance(inner, (types.MethodType,)) or hasattr(inner, "func"):
        inner = inner.__func__ if isinstance(inner, types.MethodType) else inner.func
    name = getattr(inner, "__name__", None) or type(inner).__name__
    clean = re.sub(r"[^A-Za-z0-9_.-]", "", str(name)).lstrip(".-")[:128]
    return clean or "function"


def _sized(definition: FunctionDefinition) -> FunctionDefinition:
    size = len(definition.code)
    if size > MAX_CODE_BYTES:
        raise FarloomError("CODE_TOO_LARGE", size=size, limit=MAX_CODE_BYTES)
    return definition
