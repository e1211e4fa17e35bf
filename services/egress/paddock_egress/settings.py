"""Settings from the environment, read once at start."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from paddock_egress.config.model import Configuration
from paddock_egress.errors import SettingsError

TOKEN = "egress_token"


class Settings(BaseSettings):
    """``EGRESS_*`` variables. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="EGRESS_", env_ignore_empty=True)

    listen_host: str = "127.0.0.1"
    listen_port: int = Field(default=3128, ge=0, le=65535)
    config: Path = Path("/egress.yaml")
    secrets: Path = Path("/run/secrets")
    mlflow_url: str = "http://mlflow:5000"
    trust: Path | None = None
    """Folder that agents read: the certificates to trust go there."""
    roots: Path = Path("/etc/ssl/certs/ca-certificates.crt")
    extra_roots: Path | None = None
    """Further roots, in PEM: those of an enterprise. Empty where there are none."""


def load_settings() -> Settings:
    """Read the environment. Raises SettingsError naming each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"expected EGRESS_{'_'.join(str(part) for part in item['loc']).upper()} to be valid, found"
            f" {item['input']!r} ({item['msg']})"
            for item in error.errors()
        )
        raise SettingsError(f"{problems}; correct or unset these variables") from error


def secret(folder: Path, name: str) -> str:
    """A secret by its name, which is a file in small letters.

    Raises:
        SettingsError: there is none, it is empty, or it can't stand in a header.
    """
    path = folder / name.lower()
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"expected the secret {name}, found none that can be read ({error}); write it into .env and start again"
        ) from None
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        # Anything else would let a value write further headers.
        raise SettingsError(
            f"expected the secret {name} to be one word of printable ASCII, found another form; copy it anew"
        )
    return value


def secrets_of(folder: Path, configuration: Configuration) -> dict[str, str]:
    """The values of all secrets that the configuration names. Raises SettingsError, with every one that is missing."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for service in configuration.services.values():
        if service.credential is None:
            continue
        try:
            found[service.credential.secret] = secret(folder, service.credential.secret)
        except SettingsError as error:
            missing.append(str(error))
    if missing:
        raise SettingsError("\n".join(missing))
    return found
