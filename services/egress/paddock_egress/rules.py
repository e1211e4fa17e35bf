"""What may be asked of a declared service, and with what credential."""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from paddock_egress.config.model import Configuration, Service
from paddock_egress.errors import Refusal

_ENCODED = re.compile(r"%(2e|2f|5c|00|0a|0d|25)", re.IGNORECASE)
_TARGET = re.compile(r"/[\x21-\x7e]*")


@dataclass(frozen=True)
class Rule:
    """A declared service with its credential's value. `header` is in small letters; both are empty without one."""

    name: str
    service: Service
    header: str = ""
    value: str = ""
    secrets: tuple[str, ...] = ()
    """What no answer may show: the secret itself, and the form in which it is sent."""

    def __repr__(self) -> str:
        return f"Rule({self.name})"


def rules_of(configuration: Configuration, secrets: Mapping[str, str]) -> dict[str, list[Rule]]:
    """The rules by host; `secrets` has a value for every name in the configuration."""
    found: dict[str, list[Rule]] = {}
    for name, service in configuration.services.items():
        found.setdefault(service.host, []).append(_rule(name, service, secrets))
    return found


def _rule(name: str, service: Service, secrets: Mapping[str, str]) -> Rule:
    credential = service.credential
    if credential is None:
        return Rule(name, service)
    secret = secrets[credential.secret]
    if credential.basic_user is None:
        value = credential.value.replace("{secret}", secret)
        return Rule(name, service, credential.header.lower(), value, (secret,))
    encoded = base64.b64encode(f"{credential.basic_user}:{secret}".encode()).decode()
    return Rule(name, service, "authorization", f"Basic {encoded}", (secret, encoded))


def rule_for(rules: Iterable[Rule], host: str, method: str, target: str) -> Rule:
    """The rule that lets a request pass, of those of its host; the longest path prefix counts.

    Args:
        target: of the request line: path and query.

    Raises:
        Refusal: none does.
    """
    if not _TARGET.fullmatch(target):
        raise Refusal("bad-target", "a path in the request line", "another form", "ask for /path?query")
    path, _, query = target.partition("?")
    if "#" in target or "\\" in path or _strange(path):
        # A server may read it as another path than the one that was compared.
        raise Refusal(
            "bad-path",
            f"a path of {host} without dot segments, double slashes, and encoded dots, slashes or percent signs",
            "one with them",
            "write the path out",
        )
    found = [(len(prefix), rule) for rule in rules for prefix in rule.service.paths if _below(path, prefix)]
    if not found:
        raise Refusal(
            "path-not-declared",
            f"a path of {host} that egress.yaml declares",
            f"another one ({path[:120]})",
            "ask the operator to declare it under services",
        )
    rule = max(found, key=lambda pair: pair[0])[1]
    if not _allowed(rule.service, method, path, query):
        raise Refusal(
            "method-not-declared",
            f"of {host} a request that reads"
            if rule.service.methods == "read"
            else f"of {host} {', '.join(rule.service.methods)}",
            f"{method} {path[:120]}",
            f"ask the operator to declare it: services.{rule.name}.methods in egress.yaml",
        )
    return rule


def _strange(path: str) -> bool:
    return "//" in path or bool({".", ".."} & set(path.split("/"))) or _ENCODED.search(path) is not None


def _below(path: str, prefix: str) -> bool:
    """Whether a path is the prefix or below it; `/api` means `/api` and `/api/x`, not `/apix`."""
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")


def _allowed(service: Service, method: str, path: str, query: str) -> bool:
    if service.methods != "read":
        return method in service.methods
    if method == "POST":
        # How git asks for the objects that it lacks; the body is what it wants and has.
        return path.endswith("/git-upload-pack")
    # The first step of a push is a GET.
    pushing = any(value == "git-receive-pack" for _, value in parse_qsl(query, keep_blank_values=True))
    return method in ("GET", "HEAD") and not pushing
