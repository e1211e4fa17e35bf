"""What `egress.yaml` may say. The JSON Schema that editors use is made from these classes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from paddock_egress.config.hosts import LIST_PATTERN, LONGEST, NAME_PATTERN

HostEntry = Annotated[str, StringConstraints(pattern=LIST_PATTERN, max_length=LONGEST)]
"""`index.example`, or `*.files.example` for everything below it."""
HostName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=LONGEST)]
ServiceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{2,99}$")]
"""Of a variable of .env."""
Prefix = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~!$&'()*+,;=:@/-]*$", max_length=500)]
Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Strict(BaseModel):
    """A field that is not known is an error: it is a slip, and would do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Defaults(Strict):
    """What every run may reach."""

    allow: list[HostEntry] = Field(
        default_factory=list,
        description="Hosts by name, exact or with `*.`; `./paddock run --allow HOST` adds to it for one run.",
    )


class Credential(Strict):
    """What is added to a service's requests, outside of the agent's container."""

    secret: SecretName = Field(description="The variable of .env that holds it, such as COMPANY_GIT_TOKEN.")
    header: Header = Field("Authorization", description="The header that carries it.")
    value: str = Field(
        "Bearer {secret}",
        pattern=r"^[\x20-\x7e]*\{secret\}[\x20-\x7e]*$",
        max_length=500,
        description="The header's value; `{secret}` stands for the secret.",
    )
    basic_user: str | None = Field(
        None,
        pattern=r"^[\x21-\x39\x3b-\x7e]{1,200}$",
        description="In place of `value`: HTTP Basic with this user, and the secret as password. Git servers want it.",
    )


class Service(Strict):
    """A host that is reached by rules: its requests are looked at, and its credential is added. Whether a run may reach
    it is decided by the lists, as for every host."""

    host: HostName = Field(description="Its name, exact.")
    paths: list[Prefix] = Field(
        default_factory=lambda: ["/"], min_length=1, description="What of it may be asked for: path prefixes."
    )
    methods: Literal["read"] | list[Method] = Field(
        "read",
        description="`read`: GET and HEAD, and what `git clone` and `git fetch` need; or a list of HTTP methods.",
    )
    credential: Credential | None = Field(
        None, description="Left out: the rules alone, such as read-only for a public host."
    )
    private: bool = Field(
        False,
        description="Whether its address may be a private one (10/8, 100.64/10, 172.16/12, 192.168/16, fc00::/7).",
    )


class Limits(Strict):
    """For each run. A restart of the proxy begins to count anew."""

    connections: int = Field(64, ge=1, le=1000, description="Open at the same time.")
    connection_seconds: int = Field(3600, ge=1, le=86_400, description="How long one of them may last.")
    upload_bytes: int = Field(64 * 1024**2, ge=1, description="Sent to all hosts together.")
    download_bytes: int = Field(4 * 1024**3, ge=1, description="Received from all hosts together.")


class Configuration(Strict):
    """The whole file."""

    version: Literal[1]
    defaults: Defaults = Field(default_factory=Defaults)
    services: dict[ServiceName, Service] = Field(default_factory=dict)
    limits: Limits = Field(default_factory=Limits)  # type: ignore[arg-type]
