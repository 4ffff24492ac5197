"""A function as plain text: readable in its record, and the same on every Python minor.

The text is the function's own `def` and, before it, what it refers to: imports, constants, and helper functions of its
module. All of that is taken by value at this moment, as a pickle would take it.

  T1  The text is used only where compiling it gives the very code that the function has: a file may have been edited
      since it was imported, and a decorator or a debugger may have rewritten it.
  T2  A module is imported by name only where the worker can have it: it is installed, or travels along.
  T3  Classes of the program never travel as text: their instances could not come back.
"""

import __future__

import ast
import builtins
import dis
import importlib.machinery
import inspect
import os
import re
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Constants whose text is longer travel as a pickle.
_MAX_CONSTANT_CHARS = 4096
_FUTURE = __future__.annotations.compiler_flag
_FUTURE_LINE = "from __future__ import annotations\n"


class NotText(Exception):
    """Why a function cannot travel as text, as the end of a sentence that begins with "it"."""


@dataclass(frozen=True)
class SourceText:
    code: str
    entry: str
    why: str


def source_of(fn: Callable[..., Any], *, carried: frozenset[str] = frozenset(), decorated: bool = False) -> SourceText:
    """The text that stands for `fn`. `carried` are modules that travel along; `decorated` says that there may be
    `@farloom.function` above its `def`. Raises NotText."""
    by_name = _by_name(fn, carried)
    if by_name is not None:
        module, name = by_name
        how = "travels along" if module in carried else "is imported there"
        return SourceText(f"from {module} import {name}\n", name, f"it is {module}.{name}, which {how}")
    if type(fn) is not types.FunctionType:
        raise NotText(f"is a {type(fn).__name__}")
    text = _Text(fn.__globals__, carried)
    text.add(fn, decorated)
    _check_code(text)
    code = text.render()
    if not text.refers:
        why = "it refers to nothing outside of itself"
    else:
        why = f"what it refers to is text as well ({', '.join(sorted(text.refers))})"
    return SourceText(code, fn.__name__, why)


