"""Packages are compared as the service compares them."""

import json
from pathlib import Path

import pytest

from farloom import FarloomError
from farloom._packages import parse_requirement, satisfies

VECTORS = json.loads(
    (Path(__file__).parents[2] / "packages" / "protocol" / "vectors" / "requirements.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(("text", "version", "holds"), VECTORS["holds"])
def test_version_satisfies_what_is_asked_for(text: str, version: str, holds: bool) -> None:
    assert satisfies(version, parse_requirement(text)[1]) is holds


@pytest.mark.parametrize("text", VECTORS["refused"])
def test_what_is_no_package_is_refused(text: str) -> None:
    with pytest.raises(FarloomError, match="no package as pip names them"):
        parse_requirement(text)
