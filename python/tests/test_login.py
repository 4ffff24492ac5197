"""A login instead of an API key: read from the file that `farloom login` writes, refreshed by itself, shared by
programs that run at once. The login is made as a person makes one: in a browser, against the real service."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fabric import Fabric

import farloom

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
PASSWORD = "correct horse battery"


def log_in(fabric: Fabric, path: Path) -> None:
    """Sets a password for the owner of everything here, approves a program, and writes what it gets."""
    token = fabric.request("POST", "/v1/accounts", {"name": "me"})["token"]
    with httpx.Client(base_url=fabric.url, follow_redirects=True) as browser:

        def send(page: str, **fields: str) -> httpx.Response:
            hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', browser.get(page).text)
            form = page.split("?")[0]
            return browser.post(form, data=dict(hidden) | fields, headers={"origin": fabric.url})

        assert send("/setup", token=token, name="me", password=PASSWORD).status_code == 200
        begun = browser.post("/v1/oauth/device", json={"client_id": "pytest"}).json()
        approved = send(f"/device?user_code={begun['user_code']}", decision="approve")
        assert "Approved" in approved.text
        asked = {"grant_type": DEVICE, "device_code": begun["device_code"]}
        answer = browser.post("/v1/oauth/token", json=asked).json()
    login = {"accessToken": answer["access_token"], "refreshToken": answer["refresh_token"], "expiresAtMs": 0}
    path.write_text(json.dumps({"url": fabric.url, "endpoint": "main", "login": login}))


def test_a_login_is_refreshed_and_shared_by_programs_that_run_at_once(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    log_in(fabric, path)
    before = json.loads(path.read_text())["login"]
    monkeypatch.delenv("FARLOOM_API_KEY")
    monkeypatch.setenv("FARLOOM_CONFIG", str(path))
    # Its access token has expired: all of them find that at once, and one refreshes.
    program = "import farloom; print(farloom.Client().rest.json('GET', '/v1/me')['owner'])"
    env = {name: value for name, value in fabric.env.items() if name != "FARLOOM_API_KEY"}
    env |= {"FARLOOM_CONFIG": str(path)}
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [child.communicate(timeout=60)[0].strip() for child in started] == ["me"] * 3
    after = json.loads(path.read_text())["login"]
    assert after["refreshToken"] != before["refreshToken"]
    assert "nonce" not in after
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / "config.json.lock").exists()

    with farloom.Executor() as executor:
        assert executor.submit(divmod, 7, 2).result(60) == (3, 1)
        # An answer that was lost is asked for again; what the service calls expired is exchanged.
        executor.client.rest.json("GET", "/v1/me")
        nonce = "n" * 43
        request = {"grant_type": "refresh_token", "refresh_token": after["refreshToken"], "nonce": nonce}
        assert httpx.post(f"{fabric.url}/v1/oauth/token", json=request).status_code == 200
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "login": {**after, "nonce": nonce, "expiresAtMs": 0}}))
        executor.client.config.expired()
        assert executor.client.rest.json("GET", "/v1/me")["owner"] == "me"
        assert "nonce" not in json.loads(path.read_text())["login"]

    # A login that was ended says what to do.
    latest = json.loads(path.read_text())["login"]
    httpx.post(f"{fabric.url}/v1/oauth/revoke", json={"token": latest["refreshToken"]})
    path.write_text(json.dumps({**config, "login": {**latest, "expiresAtMs": 0}}))
    client = farloom.Client(fabric.url)
    client.config.expired()
    with pytest.raises(farloom.FarloomError, match="farloom login") as caught:
        client.rest.json("GET", "/v1/me")
    assert caught.value.code == "REFRESH_INVALID"