def _by_name(value: Any, carried: frozenset[str]) -> tuple[str, str] | None:
    """Where a value can be imported from on the worker (T2)."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not name.isidentifier():
        return None
    if getattr(sys.modules.get(module), name, None) is not value or not is_there(module, carried):
        return None
    return module, name


def is_there(module: str, carried: frozenset[str] = frozenset()) -> bool:
    """Whether a worker can import this module by its name: it is part of Python, installed, or travels along."""
    top = module.partition(".")[0]
    if module in carried or top in sys.stdlib_module_names or top == "farloom":
        return module != "__main__"
    loaded = sys.modules.get(top)
    spec: importlib.machinery.ModuleSpec | None = getattr(loaded, "__spec__", None)
    if spec is None:
        return False
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return any(os.path.realpath(place).startswith(_library_folders()) for place in places)


def _library_folders() -> tuple[str, ...]:
    global _folders
    if not _folders:
        paths = sysconfig.get_paths()
        found = {os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
        found |= {os.path.realpath(p) for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")}
        _folders = tuple(sorted(folder + os.sep for folder in found))
    return _folders


_folders: tuple[str, ...] = ()


@dataclass
class _Text:
    """Gathers what a function refers to, and writes it down in an order in which it can be read."""

    namespace: dict[str, Any]
    carried: frozenset[str]
    imports: set[str] = field(default_factory=set)
    constants: dict[str, str] = field(default_factory=dict)
    functions: dict[str, tuple[int, str]] = field(default_factory=dict)
    originals: dict[str, types.CodeType] = field(default_factory=dict)
    refers: set[str] = field(default_factory=set)
    is_annotated: bool = False

    def add(self, fn: types.FunctionType, decorated: bool = False) -> None:
        if fn.__name__ in self.functions:
            return
        node, text = _definition(fn, decorated)
        self.functions[fn.__name__] = (fn.__code__.co_firstlineno, text)
        self.originals[fn.__name__] = fn.__code__
        self.is_annotated |= _is_annotated(node)
        chains = _dotted(node)
        for name in sorted(_globals_of(fn.__code__)):
            if name in self.namespace:
                self._bind(name, self.namespace[name], chains)
            elif not hasattr(builtins, name):
                raise NotText(f"refers to {name}, which is not defined (yet)")

    def _bind(self, name: str, value: Any, chains: set[str]) -> None:
        if name.startswith("__"):
            raise NotText(f"refers to {name}")
        if name in self.functions or name in self.constants:
            return
        raw = getattr(value, "__farloom_function__", None)
        if isinstance(value, types.ModuleType):
            self._import(name, value, chains)
        elif raw is not None and raw.__globals__ is self.namespace and raw.__name__ == name:
            self._add_remote(name, value, chains)
        elif (
            type(value) is types.FunctionType
            and value.__globals__ is self.namespace
            and value.__name__ == name
            and value.__module__ not in self.carried
        ):
            self.refers.add(f"{name}()")
            self.add(value)
        elif (found := _by_name(value, self.carried) or self._as_written(name, value)) is not None:
            module, own = found
            self.imports.add(f"from {module} import {own}" + ("" if own == name else f" as {name}"))
            self.refers.add(f"{module}.{own}")
        else:
            self.constants[name] = _literal(name, value)
            self.refers.add(name)

    def _add_remote(self, name: str, value: Any, chains: set[str]) -> None:
        """Another `@farloom.function`: its plain text, or as one where it is submitted from there."""
        self.refers.add(f"{name}()")
        self.add(value.__farloom_function__, True)
        if any(chain.startswith(f"{name}.") for chain in chains):
            line, text = self.functions[name]
            self.imports.add("import farloom")
            self.functions[name] = (line, f"@farloom.function({value.__farloom_options__()})\n{text}")

    def _import(self, name: str, module: types.ModuleType, chains: set[str]) -> None:
        full = module.__name__
        if sys.modules.get(full) is not module or not is_there(full, self.carried):
            raise NotText(f"uses the module {full} of your project, which travels only when asked: modules=[{full!r}]")
        if name == full:
            self.imports.add(f"import {full}")
        else:
            package, _, last = full.rpartition(".")
            plain = f"import {full}"
            self.imports.add(f"{plain} as {name}" if not package or last != name else f"from {package} import {name}")
        # `import a.b.c` binds `a` alone: submodules that are used by their full name are imported by it.
        for chain in chains:
            parts = chain.split(".")
            if parts[0] == name:
                for n in range(len(parts), 1, -1):
                    submodule = ".".join([full, *parts[1:n]])
                    if submodule in sys.modules:
                        self.imports.add(f"import {submodule}")
                        break
        self.refers.add(full)

    def _as_written(self, name: str, value: Any) -> tuple[str, str] | None:
        """Values that do not know where they are from (`from random import random`): by the import that is written."""
        for node in _written_imports(self.namespace):
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module is not None:
                    holder = sys.modules.get(node.module)
                    if getattr(holder, alias.name, None) is value and is_there(node.module, self.carried):
                        return node.module, alias.name
        return None

    def render(self) -> str:
        parts: list[str] = []
        if self.is_annotated:
            # Annotations are evaluated at the definition: names in them would be missing there.
            parts.append(_FUTURE_LINE)
        # `import a.b` binds `a` as well.
        plain = {line for line in self.imports if " as " not in line and line.startswith("import ")}
        self.imports -= {line for line in plain if any(other.startswith(f"{line}.") for other in plain)}
        if self.imports:
            parts.append("\n".join(sorted(self.imports, key=lambda line: (line.startswith("from "), line))) + "\n")
        if self.constants:
            parts.append("\n".join(f"{name} = {text}" for name, text in self.constants.items()) + "\n")
        head = "\n".join(parts)
        body = "\n\n".join(text for _, text in sorted(self.functions.values()))
        return f"{head}\n\n{body}" if head else body


def _definition(fn: types.FunctionType, decorated: bool) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]:
    """The `def` of a function and its text. Raises NotText."""
    if fn.__name__ == "<lambda>":
        raise NotText("is a lambda")
    if fn.__closure__:
        raise NotText("is a closure")
    if fn.__dict__:
        raise NotText("has attributes, or is wrapped")
    try:
        text = textwrap.dedent(inspect.getsource(fn))
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError):
        raise NotText("has no source that can be read here") from None
    node = tree.body[0] if len(tree.body) == 1 else None
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name != fn.__name__:
        raise NotText("has no source that can be read here")
    if node.decorator_list and not (decorated and _is_ours(node.decorator_list, fn.__globals__)):
        raise NotText("is decorated")
    _check_defaults(node, fn)
    lines = text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]
    if not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    text = "".join(lines)
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and inner.level > 0:
            raise NotText("imports by a path relative to its package")
    return node, text


def _is_ours(decorators: list[ast.expr], namespace: dict[str, Any]) -> bool:
    """Whether there is one decorator alone, and it is `farloom.function`."""
    at: ast.AST = decorators[0].func if isinstance(decorators[0], ast.Call) else decorators[0]
    names: list[str] = []
    while isinstance(at, ast.Attribute):
        names.append(at.attr)
        at = at.value
    value = namespace.get(at.id) if isinstance(at, ast.Name) else None
    for name in reversed(names):
        value = getattr(value, name, None)
    return len(decorators) == 1 and bool(getattr(value, "__farloom_decorator__", False))


def _check_defaults(node: ast.FunctionDef | ast.AsyncFunctionDef, fn: types.FunctionType) -> None:
    written = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
    values = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
    try:
        same = [ast.literal_eval(default) for default in written] == values
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        same = False
    if not same:
        raise NotText("has defaults that are no plain values")


def _globals_of(code: types.CodeType) -> set[str]:
    """Global names that code reads, nested code included. Raises NotText where it does more than that."""
    names: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            raise NotText(f"changes the global {step.argval}")
        if step.opname == "LOAD_BUILD_CLASS":
            raise NotText("defines a class")
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(str(step.argval))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= _globals_of(inner)
    return names


def _check_code(text: "_Text") -> None:
    """T1. How an attribute is called depends on whether its name is imported beside it, as in a file, or in another
    cell: so each function is compiled alone and with everything. Raises NotText."""
    whole = _compiled(text.render())
    for name, (_, own) in text.functions.items():
        original = text.originals[name]
        future = _FUTURE_LINE if original.co_flags & _FUTURE else ""
        alone = _compiled(future + own)
        found = [code for code in (whole.get(name), alone.get(name)) if code is not None]
        if not any(_same(code, original) for code in found):
            raise NotText("is not the code that its file has now")


def _compiled(text: str) -> dict[str, types.CodeType]:
    try:
        module = compile(text, "<farloom>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        raise NotText("has no source that can be read here") from None
    return {code.co_name: code for code in module.co_consts if isinstance(code, types.CodeType)}


def _same(a: types.CodeType, b: types.CodeType) -> bool:
    if a.co_code != b.co_code or a.co_names != b.co_names or a.co_varnames != b.co_varnames:
        return False
    ours, theirs = list(_constants(a)), list(_constants(b))
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, types.CodeType) and isinstance(other, types.CodeType):
            if not _same(one, other):
                return False
        elif type(one) is not type(other) or (repr(one) != repr(other) and one != other):
            return False
    return True


def _constants(code: types.CodeType) -> Iterator[Any]:
    # Python 3.10 keeps qualified names of nested functions here, which say where the outer one was defined.
    return (value for value in code.co_consts if not (isinstance(value, str) and "<locals>" in value))


def _is_annotated(node: ast.AST) -> bool:
    for inner in ast.walk(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.returns is not None:
            return True
        if isinstance(inner, ast.arg) and inner.annotation is not None:
            return True
    return False


def _dotted(node: ast.AST) -> set[str]:
    """Every `a.b.c` in the code."""
    chains: set[str] = set()
    for inner in ast.walk(node):
        names: list[str] = []
        at: ast.AST = inner
        while isinstance(at, ast.Attribute):
            names.append(at.attr)
            at = at.value
        if isinstance(at, ast.Name) and names:
            chains.add(".".join([at.id, *reversed(names)]))
    return chains


def _literal(name: str, value: Any) -> str:
    """The text of a constant. Raises NotText."""
    text = ""
    if _is_plain(value):
        text = repr(value)
        if len(text) > _MAX_CONSTANT_CHARS or re.search(r"\b(nan|inf)\b", text):
            text = ""
    if not text:
        kind = "the class" if isinstance(value, type) else f"a {type(value).__name__},"
        raise NotText(f"refers to {kind} {name} of its surroundings")
    return text


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in (int, float, complex, str, bytes, bool, type(None)):
        return True
    if kind in (list, tuple):
        return all(_is_plain(item) for item in value)
    if kind is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return kind is set and len(value) > 0 and all(_is_plain(item) for item in value)


def _written_imports(namespace: dict[str, Any]) -> list[ast.ImportFrom]:
    """The absolute `from … import …` at the top of a module's file, or of a notebook's cells."""
    texts: list[str] = []
    cells = namespace.get("In")
    if isinstance(cells, list) and "get_ipython" in namespace:
        texts = [cell for cell in cells if isinstance(cell, str)]
    else:
        import linecache

        file = namespace.get("__file__")
        if isinstance(file, str):
            texts = ["".join(linecache.getlines(file, namespace))]
    found: list[ast.ImportFrom] = []
    for text in texts:
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError):
            # A cell with magics in it.
            continue
        found += [node for node in body if isinstance(node, ast.ImportFrom) and node.level == 0]
    return found
