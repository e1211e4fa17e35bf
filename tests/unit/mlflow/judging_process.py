"""A process that judges, on its own: `python judging_process.py '<json>'`. Ends when its standard input does."""

import json
import os
import sys
import threading
from typing import Any


def main(given: dict[str, Any]) -> None:
    os.environ |= given["environment"]
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from paddock_mlflow.judges.admission import Admission
    from paddock_mlflow.judges.calls import Sender, install
    from paddock_mlflow.judges.work import Limits, Work
    from paddock_mlflow.pricing import Prices

    stop = threading.Event()
    install(Sender(10.0, Prices.of_environment(), 300.0, stop.wait))
    store = SqlAlchemyStore(given["url"], "mlflow-artifacts:/")
    admission = Admission(store, given["url"], 300.0)
    work = Work(store, given["url"], Limits(4, 1_000_000, given["lease"]), stop)

    def renew() -> None:
        while not stop.wait(given["lease"] / 3):
            work.renew()

    def judge() -> None:
        while not stop.wait(0.05):
            admission.tick()
            work.tick()

    for task in (renew, judge):
        threading.Thread(target=task, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    work.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
