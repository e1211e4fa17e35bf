"""What `gateway.yaml` may say. The JSON Schema that editors use is made from these classes.

A field that a file leaves out is not claimed: what the server has there stays, and `plan` reports it.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

KEPT = "kept in gateway"
"""Stands for a secret that was typed into the UI: nobody but the server knows it, and it is never written."""

WINDOW = r"^[1-9][0-9]{0,4} (minute|hour|day|week|month)s?$"
UNITS = ("minute", "hour", "day", "week", "month")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
"""Of an endpoint or a provider: letters, digits, and `_ . -`."""
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+() -]{0,199}$")]
"""Of a model, guardrail or webhook: what people type into the UI, too."""
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{2,99}$")]
"""Of a variable of .env, which is a file of the same name in small letters for the stack's services."""
Setting = Annotated[str, StringConstraints(pattern=r"^\$\{[A-Z][A-Z0-9_]*\}$")]
"""`${NAME}`: what .env says under that name."""
Window = Annotated[str, StringConstraints(pattern=WINDOW)]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=18, decimal_places=10)]
PerMinute = Annotated[int, Field(gt=0, le=2_000_000_000)]

Kind = Literal[
    "ai21labs",
    "anthropic",
    "azure",
    "bedrock",
    "cohere",
    "databricks",
    "deepseek",
    "gemini",
    "groq",
    "huggingface-text-generation-inference",
    "litellm",
    "mistral",
    "ollama",
    "openai",
    "openrouter",
    "portkey",
    "sap-ai-core",
    "togetherai",
    "vertex_ai",
    "xai",
]
"""MLflow's names of the protocols that its gateway speaks."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _or_one(schema: dict[str, Any]) -> None:
    """One model may stand without a list around it."""
    schema["anyOf"] = [{"type": "string"}, *schema["anyOf"]]


class Strict(BaseModel):
    """A field that is not known is an error: it is a slip, and would do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(Strict):
    """USD per million tokens."""

    input: Usd
    output: Usd
    cache_read: Usd | None = Field(None, description="Cached prompt tokens; the input price if left out.")
    cache_write: Usd | None = Field(
        None, description="Tokens written to the cache; the input price if left out."
    )
    cache_write_1h: Usd | None = Field(
        None, description="Those of them that are kept for an hour (Anthropic); cache_write if left out."
    )
    reasoning: Usd | None = Field(
        None, description="Tokens of the answer that are reasoning; the output price if left out."
    )


KINDS_OF_TOKENS = tuple(Price.model_fields)
"""What has a price of its own."""


class Provider(Strict):
    """A model provider. Its key is named here and stands in .env."""

    kind: Kind = Field(description="The protocol, by MLflow's name; `openai` for every compatible server.")
    secret: SecretName | Literal["kept in gateway"] | None = Field(
        None, description="The variable of .env that holds the key, such as OPENAI_API_KEY."
    )
    credentials: dict[str, SecretName] | None = Field(
        None, description="In place of `secret`, where a provider takes several: field and variable."
    )
    base_url: str | None = Field(
        None,
        description="Where it is; left out for the provider's own address. ${NAME} stands for a setting of .env.",
    )
    when: Literal["always", "secret set", "no other provider"] = Field(
        "always",
        description="`always`: a missing key is an error. `secret set`: without a key the provider is not there, and"
        " neither are its models. `no other provider`: there only where no other one is.",
    )
    price: Price | Literal["free"] | Setting | None = Field(
        None,
        description="Of those of its models that have none of their own. ${NAME} takes `free`, or USD per million tokens"
        " as INPUT,OUTPUT or INPUT,OUTPUT,CACHE_READ, from .env.",
    )
    secret_name: str | None = Field(
        None, min_length=1, max_length=255, description="Its name in MLflow; `<provider>-key` if left out."
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="What MLflow keeps beside the key: api_version, organization, region …",
    )


class Model(Strict):
    """A provider's model under a name of yours."""

    provider: Name
    model: str = Field(min_length=1, max_length=200, description="The provider's own name of it.")
    price: Price | Literal["free"] | None = Field(
        None,
        description="Only for models that are not in MLflow's catalogue, or that cost you something else.",
    )


