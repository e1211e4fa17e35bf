"""OpenAI's embeddings on the wire: a fixed rule, so that the same text has the same vector everywhere.

Each word is hashed to a place and a sign, and the vector is normalised: texts that share words lie close together.
"""

import base64
import hashlib
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from paddock_demo_model.errors import RequestError
from paddock_demo_model.protocol import ChatRequest, Lenient, Message, Usage, event, validated

DIMENSIONS = 256


class EmbeddingsRequest(Lenient):
    """Body of POST /v1/embeddings."""

    model: str = Field(min_length=1)
    input: str | list[str] | list[int] | list[list[int]]
    dimensions: int = Field(default=DIMENSIONS, ge=1, le=4096)
    encoding_format: Literal["float", "base64"] = "float"

    def texts(self) -> list[str]:
        """The inputs as texts; one given as token numbers is those numbers."""
        if isinstance(self.input, str):
            return [self.input]
        if all(isinstance(one, int) for one in self.input):
            return [" ".join(map(str, self.input))]
        return [one if isinstance(one, str) else " ".join(map(str, one)) for one in self.input]  # type: ignore[union-attr]


class EmbeddingsAnswer:
    """The vectors."""

    def __init__(self, request: EmbeddingsRequest, usage: Usage | None) -> None:
        self._request = request
        self._usage = usage

    def body(self) -> dict[str, Any]:
        """The ``list`` object."""
        data = []
        for index, text in enumerate(self._request.texts()):
            vector: list[float] | str = embed(text, self._request.dimensions)
            if self._request.encoding_format == "base64":
                vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        tokens = self._usage.prompt if self._usage else 0
        usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if self._usage else {}
        return {"object": "list", "data": data, "model": self._request.model, **usage}

    def events(self) -> Iterator[bytes]:
        """Embeddings have no stream; asked for one, the whole is its only event."""
        yield event(self.body())


def embed(text: str, dimensions: int) -> list[float]:
    """The vector of a text, of length 1."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [""]:
        digest = hashlib.sha256(word.encode()).digest()
        place = int.from_bytes(digest[:4], "big") % dimensions
        vector[place] += 1.0 if digest[4] & 1 else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    if not length:
        # Words that cancel each other out.
        vector[0], length = 1.0, 1.0
    return [value / length for value in vector]


def parse_embeddings(body: bytes) -> tuple[ChatRequest, EmbeddingsRequest]:
    """The request, and a chat request of the same texts for what all APIs share. Raises RequestError 400."""
    request = validated(EmbeddingsRequest, body, "an embeddings request")
    texts = request.texts()
    if not texts:
        raise RequestError(400, "Expected at least one input, found none.", param="input")
    messages = [Message(role="user", content=text) for text in texts]
    return ChatRequest(model=request.model, messages=messages), request
