"""Finding personal data and keys in texts by their form, and masking them.

The kinds of personal data are those of MLflow's `PIIDetection`, whose own patterns take any ten digits for a telephone
number and any sixteen for a card; here a card number must have its check digit, and no kind begins or ends within a
word. Keys are known by the forms that their issuers publish, so that a hash or an id is none.
"""

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


def _after(characters: str) -> str:
    """Not right after these characters; after an escaped line end or tab of a JSON text, though, whatever its letter."""
    return rf"(?:(?<![{characters}])|(?<=\\[nrt]))"


_BEGIN, _END = _after("A-Za-z0-9_"), r"(?![A-Za-z0-9_])"

PII = {
    "email": _after(r"\w.+-")
    + r"(?!git@)[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])",
    "phone": _after(r"\w.+/-") + r"(?<!\d )(?:(?:\+[1-9]\d{0,2}[ .-]?)?\(\d{2,4}\)[ .-]?\d{3,4}[ .-]\d{3,4}"
    r"|\+[1-9]\d{0,2}(?:[ .-]\d{2,4}){2,4}|(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}|\+[1-9]\d{7,14})(?![\w-]|[ .]\d)",
    "ssn": _after(r"\w-") + r"(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])",
    "credit_card": _after(r"\w.-")
    + r"(?:\d{13,19}|\d{4}(?P<sep>[ -])\d{4}(?P=sep)\d{4}(?P=sep)\d{4}|\d{4}(?P<two>[ -])\d{6}(?P=two)\d{4,5})"
    r"(?![\w-]|\.\d)",
    "ip_address": _after(r"\w.")
    + r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?!\w|\.\d)",
}
"""Kind → pattern. The kinds are those of MLflow's PIIDetection."""

SECRETS = {
    "private_key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]{0,16000}?-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*)",
    "aws_access_key": _BEGIN + r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}" + _END,
    "aws_secret_key": r"(?i:aws_?secret_?(?:access_?)?key)[\"'\\]{0,3}\s{0,3}[=:]\s{0,3}[\"'\\]{0,3}"
    r"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    "github_token": _BEGIN
    + r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})"
    + _END,
    "gitlab_token": _BEGIN + r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_-]{20,64}" + _END,
    "anthropic_key": _BEGIN + r"sk-ant-[A-Za-z0-9]{2,16}-[A-Za-z0-9_-]{20,200}" + _END,
    "openai_key": _BEGIN
    + r"sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,200}|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}|[A-Za-z0-9]{48})"
    + _END,
    "google_key": _BEGIN + r"AIza[A-Za-z0-9_-]{35}" + _END,
    "slack_token": _BEGIN
    + r"(?:xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{10,250})"
    + _END
    + r"|https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,200}",
    "stripe_key": _BEGIN + r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,247}" + _END,
    "huggingface_token": _BEGIN + r"hf_[A-Za-z0-9]{34,64}" + _END,
    "npm_token": _BEGIN + r"npm_[A-Za-z0-9]{36}" + _END,
    "pypi_token": _BEGIN + r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}",
    "paddock_key": _BEGIN + r"pdk_[A-Za-z0-9_-]{43}" + _END,
    "jwt": _BEGIN + r"eyJ[A-Za-z0-9_-]{10,4000}\.eyJ[A-Za-z0-9_-]{10,8000}\.[A-Za-z0-9_-]{16,2000}" + _END,
}
"""Kind → pattern. Sources: the issuers' documentation, and the rules of Yelp/detect-secrets and gitleaks/gitleaks."""

_SKIPPED = frozenset(
    {
        "id",
        "call_id",
        "tool_call_id",
        "tool_use_id",
        "item_id",
        "response_id",
        "responseId",
        "type",
        "role",
        "model",
        "object",
        "finish_reason",
        "stop_reason",
        "encrypted_content",
        "signature",
        "thoughtSignature",
        "provider",
    }
)
"""Fields that name or sign something: their values are made by programs, and masked they would mean nothing."""

_MAX_REMEMBERED = 50_000


@dataclass(frozen=True)
class Finding:
    """Where a text holds what; `start` and `end` as of a slice."""

    kind: str
    start: int
    end: int


