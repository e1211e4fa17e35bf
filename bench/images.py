"""Size of every image, and how long each takes to build without any cache.

python3 bench/images.py            sizes of the images that are there
python3 bench/images.py --build    build all of them anew, one after the other (about 10 minutes on 2 cores)
"""

import os
import subprocess
import sys
import time

from stack import ROOT, seconds, table

IMAGES = (
    "secrets",
    "postgres",
    "object-store",
    "mlflow",
    "gate",
    "collector",
    "demo-model",
    "agent",
    "agent-browser",
)


def build(service: str) -> float:
    """Wall-clock seconds of an uncached build. Cache mounts (package downloads) are kept, as on any second build."""
    # What `./paddock up` found on this machine: mirrors, CA bundle, MTU.
    found = ROOT / ".paddock" / "compose.env"
    start = time.monotonic()
    subprocess.run(
        [
            "docker",
            "compose",
            *(["--env-file", str(found)] if found.exists() else []),
            "--project-name",
            "paddock",
            "--profile",
            "agent",
            "build",
            "--no-cache",
            "--quiet",
            service,
        ],
        cwd=ROOT,
        check=True,
    )
    return time.monotonic() - start


def size(service: str) -> int:
    """Bytes, all layers; what images share is counted in each."""
    version = os.environ.get("PADDOCK_VERSION", "0.1.0")
    told = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Size}}", f"paddock/{service}:{version}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return int(told)


def main() -> None:
    rows = []
    for service in IMAGES:
        took = seconds(build(service)) if "--build" in sys.argv else ""
        rows.append([service, f"{size(service) / 1e6:.0f} MB", *([took] if took else [])])
        if took:
            print(*rows[-1], file=sys.stderr, flush=True)
    table("Images", ["image", "size", *(["built in"] if "--build" in sys.argv else [])], rows)


if __name__ == "__main__":
    main()
