"""The SDK's store of a conversation, on disk without secrets. Imports the SDK."""

from __future__ import annotations

from pathlib import Path

from openhands.sdk.io import LocalFileStore

from .masking import Mask


class MaskedFileStore(LocalFileStore):
    """Everything that the SDK keeps of a conversation passes here, in JSON."""

    def __init__(self, folder: Path, mask: Mask, cached_files: int) -> None:
        super().__init__(str(folder), cache_limit_size=cached_files)
        self._mask = mask

    def write(self, path: str, contents: str | bytes) -> None:
        """Writes the file without the values that the mask hides."""
        if isinstance(contents, bytes):
            contents = contents.decode("utf-8")
        super().write(path, self._mask.json_text(contents))