class Detector:
    """Looks for some kinds. Remembers, by digest, texts in which there was nothing: an agent sends each again and again.

    Args:
        patterns: kind → pattern.
    """

    def __init__(self, patterns: dict[str, str]) -> None:
        self._patterns = {
            kind: (re.compile(pattern), _CHECKS.get(kind)) for kind, pattern in patterns.items()
        }
        self._clean: OrderedDict[bytes, None] = OrderedDict()

    def find(self, text: str) -> list[Finding]:
        """What a text holds, in its order; what overlaps counts once."""
        if len(text) < 7:
            return []
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        if digest in self._clean:
            return []
        found = sorted(self._matches(text), key=lambda one: (one.start, -one.end))
        if not found:
            self._clean[digest] = None
            if len(self._clean) > _MAX_REMEMBERED:
                self._clean.popitem(last=False)
        distinct: list[Finding] = []
        for one in found:
            if not distinct or one.start >= distinct[-1].end:
                distinct.append(one)
        return distinct

    def mask(self, text: str) -> tuple[str, list[str]]:
        """The text with `[EMAIL]` and the like in the place of what was found, and the kinds."""
        kinds, parts, position = [], [], 0
        for one in self.find(text):
            kinds.append(one.kind)
            parts += [text[position : one.start], f"[{one.kind.upper()}]"]
            position = one.end
        return ("".join([*parts, text[position:]]) if kinds else text), kinds

    def mask_body(self, body: Any) -> tuple[Any, list[str]]:
        """A JSON value with every text in it masked, and the kinds that were found; the same object where none was."""
        kinds: list[str] = []
        masked = self._walk(body, kinds)
        return (masked if kinds else body), kinds

    def _matches(self, text: str) -> Iterator[Finding]:
        for kind, (pattern, check) in self._patterns.items():
            for match in pattern.finditer(text):
                if check is None or check(match.group()):
                    yield Finding(kind, match.start(), match.end())

    def _walk(self, value: Any, kinds: list[str]) -> Any:
        if isinstance(value, str):
            return self._masked_text(value, kinds)
        if isinstance(value, dict):
            return {
                self._masked_text(key, kinds): item
                if key in _SKIPPED and isinstance(item, str)
                else self._walk(item, kinds)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._walk(item, kinds) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**11:
            # A card number may stand as a number in a tool's arguments.
            text = str(value)
            masked = self._masked_text(text, kinds)
            return value if masked == text else masked
        return value

    def _masked_text(self, text: str, kinds: list[str]) -> str:
        if text.startswith("data:") and ";base64," in text[:200]:
            return text
        if text[:1] in ("{", "[") and (parsed := _container(text)) is not None:
            # A tool's arguments: masked as a text, a number in them would leave no JSON.
            found: list[str] = []
            masked = self._walk(parsed, found)
            kinds += found
            return json.dumps(masked, ensure_ascii=False) if found else text
        masked, found = self.mask(text)
        kinds += found
        return masked


def _container(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def luhn(text: str) -> bool:
    """Whether the digits of a text end in their check digit (ISO/IEC 7812-1, annex B), and are not all the same."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return any(len(digits) in lengths and prefix.match(digits) for prefix, lengths in _ISSUERS) and luhn(
        digits
    )


_ISSUERS = [
    (re.compile(prefix), lengths)
    for prefix, lengths in (
        ("4", (13, 16, 19)),  # Visa
        ("5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)", (16,)),  # Mastercard
        ("3[47]", (15,)),  # American Express
        ("6(?:011|5|4[4-9])", (16, 19)),  # Discover
        ("3(?:0[0-5]|[689])", (14, 16)),  # Diners Club
        ("35(?:2[89]|[3-8])", (16, 19)),  # JCB
        ("62|81", (16, 17, 18, 19)),  # UnionPay
        ("50|5[6-9]|6[37]", (16,)),  # Maestro
    )
]


def _is_jwt(text: str) -> bool:
    head = text.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except ValueError:
        return False
    return isinstance(header, dict) and "alg" in header


def _is_public_address(text: str) -> bool:
    # Loopback, "any" and version numbers such as 1.2.3.4 stand in every project.
    return not text.startswith(("127.", "0.")) and text != "255.255.255.255"


_CHECKS: dict[str, Callable[[str], bool]] = {
    "credit_card": _is_card,
    "jwt": _is_jwt,
    "ip_address": _is_public_address,
}
