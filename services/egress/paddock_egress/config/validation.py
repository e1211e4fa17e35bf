"""The file against its form and itself: every error at once, each with its line."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paddock_egress.config import model
from paddock_egress.config.errors import InvalidConfiguration, Problem
from paddock_egress.config.model import Configuration, Service
from paddock_egress.config.source import Source, Steps, read

_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Configuration,
    ("defaults",): model.Defaults,
    ("limits",): model.Limits,
    ("services", "*"): Service,
    ("services", "*", "credential"): model.Credential,
}
_OF_THE_STACK = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "LLM_API_KEY", "DEMO_API_KEY")
_OF_THE_STACK_PREFIXES = ("S3_", "POSTGRES_", "PADDOCK_", "EGRESS_", "KEK_")
_NO_CREDENTIAL = (
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect", "host",
    "keep-alive", "proxy-authorization", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
)  # fmt: skip
_SHOWN = 60


def load(path: Path) -> Configuration:
    """Read and check a file. Whether its secrets have values is not looked at.

    Raises:
        InvalidConfiguration: with every problem of the file.
    """
    return check(read(path))


def check(source: Source) -> Configuration:
    """As `load`, of what was read already."""
    problems = list(source.problems)
    configuration: Configuration | None = None
    try:
        configuration = Configuration.model_validate(source.data)
    except ValidationError as error:
        problems += [_translated(source, found) for found in error.errors(include_url=False)]
    else:
        problems += _rules(source, configuration)
    if problems or configuration is None:
        raise InvalidConfiguration(source.file, list(dict.fromkeys(problems)))
    return configuration


def _translated(source: Source, error: ErrorDetails) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    # pydantic names the branch of a union and the key of a mapping among the steps.
    steps: Steps = tuple(
        step for step in error["loc"] if step != "[key]" and not str(step).startswith(("literal[", "list["))
    )
    if kind == "missing":
        return source.problem(steps, f"a field `{steps[-1]}`", "none", f"add `{steps[-1]}:`")
    if kind == "extra_forbidden":
        known = _fields_at(steps[:-1])
        near = difflib.get_close_matches(str(steps[-1]), known, n=1)
        remedy = f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(known)}"
        return source.problem(steps, "a field that is known here", f"`{steps[-1]}`", remedy)
    if kind == "string_pattern_mismatch":
        expected, remedy = _form(steps, is_key="[key]" in error["loc"])
        return source.problem(steps, expected, _shown(error["input"]), remedy)
    expected = {
        "literal_error": str(context.get("expected", "")).replace(" or ", ", "),
        "greater_than_equal": f"a number of at least {context.get('ge')}",
        "less_than_equal": f"a number of at most {context.get('le')}",
        "too_short": "at least one entry",
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "string_type": "a text",
        "string_too_long": f"a text of at most {context.get('max_length')} characters",
        "list_type": "a list",
        "dict_type": "a mapping of names",
        "model_type": "a mapping of fields",
    }.get(kind, error["msg"])
    return source.problem(
        steps, expected, _shown(error["input"]), "mend it; docs/egress.md has the whole form"
    )


def _form(steps: Steps, *, is_key: bool) -> tuple[str, str]:
    """What a text should look like, and how to mend it."""
    field = next((step for step in reversed(steps) if isinstance(step, str)), "")
    if is_key:
        return "a name of letters, digits and `_ . -`", "rename the service"
    return {
        "allow": (
            "the name of a host, like index.example or *.files.example",
            "write it without scheme, port and path, in small letters; addresses and single words are never allowed",
        ),
        "host": (
            "the exact name of a host, like git.example",
            "write it without scheme, port and path, in small letters",
        ),
        "paths": ("a path prefix, like /team/", "begin it with / and write no %"),
        "secret": ("the name of a variable of .env, like COMPANY_GIT_TOKEN", "the value itself stands in .env"),
        "header": ("the name of a header, like Authorization", "write it without the colon"),
        "value": ("a text with {secret} in it, like `Bearer {secret}`", "write {secret} where the secret belongs"),
        "basic_user": ("a user's name without a colon", "mend it"),
    }.get(field, ("another form", "docs/egress.md has it"))  # fmt: skip


def _rules(source: Source, configuration: Configuration) -> Iterator[Problem]:
    seen: dict[tuple[str, str], str] = {}
    private: dict[str, tuple[str, bool]] = {}
    for name, service in configuration.services.items():
        steps: Steps = ("services", name)
        first, before = private.setdefault(service.host, (name, service.private))
        if before != service.private:
            yield source.problem(
                (*steps, "private"),
                f"the same of {service.host} as in {first}",
                str(service.private).lower(),
                "a host's address is private or it is not: say the same in both",
            )
        for index, prefix in enumerate(service.paths):
            place = (*steps, "paths", index)
            if {".", ".."} & set(prefix.split("/")) or "//" in prefix:
                yield source.problem(place, "a path prefix without . and ..", prefix, "write it out")
            other = seen.setdefault((service.host, prefix.rstrip("/")), name)
            if other != name:
                yield source.problem(
                    place,
                    "a path that one service alone has",
                    f"{prefix} of {service.host}, which {other} has",
                    "name it once",
                )
        if service.credential is not None:
            yield from _credential_rules(source, (*steps, "credential"), service.credential)


def _credential_rules(source: Source, steps: Steps, credential: model.Credential) -> Iterator[Problem]:
    if credential.secret in _OF_THE_STACK or credential.secret.startswith(_OF_THE_STACK_PREFIXES):
        yield source.problem(
            (*steps, "secret"),
            "a secret that is this service's alone",
            f"{credential.secret}, which is the stack's own",
            "put the credential into .env under a name of its own",
        )
    if credential.header.lower() in _NO_CREDENTIAL:
        yield source.problem(
            (*steps, "header"),
            "a header that carries credentials",
            credential.header,
            "name the one that the service's documentation names",
        )
    if credential.basic_user is not None and credential.model_fields_set & {"value", "header"}:
        yield source.problem(
            (*steps, "basic_user"),
            "either `basic_user`, or `header` and `value`",
            "both",
            "remove one of them: HTTP Basic has its own header and form",
        )


def _fields_at(steps: Steps) -> list[str]:
    shape = tuple(
        "*" if index == 1 and steps[0] == "services" else str(one) for index, one in enumerate(steps)
    )
    found = _MODELS.get(shape)
    return sorted(found.model_fields) if found is not None else []


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
