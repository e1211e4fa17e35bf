"""The probes as one file that any Python in a container runs."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import paddock_probes

_MAIN = """import sys
{imports}
from paddock_probes.__main__ import main

sys.exit(main())
"""


def archive(extra: Iterable[Path] = ()) -> bytes:
    """A zip archive for `python3 FILE`.

    Args:
        extra: modules with further probes; each registers its own when it is imported.
    """
    modules = list(extra)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(Path(paddock_probes.__path__[0]).glob("*.py")):
            packed.writestr(f"paddock_probes/{path.name}", path.read_text())
        for path in modules:
            packed.writestr(path.name, path.read_text())
        imports = "\n".join(f"import {path.stem}" for path in modules)
        packed.writestr("__main__.py", _MAIN.format(imports=imports))
    return buffer.getvalue()
