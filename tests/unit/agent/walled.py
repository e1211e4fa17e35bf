"""Runs Python in a process of its own, where walls can be built that nobody can take down again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

# Answers Landlock's three calls with an error, as a seccomp filter of an older engine or an older kernel would.
_WITHOUT_LANDLOCK = """
import ctypes, struct
def forbid(number):
    # BPF: load the call's number; 444, 445 and 446 end in the error, all others pass.
    program = b"".join(struct.pack("HBBI", *step) for step in (
        (0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x25, 1, 0, 446),
        (0x06, 0, 0, 0x00050000 | number), (0x06, 0, 0, 0x7FFF0000),
    ))
    buffer = ctypes.create_string_buffer(program, len(program))
    filter = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(filter, len(filter)), 0, 0) == 0, ctypes.get_errno()
forbid({number})
"""


def walled(code: str, *arguments: object, without_landlock: int = 0, **options: Any) -> Any:
    """What the code prints, which is JSON. `without_landlock` is the error number that Landlock's calls end in."""
    setup = _WITHOUT_LANDLOCK.replace("{number}", str(without_landlock)) if without_landlock else ""
    done = subprocess.run(
        [sys.executable, "-P", "-c", setup + code, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "agent"), **options.pop("env", {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
