"""docs/guide-python.md does what it says: every block of it runs, and what it shows is what comes.

1. Python blocks run in order in one namespace, as the cells of a notebook.
2. TypeScript blocks run in order as one program, after the compiler has taken it in the strictest mode.
3. Shell blocks (CLI and curl) run in order in one shell, that ends with the first command that fails.
4. The blocks of the drop-ins run each by itself, where their libraries are installed. The one of Lithops (its info
   string is not `python` alone) is not run here: its endpoint needs lithops; test_parsl_lithops.py does the same calls.
5. A `text` block is what the block before it prints on standard output.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import linecache
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fabric import ROOT, Fabric

GUIDE = ROOT / "docs/guide-python.md"
TABS = ("Python", "TypeScript", "CLI", "curl")
MARK = "—— end of the block ——"


class Block(NamedTuple):
    line: int
    kind: str
    code: str
    shown: str | None


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        kind, code = match[1], match[2]
        if kind == "text":
            assert found and found[-1].shown is None
            found[-1] = found[-1]._replace(shown=code)
        else:
            found.append(Block(text[: match.start()].count("\n") + 2, kind, code, None))
    return found


MAIN, DROPINS = GUIDE.read_text().split("## Drop-ins\n")
ALL = blocks(MAIN)


def of(kind: str) -> list[Block]:
    chosen = [block for block in ALL if block.kind == kind]
    assert chosen, f"the guide has no {kind} block"
    return chosen


@pytest.fixture(scope="module")
def settings(fabric: Fabric) -> Iterator[dict[str, str]]:
    """A fabric with an endpoint that has this package, as the guide's reader has it."""
    fabric.agent("guide", workers=3, env={"PYTHONPATH": fabric.env["PYTHONPATH"]})
    env = fabric.env | {"FARLOOM_ENDPOINT": "guide"}
    before = os.environ["FARLOOM_ENDPOINT"]
    os.environ["FARLOOM_ENDPOINT"] = "guide"
    yield env
    os.environ["FARLOOM_ENDPOINT"] = before


def program(folder: Path) -> Path:
    """`farloom` on the path."""
    script = folder / "bin/farloom"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec node "{ROOT}/packages/cli/bin/farloom.js" "$@"\n')
    script.chmod(0o755)
    return script.parent


def check(told: list[str], chosen: list[Block], rest: str = "") -> None:
    for block, output in zip(chosen, told, strict=False):
        if block.shown is not None:
            assert output == block.shown, f"line {block.line} of the guide: {rest}"
    assert len(told) == len(chosen), f"the block in line {chosen[len(told)].line} of the guide failed:\n{rest}"


def test_every_thing_has_its_four_tabs() -> None:
    parts = re.split(r"^## ", MAIN, flags=re.MULTILINE)[1:]
    assert len(parts) >= 10
    for part in parts:
        assert tuple(re.findall(r"<summary><b>(.+?)</b></summary>", part)) == TABS, part.splitlines()[0]
    assert {block.kind for block in ALL} == {"python", "ts", "sh"}


def test_the_python_blocks_run_as_a_notebook(settings: dict[str, str]) -> None:
    namespace: dict[str, Any] = {"__name__": "guide"}
    for block in of("python"):
        name = f"<guide, line {block.line}>"
        # A function's text is looked for there, as a notebook's cells are.
        linecache.cache[name] = (len(block.code), None, block.code.splitlines(True), name)
        ast.parse(block.code)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.code, name, "exec"), namespace)
        if block.shown is not None:
            assert out.getvalue() == block.shown, f"line {block.line} of the guide"


@pytest.mark.parametrize("block", blocks(DROPINS), ids=lambda block: f"line-{block.line}")
def test_the_blocks_of_the_drop_ins_run(settings: dict[str, str], block: Block, tmp_path: Path) -> None:
    for library in re.findall(r"^(?:import|from) (\w+)", block.code, re.MULTILINE):
        pytest.importorskip(library)
    script = tmp_path / "block.py"
    script.write_text(block.code)
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=110
    )
    assert ran.returncode == 0, ran.stderr


def test_the_typescript_blocks_are_one_program(settings: dict[str, str], tmp_path: Path) -> None:
    chosen = of("ts")
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    options: dict[str, Any] = {"target": "es2022", "module": "nodenext", "strict": True, "types": ["node"]}
    options |= {"skipLibCheck": True, "noEmitOnError": True, "rootDir": ".", "outDir": "out"}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["guide.ts"]}))
    (tmp_path / "guide.ts").write_text("".join(f'{block.code}console.log("{MARK}");\n' for block in chosen))
    compiler = ["node", str(ROOT / "node_modules/typescript/bin/tsc"), "-p", "."]
    built = subprocess.run(compiler, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert built.returncode == 0, built.stdout
    ran = subprocess.run(
        ["node", "out/guide.js"], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=100
    )
    check(ran.stdout.split(f"{MARK}\n")[:-1], chosen, ran.stderr)
    assert ran.returncode == 0, ran.stderr


def test_the_shell_blocks_run_in_one_shell(settings: dict[str, str], tmp_path: Path) -> None:
    chosen = of("sh")
    path = f"{program(tmp_path)}{os.pathsep}{settings['PATH']}"
    env = settings | {"PATH": path, "FARLOOM_CONFIG": str(tmp_path / "none.json"), "NO_COLOR": "1"}
    script = "set -eu -o pipefail\n" + "".join(f'{block.code}echo "{MARK}"\n' for block in chosen)
    work = tmp_path / "work"
    work.mkdir()
    ran = subprocess.run(["bash", "-c", script], cwd=work, env=env, capture_output=True, text=True, timeout=110)
    check(ran.stdout.split(f"{MARK}\n")[:-1], chosen, ran.stderr)
    assert ran.returncode == 0, ran.stderr
