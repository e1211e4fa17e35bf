"""What guardrails find in texts, and what they leave alone."""

import base64
import json

import pytest

from paddock_mlflow.guardrails.detectors import PII, SECRETS, Detector, luhn

CARD = "4111 1111 1111 1111"


def _token(prefix: str, length: int, alphabet: str = "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zC0fL") -> str:
    return prefix + (alphabet * 20)[:length]


def _part(content: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


FOUND = {
    "email": ["ada@example.org", "first.last+tag@mail.example.co.uk"],
    "phone": ["+1 555-123-4567", "(030) 1234-5678", "+491701234567"],
    "ssn": ["078-05-1120"],
    "credit_card": [CARD, "4111111111111111", "5500-0000-0000-0004", "378282246310005", "3782 822463 10005",
                    "6011111111111117", "30569309025904", "3530111333300000", "2223003122003222"],
    "ip_address": ["203.0.113.7"],
    "aws_access_key": ["AKIAIOSFODNN7EXAMPLE"],
    "aws_secret_key": [f"aws_secret_access_key = {_token('', 40)}", f'"AWS_SECRET_ACCESS_KEY": "{_token("", 40)}"'],
    "github_token": [_token("ghp_", 36), _token("github_pat_", 22) + "_" + _token("", 59)],
    "gitlab_token": [_token("glpat-", 20)],
    "anthropic_key": [_token("sk-ant-api03-", 95)],
    "openai_key": [_token("sk-proj-", 60), _token("sk-", 20) + "T3BlbkFJ" + _token("", 20), _token("sk-", 48)],
    "google_key": [_token("AIza", 35)],
    "slack_token": [_token("xoxb-123456789012-", 24), "https://hooks.slack.com/services/T000/B000/" + _token("", 24)],
    "stripe_key": [_token("sk_live_", 24)],
    "huggingface_token": [_token("hf_", 34)],
    "npm_token": [_token("npm_", 36)],
    "pypi_token": [_token("pypi-AgEIcHlwaS5vcmc", 60)],
    "paddock_key": [_token("pdk_", 43)],
    "private_key": [f"-----BEGIN RSA PRIVATE KEY-----\n{_token('', 64)}\n-----END RSA PRIVATE KEY-----",
                    f"-----BEGIN PRIVATE KEY-----\\n{_token('', 64)}\\n-----END PRIVATE KEY-----",
                    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{_token('', 64)}"],
    "jwt": [f"{_part({'alg': 'HS256'})}.{_part({'sub': 'ada'})}.{_token('', 43)}"],
}  # fmt: skip
BOTH = Detector(PII | SECRETS)


def test_every_kind_has_an_example() -> None:
    assert FOUND.keys() == (PII | SECRETS).keys()


@pytest.mark.parametrize("around", ["{}", "see {}.", "a={};", '"{}"', "x\\n{}\\ny", "({})", "line\n{}\nline"])
@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values]
)
def test_it_is_found_and_masked(kind: str, value: str, around: str) -> None:
    masked, kinds = BOTH.mask(around.format(value))
    assert kinds == [kind]
    assert value not in masked
    assert f"[{kind.upper()}]" in masked


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # no check digit
        "1764041000000000000",  # nanoseconds
        "1764041000123",  # milliseconds
        "0000 0000 0000 0000",
        "commit 4499112a9b1c2d3e4f5061728394a5b6c7d8e9f0",
        "550e8400-e29b-41d4-a716-446655440000",
        "call_demo_0123456789abcdef0123",
        "sha256:a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998ecf3aa54d2b12",
        "version 1.2.3, built 2026-11-25 03:26:24",
        "127.0.0.1:5000 and 0.0.0.0",
        "3.13.0.1.2",
        "123-45-67890",
        "sk-learn and sk-a-very-long-name-of-something",
        "git@github.com/owner",
        "user@host",
        "eyJhbGciOi is how a JWT begins",
        "xoxb-",
        "AKIA is a prefix",
        "pip install 'package==1.2.3.4'"[:-6],
    ],
)
def test_it_is_left_alone(text: str) -> None:
    assert BOTH.mask(text) == (text, [])


def test_what_stands_beside_a_card_number_does_not_hide_it() -> None:
    masked, kinds = BOTH.mask(f"{CARD} 12/29 123, 12 {CARD}")
    assert kinds == ["credit_card", "credit_card"]
    assert masked == "[CREDIT_CARD] 12/29 123, 12 [CREDIT_CARD]"


def test_what_overlaps_counts_once() -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{FOUND['aws_access_key'][0]}\n-----END PRIVATE KEY-----"
    assert BOTH.mask(key) == ("[PRIVATE_KEY]", ["private_key"])


def test_a_body_is_masked_at_every_depth() -> None:
    body = {
        "model": "coder",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": f"Pay with {CARD}"}]},
            {"role": "assistant", "tool_calls": [{"id": "call_1", "function": {
                "name": "pay", "arguments": json.dumps({"card": 4111111111111111, "note": f"line\n{CARD}"})}}]},
            {"role": "tool", "tool_call_id": "4111111111111111", "content": "ok"},
        ],
        "metadata": {CARD: 5500000000000004, "n": 3, "flag": True},
    }  # fmt: skip
    masked, kinds = BOTH.mask_body(body)
    assert kinds == ["credit_card"] * 5
    assert json.loads(masked["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "card": "[CREDIT_CARD]",
        "note": "line\n[CREDIT_CARD]",
    }
    assert masked["metadata"] == {"[CREDIT_CARD]": "[CREDIT_CARD]", "n": 3, "flag": True}
    assert masked["messages"][2]["tool_call_id"] == "4111111111111111", "an id is masked by nobody"
    assert body["messages"][0]["content"][0]["text"].endswith(CARD), "what was given is not changed"  # type: ignore[index]


def test_a_clean_body_is_the_same_object() -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    assert BOTH.mask_body(body)[0] is body


@pytest.mark.parametrize(
    ("digits", "right"), [("79927398713", True), ("79927398710", False), ("0000", False)]
)
def test_the_check_digit(digits: str, right: bool) -> None:
    assert luhn(digits) is right
