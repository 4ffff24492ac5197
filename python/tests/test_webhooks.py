"""Signatures of webhooks, against the published example of Standard Webhooks, and what must not pass."""

import base64
import hashlib
import hmac

import pytest

from farloom.webhooks import verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
HEADERS = {
    "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "Webhook-Timestamp": "1614265330",
    "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
NOW_S = 1614265330.0


def test_the_published_example_passes_and_gives_its_event() -> None:
    assert verify(SECRET, HEADERS, BODY, now_s=NOW_S) == {"test": 2432232314}


def test_one_good_signature_among_others_is_enough() -> None:
    both = {**HEADERS, "Webhook-Signature": "v1,AAAA v1a,xx " + HEADERS["Webhook-Signature"]}
    assert verify(SECRET, both, BODY, now_s=NOW_S)["test"] == 2432232314


@pytest.mark.parametrize(
    ("headers", "body", "secret", "now_s"),
    [
        (HEADERS, BODY + b" ", SECRET, NOW_S),
        ({**HEADERS, "Webhook-Id": "other"}, BODY, SECRET, NOW_S),
        ({**HEADERS, "Webhook-Timestamp": "1614265331"}, BODY, SECRET, NOW_S),
        ({**HEADERS, "Webhook-Timestamp": "soon"}, BODY, SECRET, NOW_S),
        ({"Webhook-Id": "x"}, BODY, SECRET, NOW_S),
        ({**HEADERS, "Webhook-Signature": ""}, BODY, SECRET, NOW_S),
        (HEADERS, BODY, "whsec_" + base64.b64encode(b"another").decode(), NOW_S),
        (HEADERS, BODY, SECRET, NOW_S + 301),
        (HEADERS, BODY, SECRET, NOW_S - 301),
    ],
)
def test_whatever_was_changed_is_refused(headers: dict[str, str], body: bytes, secret: str, now_s: float) -> None:
    with pytest.raises(ValueError):
        verify(secret, headers, body, now_s=now_s)


def test_the_signature_is_over_id_timestamp_and_body() -> None:
    mac = hmac.new(b"key", b"1.1614265330.{}", hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(mac).decode()
    headers = {"webhook-id": "1", "webhook-timestamp": "1614265330", "webhook-signature": signature}
    assert verify("whsec_" + base64.b64encode(b"key").decode(), headers, b"{}", now_s=NOW_S) == {}
