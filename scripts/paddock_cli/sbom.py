"""`./paddock sbom`: a CycloneDX bill of materials of every image, by Syft.

Syft reads the image as `docker save` writes it: it needs no access to the engine, and is told not to look for a newer
version of itself, so nothing leaves this machine.
"""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paddock_cli import console, preflight
from paddock_cli.environments import Environments
from paddock_cli.errors import BadWorkspace, BuildFailed, NotFound, UsageFailed
from paddock_cli.settings import Paths

LOCK = "scripts/requirements-supply-chain.txt"
FORMAT = "cyclonedx-json@1.6"


@dataclass(frozen=True)
class Bill:
    """One image's bill of materials: `components` by kind (deb, pypi, golang, …), as package URLs name them."""

    image: str
    file: Path
    components: dict[str, int]


def write(where: Paths, images: dict[str, str], services: list[str], folder: Path) -> list[Bill]:
    """Write a bill of materials for each image, `<image>.cdx.json`, whole or not at all.

    Args:
        images: service → image, of every service.
        services: whose images; all where empty.
        folder: where to; made where it is missing.

    Raises:
        UsageFailed: an unknown service.
        NotFound: an image is not on the engine. Nothing is written then.
        BadWorkspace: the folder can't be written.
        BuildFailed: Syft can't read an image.
        EnvironmentFailed: Syft can't be installed.
    """
    if unknown := sorted(set(services) - images.keys()):
        raise UsageFailed(
            "services of the stack", ", ".join(unknown), f"name some of {', '.join(sorted(images))}"
        )
    wanted = sorted({image for service, image in images.items() if not services or service in services})
    missing = [image for image in wanted if _docker("image", "inspect", image).returncode]
    if missing:
        raise NotFound(
            "every image to be on the engine", f"{', '.join(missing)} missing", "build them: ./paddock up"
        )
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadWorkspace(
            f"to make {folder}", str(error.strerror), "name a folder that you can write"
        ) from None
    syft = Environments(where.cache).python("supply-chain", where.root / LOCK).with_name("syft")
    return [_write_one(syft, image, folder) for image in wanted]


def _write_one(syft: Path, image: str, folder: Path) -> Bill:
    name, _, version = image.rpartition(":")
    target = folder / f"{name.rpartition('/')[2]}.cdx.json"
    # Beside the bill, as both can be large: the image's size is needed for a moment.
    with (
        console.step(f"bill of materials of {image}") as step,
        tempfile.TemporaryDirectory(dir=folder) as scratch,
    ):
        archive, partial = Path(scratch) / "image.tar", Path(scratch) / target.name
        saved = _docker("save", "--output", str(archive), image)
        if saved.returncode:
            raise BuildFailed(
                f"to read {image}", saved.stderr.strip()[-500:], "free some space, or build it anew"
            )
        read = subprocess.run(
            [
                *[str(syft), "scan", f"docker-archive:{archive}", "--quiet"],
                *["--output", f"{FORMAT}={partial}", "--source-name", name, "--source-version", version],
            ],
            env={"PATH": os.environ.get("PATH", ""), "HOME": scratch, "SYFT_CHECK_FOR_APP_UPDATE": "false"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if read.returncode:
            raise BuildFailed(
                f"Syft to read {image}", (read.stderr or read.stdout).strip()[-500:], "build it anew"
            )
        counts: dict[str, int] = {}
        for component in json.loads(partial.read_text())["components"]:
            kind = component.get("purl", "").removeprefix("pkg:").partition("/")[0]
            if kind:
                counts[kind] = counts.get(kind, 0) + 1
        shutil.move(partial, target)
        step.result = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return Bill(image, target, counts)


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [preflight.docker(), *arguments], capture_output=True, text=True, errors="replace", check=False
    )
