"""`python -m paddock_mlflow COMMAND`: what the containers of the mlflow image, and the embedded stack, run."""

import logging
import sys
import warnings

import click

from paddock_mlflow import settings as settings_module
from paddock_mlflow.compatibility import require_checked_release
from paddock_mlflow.errors import PaddockError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Paddock's plugin for MLflow."""
    # Upstream's own imports, which nobody who runs the stack can change.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
    require_checked_release()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("alembic", "httpx", "botocore", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@main.command()
def migrate() -> None:
    """Create or upgrade the tables of both databases."""
    from paddock_mlflow.migrate import migrate as run

    run(settings_module.load())


@main.command()
def serve() -> None:
    """Serve the UI, the REST API, the gateway and trace ingest."""
    from paddock_mlflow.server import serve as run

    run(settings_module.load())


@main.command()
def jobs() -> None:
    """Run judges. Exactly one may run at a time."""
    from paddock_mlflow.jobs import run

    run(settings_module.load())


@main.command()
def setup() -> None:
    """Apply the experiment, users, providers, endpoints and judges to the running server."""
    from paddock_mlflow.setup import setup as run

    run(settings_module.load())


@main.command("rotate-key")
def rotate_key() -> None:
    """Encrypt the gateway's secrets with the newest passphrase. The servers must be stopped."""
    from paddock_mlflow.encryption import rotate as run

    version, changed = run(settings_module.load())
    click.echo(f"{changed} secret(s) are encrypted with passphrase {version} now")


@main.command("object-store-setup")
def object_store_setup() -> None:
    """Make the bucket and an account that is limited to it."""
    from paddock_mlflow.object_store import prepare

    prepare(settings_module.load())


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except PaddockError as error:
        click.echo(f"paddock-mlflow: {error}", err=True)
        sys.exit(1)
