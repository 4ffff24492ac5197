"""One fabric for all tests; whoever kills something asks for one of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabric import Fabric

import farloom

SETTINGS = ("FARLOOM_URL", "FARLOOM_API_KEY", "FARLOOM_ENDPOINT", "FARLOOM_CONFIG")


@pytest.fixture(scope="session")
def fabric() -> Iterator[Fabric]:
    """The fabric whose settings are in this process's environment."""
    before = {name: os.environ.pop(name, None) for name in SETTINGS}
    running = Fabric().start()
    os.environ |= {
        "FARLOOM_URL": running.url,
        "FARLOOM_API_KEY": running.key,
        "FARLOOM_ENDPOINT": "main",
        "FARLOOM_CONFIG": str(running.folder / "none.json"),
    }
    try:
        yield running
    finally:
        running.close()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@pytest.fixture
def own_fabric() -> Iterator[Fabric]:
    """A fabric for a test that kills parts of it."""
    running = Fabric().start()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def executor(fabric: Fabric) -> Iterator[farloom.Executor]:
    with farloom.Executor() as ex:
        yield ex


@pytest.fixture
def own_client(own_fabric: Fabric) -> Iterator[farloom.Client]:
    client = farloom.Client(own_fabric.url, api_key=own_fabric.key, endpoint="main")
    yield client
    client.close(timeout_s=5)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--counts", help="a file that becomes JSON: passed, failed and skipped")


def pytest_terminal_summary(terminalreporter: object, config: pytest.Config) -> None:
    """The counts for `npm test`: an error is a failed test."""
    file = config.getoption("--counts")
    if not file:
        return
    stats: dict[str, list[object]] = getattr(terminalreporter, "stats", {})
    counts = {name: len(stats.get(name, [])) for name in ("passed", "failed", "skipped")}
    counts["failed"] += len(stats.get("error", []))
    Path(file).write_text(json.dumps(counts))
