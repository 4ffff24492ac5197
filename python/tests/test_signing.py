"""Signing: the golden vectors that the TypeScript tests read too, and calls over an agent that enforces trust."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from fabric import AGENT, ROOT, Fabric, Program, clean_env

import farloom
from farloom import _signing
from farloom._signing import FUNCTION_TYPE, INVOCATION_TYPE, Signer

VECTORS = json.loads((ROOT / "packages/protocol/vectors/trust.json").read_text())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "ada.pem"
    path.write_text(VECTORS["key"]["pem"])
    path.chmod(0o600)
    return path


def test_the_same_key_and_statement_give_the_same_envelope_as_in_typescript(key_file: Path) -> None:
    signer = Signer(str(key_file))
    assert signer.key_id == VECTORS["key"]["keyId"]
    assert VECTORS["key"]["line"] == f"ed25519:{base64.b64encode(signer.public_key).decode()} ada"
    for one in VECTORS["functions"]:
        assert signer.envelope(FUNCTION_TYPE, one["statement"]) == one["envelope"]
    call = VECTORS["invocation"]
    assert signer.envelope(INVOCATION_TYPE, call["statement"]) == call["envelope"]
    assert (VECTORS["functionType"], VECTORS["invocationType"]) == (FUNCTION_TYPE, INVOCATION_TYPE)


def test_what_is_signed_is_encoded_as_dsse_says() -> None:
    for one in VECTORS["pae"]:
        assert _signing.pre_auth_encoding(one["type"], one["payload"].encode()).hex() == one["hex"]


def test_options_of_a_call_have_the_same_digest_as_in_typescript() -> None:
    call = VECTORS["invocation"]
    assert _signing.options_digest(call["options"]) == call["statement"]["options"]
    assert _signing.options_digest({"timeoutMs": 5, "env": {}}) == VECTORS["optionsOfNothing"]
    assert _signing.options_digest(None) == VECTORS["optionsOfNothing"]


def test_a_key_that_others_can_read_or_that_is_none_is_refused(key_file: Path) -> None:
    key_file.chmod(0o644)
    with pytest.raises(farloom.FarloomError, match="others can read"):
        Signer(str(key_file))
    key_file.chmod(0o600)
    key_file.write_text("nothing")
    with pytest.raises(farloom.FarloomError, match="no PEM file"):
        Signer(str(key_file))
    with pytest.raises(farloom.FarloomError, match="farloom keys sign-key create"):
        Signer("no-such-key")


def test_an_endpoint_that_enforces_runs_what_is_signed_and_nothing_else(fabric: Fabric, key_file: Path) -> None:
    agent = fabric.agent("strict", workers=1, env={"FARLOOM_AGENT_TRUST": "enforce"})
    assert agent.process is not None
    state = ["--state-dir", str(fabric.folder / "agent-strict")]
    add = ["trust", "add", VECTORS["key"]["line"], "--function", "*/*", *state]
    # The running agent hears of it by itself.
    program = Program("trust", [str(AGENT), *add], clean_env(), fabric.folder)
    program.start("ada")
    program.stop()

    def double(x: int) -> int:
        return 2 * x

    def length(data: bytes) -> int:
        return len(data)

    signed = farloom.Client(fabric.url, api_key=fabric.key, endpoint="strict", sign_key=str(key_file))
    plain = farloom.Client(fabric.url, api_key=fabric.key, endpoint="strict")
    try:
        with farloom.Executor("strict", client=signed, env={"A": "ü"}, cores=1, retries=1) as ex:
            assert ex.submit(double, 4).result(60) == 8
            assert list(ex.map(double, range(20))) == [2 * x for x in range(20)]
            assert ex.submit(length, bytes(300_000)).result(60) == 300_000
        with farloom.Executor("strict", client=plain) as ex:
            unsigned = ex.submit(lambda: 1)
            # The function is trusted, but its arguments come pickled, which is code.
            pickled = ex.submit_registered(signed.function_digest("double"), b"\x80\x05]\x94(K\x01K\x02e.")
            for future, why in ((unsigned, "nobody has signed it"), (pickled, "nobody has signed this call")):
                with pytest.raises(farloom.TaskFailedError, match=why):
                    future.result(60)
    finally:
        signed.close()
        plain.close()


def test_a_service_that_keeps_something_else_gets_no_signature(key_file: Path) -> None:
    from farloom.shipping import FunctionDefinition

    definition = FunctionDefinition("f", "source", b"def f():\n    pass\n", "f")
    info = {"id": hashlib.sha256(b"other").hexdigest(), "name": "f", "ref": "me/f@1"}
    with pytest.raises(farloom.FarloomError, match="what was given is"):
        Signer(str(key_file)).sign_registered(None, definition, info)  # type: ignore[arg-type]
