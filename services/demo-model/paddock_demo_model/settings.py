"""Settings from the environment, read once at start."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from paddock_demo_model.errors import ConfigurationError


class Settings(BaseSettings):
    """``DEMO_*`` variables. A key, from either variable, makes every call but /healthz need it as Bearer."""

    model_config = SettingsConfigDict(env_prefix="DEMO_", env_ignore_empty=True)

    listen_host: str = "127.0.0.1"
    listen_port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    scenarios: Path | None = None
    record: bool = False

    def required_key(self) -> str | None:
        """The key that clients must send, or None.

        Raises ConfigurationError when the key file is named but cannot be read or is empty: to serve without a key
        then would be worse than not to serve.
        """
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if self.api_key_file is None:
            return None
        try:
            key = self.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"DEMO_API_KEY_FILE: expected a readable text file with the key, found {self.api_key_file}: {error}. "
                "Name another file, or unset the variable to serve without a key."
            ) from error
        if not key:
            raise ConfigurationError(
                f"DEMO_API_KEY_FILE: expected a key in {self.api_key_file}, found an empty file. "
                "Write the key into it, or unset the variable to serve without a key."
            )
        return key


def load_settings() -> Settings:
    """Read the environment. Raises ConfigurationError naming each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"DEMO_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}, found {item['input']!r}"
            for item in error.errors()
        )
        raise ConfigurationError(f"{problems}. Correct or unset these variables.") from error