class Endpoint(Strict):
    """What clients call: a name with a model behind it."""

    model: Annotated[list[ModelName | Setting], BeforeValidator(_as_list), Field(min_length=1)] | None = (
        Field(
            None,
            description="The model that answers. Of several, the first one whose provider is there. ${CODER_MODEL} takes"
            " provider/model from .env and is passed over where that is not set.",
            json_schema_extra=_or_one,
        )
    )
    split: dict[ModelName, Annotated[int, Field(gt=0, le=100)]] | None = Field(
        None,
        min_length=1,
        description="In place of `model`: models that share the calls, with their weights.",
    )
    fallbacks: list[ModelName] | None = Field(
        None,
        description="Who answers where the provider fails, in this order: models, or an endpoint, whose models follow.",
    )
    max_attempts: Annotated[int, Field(ge=1, le=20)] | None = Field(
        None, description="How many fallbacks are tried at most; all if left out."
    )
    usage_tracking: bool = Field(True, description="Whether each call leaves a trace with tokens and cost.")


class Budget(Strict):
    """So much money in a window of time."""

    scope: Literal["global", "endpoint", "user"]
    target: str | None = Field(
        None, min_length=1, description="The endpoint's or user's name; not for `global`."
    )
    amount: Annotated[Decimal, Field(gt=0, le=1_000_000_000, max_digits=18, decimal_places=6)] = Field(
        description="USD."
    )
    window: Window = Field(description="Such as `1 day` or `6 hours`; aligned to the calendar, in UTC.")
    action: Literal["alert", "reject"] = Field(
        description="`alert` calls the webhooks once a window; `reject` refuses calls that would go beyond."
    )


class RateLimit(Strict):
    """So many requests, or tokens, a minute."""

    scope: Literal["key", "user", "endpoint"]
    target: str = Field(min_length=1, description="The key's, user's or endpoint's name.")
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None


class Guardrail(Strict):
    """A look at each call, before or after the model."""

    scorer: str = Field(
        min_length=1,
        description="PIIDetection or SecretDetection, which find; Safety or Judge, where a model decides.",
    )
    stage: Literal["before", "after"]
    action: Literal["validation", "sanitization"] = Field(
        description="`validation` refuses the call; `sanitization` masks what was found."
    )
    endpoints: Annotated[list[Name], Field(min_length=1)]
    instructions: str | None = Field(
        None,
        min_length=1,
        description="For `Judge`: what it is to decide, with {{ inputs }}, and after a call {{ outputs }}, in it.",
    )
    model: Name | None = Field(
        None, description="For `Judge` and `Safety`: the endpoint that decides, `judge` if left out."
    )


class Grants(Strict):
    """What a user may do."""

    endpoints: list[Name] = Field(default_factory=list, description="Endpoints that the user may call.")
    experiments: dict[str, Literal["READ", "EDIT", "MANAGE"]] = Field(
        default_factory=dict, description="Experiments by name, each with the user's permission."
    )


class User(Strict):
    """An MLflow user. A person's password is set by an administrator in the UI; a program has a key."""

    grants: Grants = Grants()


class Key(Strict):
    """Limits of a key that `./paddock keys create` made. Its text is shown once, there, and never stands in a file."""

    user: UserName
    endpoints: Annotated[list[Name], Field(min_length=1)] | None = Field(
        None, description="Endpoints that the key may call; those it was made with if left out."
    )
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None


class Webhook(Strict):
    """Who is told of an exceeded budget."""

    url: Annotated[str, StringConstraints(pattern=r"^https://[^/\s]+")] = Field(
        description="https, a public address."
    )
    secret: SecretName | Literal["kept in gateway"] | None = Field(
        None, description="The variable of .env that deliveries are signed with."
    )
    events: list[Literal["budget exceeded"]] = Field(default=["budget exceeded"], min_length=1)


class Configuration(Strict):
    """Paddock's gateway: who provides models, who may call them, and what it may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="gateway.yaml")

    version: Literal[1] = Field(description="Of this form.")
    providers: dict[Name, Provider] = Field(min_length=1)
    models: dict[ModelName, Model] = Field(default_factory=dict)
    endpoints: dict[Name, Endpoint] = Field(min_length=1)
    budgets: list[Budget] = Field(default_factory=list)
    rate_limits: list[RateLimit] = Field(default_factory=list)
    guardrails: dict[ModelName, Guardrail] = Field(default_factory=dict)
    users: dict[UserName, User] | None = Field(
        None,
        description="Left out: users are nobody's business here. Given: users that it does not name are reported.",
    )
    keys: dict[Name, Key] = Field(default_factory=dict)
    webhooks: dict[ModelName, Webhook] = Field(default_factory=dict)
