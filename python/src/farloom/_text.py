"""Functions that exist as text alone: what a drop-in runs on a worker, which need not have this package."""

from collections.abc import Mapping
from typing import Any

from .shipping import FunctionDefinition


class TextFunction:
    """To be given to an executor in the place of a function. It needs there what its text imports."""

    def __init__(self, entry: str, text: str, why: str) -> None:
        self._entry = entry
        self._text = text
        self._why = why

    def __farloom_definition__(self, options: Mapping[str, Any]) -> FunctionDefinition:
        code = self._text.encode()
        return FunctionDefinition(self._entry, "source", code, self._entry, None, self._why, {**options})

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self._entry} runs on workers alone")
