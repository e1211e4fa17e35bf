"""Starts runs from a process that has imported the SDK already: an import takes seconds, and most tests don't test it.

Reads one JSON object a connection, `{"arguments": […], "environment": {…}}`, with three file descriptors for standard
input, output and error; answers the child's pid at once and its exit code when it has ended.
"""

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from paddock_agent.command import main
from paddock_agent.isolation import Surroundings
from paddock_agent.tracing import INSTRUMENTS


def import_everything() -> None:
    Surroundings("CRITICAL", Path(os.environ["HOME"]) / "openhands").close()
    os.environ["LMNR_INSTRUMENTS"] = INSTRUMENTS
    from openhands.sdk.conversation.impl import local_conversation  # noqa: F401

    from paddock_agent.tools import make_tools

    make_tools(("terminal", "file_editor", "task_tracker", "glob", "grep"), "CRITICAL")


def serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        request = json.loads(data)
        pid = os.fork()
        if pid == 0:
            listener.close()
            connection.close()
            os.setsid()
            for target, descriptor in zip((0, 1, 2), descriptors, strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)
            os.umask(request["umask"])
            os.environ.clear()
            os.environ.update(request["environment"])
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(
                    number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler
                )
            main(request["arguments"])
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(f"{pid}\n".encode())
        threading.Thread(target=_report, args=(pid, connection), daemon=True).start()


def _report(pid: int, connection: socket.socket) -> None:
    _, status = os.waitpid(pid, 0)
    with connection:
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    path = Path(sys.argv[1])
    import_everything()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path) + ".new")
        server.listen(8)
        Path(str(path) + ".new").rename(path)
        serve(server)
