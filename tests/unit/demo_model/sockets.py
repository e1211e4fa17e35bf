"""A demo model behind a real socket."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from paddock_demo_model.transport import ResettableProtocol


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Serve in a thread of this process; gives the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=ResettableProtocol, ws="none", lifespan="off", log_config=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not running.started:
        assert time.monotonic() < deadline, "the server did not start within 10 s"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)
