"""What looks for secrets in a fabric finds what is planted; every fabric of these tests is looked at (fabric.py, 4)."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

from secret_scan import told, told_by_arguments

KEY = f"fl_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


def test_a_secret_in_a_file_is_found_unless_the_file_is_there_to_hold_it(tmp_path: Path) -> None:
    (tmp_path / "agent-main/blocks").mkdir(parents=True)
    (tmp_path / "agent-main/agent.log").write_text(f'{{"level":30,"msg":"with {KEY}"}}\n')
    (tmp_path / "agent-main/blocks/door.json").write_text(KEY)
    (tmp_path / "api-key").write_text(KEY)
    assert list(told(tmp_path)) == ["an API key in the file agent-main/agent.log"]


def test_a_secret_in_a_command_line_is_found_and_not_shown() -> None:
    child = subprocess.Popen(["sh", "-c", "echo; read line", KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # Its command line is its own now.
        found = list(told_by_arguments(child.pid))
    finally:
        child.communicate(b"\n")
    assert found == ["an API key in the command line of sh"]
