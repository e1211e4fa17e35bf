"""MLflow's own environment variables, made from Paddock's settings.

Some of them are private to MLflow (leading underscore): its launcher sets them for `mlflow server`. Paddock starts the
web application and the job runner directly, which saves a launcher and a periodic process of about 350 MiB, and so
sets them itself.
"""

import os
import secrets
import tempfile
import uuid
from pathlib import Path

from paddock_mlflow import encryption, exposure, prices
from paddock_mlflow.settings import Settings

RUN_JUDGES_JOB = "paddock_run_judges"
_RUN_JUDGES_FUNCTION = "paddock_mlflow.judges.run_judges.invoke"


def export(settings: Settings) -> None:
    """Set the variables that the web application, the job runner and every job process need.

    Must run before mlflow is imported: it reads several of them at import.
    """
    os.environ.update(common(settings))


def export_web(settings: Settings) -> None:
    """Set what the web application needs beyond `export`: users and their database, and the encryption keys."""
    passphrase = encryption.in_force(settings)
    os.environ.update(
        {
            "MLFLOW_AUTH_CONFIG_PATH": str(_auth_config(settings)),
            "MLFLOW_AUTH_ADMIN_USERNAME": settings.admin_user,
            "MLFLOW_AUTH_ADMIN_PASSWORD": settings.secret("admin_password"),
            "MLFLOW_CRYPTO_KEK_PASSPHRASE": passphrase.text,
            "MLFLOW_CRYPTO_KEK_VERSION": str(passphrase.version),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.secret("flask_secret_key"),
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(exposure.allowed_hosts(settings)),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(exposure.allowed_origins(settings)),
            # Guardrails that ask a judge call the gateway in this name.
            "MLFLOW_TRACKING_USERNAME": settings.judge_user,
            "MLFLOW_TRACKING_PASSWORD": os.environ["_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN"],
        }
    )


def common(settings: Settings) -> dict[str, str]:
    """The variables that every MLflow process of the stack shares."""
    database = settings.tracking_database
    token = settings.optional_secret("internal_token") or secrets.token_hex(32)
    variables = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": settings.artifacts,
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN": token,
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": encryption.webhook_key(token),
        "_MLFLOW_ALLOWED_JOB_NAME_LIST": RUN_JUDGES_JOB,
        "_MLFLOW_SUPPORTED_JOB_FUNCTION_LIST": _RUN_JUDGES_FUNCTION,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
        "MLFLOW_SERVER_JOB_EXECUTION_ENGINE": "executor",
        # Judges that name no model of their own must not fall back to a provider behind the gateway's back.
        "MLFLOW_GENAI_JUDGE_DEFAULT_MODEL": "gateway:/judge",
        "MLFLOW_GATEWAY_URI": settings.mlflow_url,
        "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "https,http",
        "MLFLOW_MODEL_CATALOG_URI": prices.write_catalog(_private_folder(settings, "prices")),
        # One after the other: a trace that is written before its spans makes the gateway's own tracing try an upload.
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    if settings.artifacts.startswith("s3://"):
        variables |= {
            "AWS_ACCESS_KEY_ID": settings.secret("s3_access_key"),
            "AWS_SECRET_ACCESS_KEY": settings.secret("s3_secret_key"),
            "AWS_DEFAULT_REGION": settings.s3_region,
        }
        if settings.s3_endpoint_url:
            variables |= {
                "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint_url,
                "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
            }
    return variables


def _auth_config(settings: Settings) -> Path:
    """Write the ini file of MLflow's authentication, readable by this process's user alone."""
    path = _private_folder(settings, "auth") / "auth.ini"
    # configparser reads % as an interpolation.
    database = settings.auth_database.replace("%", "%%")
    text = f"""[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {database}
authorization_function = paddock_mlflow.identity:authenticate
auth_cache_ttl_seconds = 60
"""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return path


def _private_folder(settings: Settings, name: str) -> Path:
    """A new folder that only this user may enter."""
    return Path(tempfile.mkdtemp(prefix=f"paddock-{name}-", dir=settings.runtime_dir))
