"""``python -m paddock_demo_model``: serve until SIGTERM or SIGINT. Exit code 2 for a wrong setting or scenario file."""

import logging
import sys

import uvicorn

from paddock_demo_model.errors import ConfigurationError
from paddock_demo_model.recording import Recorder
from paddock_demo_model.scenarios import load_scenarios
from paddock_demo_model.server import DemoModel
from paddock_demo_model.settings import load_settings
from paddock_demo_model.transport import ResettableProtocol


def main() -> int:
    """Run the server; returns the process's exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings()
        model = DemoModel(
            load_scenarios(settings.scenarios),
            key=settings.required_key(),
            recorder=Recorder() if settings.record else None,
        )
    except ConfigurationError as error:
        print(f"paddock-demo-model: {error}", file=sys.stderr)
        return 2
    uvicorn.run(
        model.app(),
        host=settings.listen_host,
        port=settings.listen_port,
        http=ResettableProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        # Longer than an agent's step: a client that reuses a connection must not meet its end.
        timeout_keep_alive=300,
        # A scenario may hold a request for minutes; a stop must not wait for it.
        timeout_graceful_shutdown=3,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
