"""Modules of a project that travel with its functions, as text.

The worker finds them before it looks anywhere else. They are real modules there: instances of their classes come back
as instances of the same classes here. A worker holds one version of a module, the one that was loaded last.
"""

import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterable

from ._errors import FarloomError

# Runs on the worker, at the head of the function's code.
LOADER = '''\
def _farloom_modules(sources):
    """Makes these modules importable: name -> (whether it is a package, text)."""
    import hashlib, importlib.util, linecache, sys

    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()

    class Modules:
        farloom_names = set(sources)

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name not in sources:
                return None
            return importlib.util.spec_from_loader(name, Modules, origin="farloom", is_package=sources[name][0])

        @staticmethod
        def create_module(spec):
            return None

        @staticmethod
        def exec_module(module):
            text, file = sources[module.__name__][1], "<farloom %s>" % module.__name__
            linecache.cache[file] = (len(text), None, text.splitlines(True), file)
            module.__file__ = file
            module._farloom_digest = digest
            exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)

    if any(getattr(sys.modules.get(name), "_farloom_digest", digest) != digest for name in sources):
        for name in sources:
            sys.modules.pop(name, None)
    others = [f for f in sys.meta_path if not (getattr(f, "farloom_names", set()) & Modules.farloom_names)]
    sys.meta_path[:] = [Modules] + others
    if any("farloom" in text for _, text in sources.values()):
        import farloom

        if not hasattr(farloom, "function"):
            # Without the package of that name a decorated function is the plain one: it runs there.
            farloom.function = lambda fn=None, **options: fn or (lambda fn: fn)
'''


def read_modules(modules: Iterable[types.ModuleType | str]) -> dict[str, tuple[bool, str]]:
    """Names to (is a package, text), with everything below a package. Raises FarloomError FUNCTION_INVALID."""
    found: dict[str, tuple[bool, str]] = {}
    for module in modules:
        name = module if isinstance(module, str) else module.__name__
        parts = name.split(".")
        for n in range(1, len(parts)):
            parent = ".".join(parts[:n])
            if parent not in found:
                found[parent] = (True, _text_of(_spec_of(parent)))
        spec = _spec_of(name)
        folders = spec.submodule_search_locations
        found[name] = (folders is not None, _text_of(spec))
        for folder in folders or ():
            _read_folder(name, folder, found)
    return found


def _spec_of(name: str) -> importlib.machinery.ModuleSpec:
    spec: importlib.machinery.ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None and name != "__main__":
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:
            spec = None
    if spec is None:
        raise FarloomError("FUNCTION_INVALID", detail=f"the module {name} of modules=[…] is not found here")
    return spec


def _text_of(spec: importlib.machinery.ModuleSpec) -> str:
    if spec.origin is None or not spec.has_location:
        if spec.submodule_search_locations is not None:
            # A folder without __init__.py.
            return ""
    elif spec.origin.endswith(".py"):
        return _read(spec.origin)
    detail = f"the module {spec.name} has no Python source, so it cannot travel: install it on the endpoint"
    raise FarloomError("FUNCTION_INVALID", detail=detail)


def _read(path: str) -> str:
    # As Python reads it: by its coding line, with plain line ends.
    import tokenize

    with tokenize.open(path) as file:
        return file.read()


def _read_folder(package: str, folder: str, found: dict[str, tuple[bool, str]]) -> None:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        stem, extension = os.path.splitext(entry.name)
        if entry.is_file() and extension == ".py" and stem.isidentifier() and stem != "__init__":
            found[f"{package}.{stem}"] = (False, _read(entry.path))
        elif entry.is_dir() and entry.name.isidentifier() and entry.name != "__pycache__":
            init = os.path.join(entry.path, "__init__.py")
            if os.path.exists(init):
                found[f"{package}.{entry.name}"] = (True, _read(init))
                _read_folder(f"{package}.{entry.name}", entry.path, found)


def bundle_text(sources: dict[str, tuple[bool, str]]) -> str:
    """The head of a function's code that brings these modules; to be read by people, so a line is a line."""
    parts = [LOADER, "\n\n_farloom_modules(\n    {\n"]
    for name, (is_package, text) in sources.items():
        lines = text.splitlines(keepends=True)
        body = "".join(f"            {line!r}\n" for line in lines) or "            ''\n"
        parts.append(f"        {name!r}: (\n            {is_package},\n{body}        ),\n")
    parts.append("    }\n)\n\n\n")
    return "".join(parts)
