"""Token counts, and how many of them an earlier request had sent already.

The count is a rule, not a tokenizer: a run of letters and digits is one token for each five characters begun, every
other visible character is one. On English prose and code that is within a quarter of what the tokenizers of the large
providers give, and it is the same everywhere.
"""

import hashlib
import re
from collections import OrderedDict

from paddock_demo_model.protocol import ChatRequest, Reply, Usage

_PIECE = re.compile(r"[^\W_]+|[^\w\s]|_")
_MESSAGE_OVERHEAD = 4


def count_tokens(text: str) -> int:
    """Tokens of a text."""
    return sum((len(piece) + 4) // 5 for piece in _PIECE.findall(text))


class PromptCache:
    """Remembers which prompts were seen, as a provider's prompt cache does.

    A prompt is the tools and then the messages in order. A request's cached tokens are those of the longest run of
    whole messages, from the first on, that an earlier request began with too. The run must reach the conversation's
    first user message: two conversations that only share their system prompt share nothing here, so that a run's
    figures do not depend on the runs before it. Memory is bounded by ``capacity`` digests, oldest out first.
    """

    def __init__(self, capacity: int = 50_000) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def usage(self, request: ChatRequest, reply: Reply) -> Usage:
        """Counts for this call; the request's prompt is remembered."""
        parts = [tool.model_dump_json() for tool in request.tools or []]
        prompt = sum(self._count(part) for part in parts)
        prefix = hashlib.sha256(request.model.encode())
        for part in parts:
            prefix.update(hashlib.sha256(part.encode()).digest())

        cached = 0
        reached_user = False
        unbroken = True
        for message in request.messages:
            part = message.model_dump_json(exclude_none=True)
            prompt += self._count(part) + _MESSAGE_OVERHEAD
            prefix.update(hashlib.sha256(part.encode()).digest())
            key = prefix.digest()
            reached_user = reached_user or message.role == "user"
            unbroken = unbroken and key in self._seen
            if unbroken and reached_user:
                cached = prompt
            self._remember(self._seen, key, None)

        completion = count_tokens(reply.text) + sum(
            count_tokens(call.name) + count_tokens(call.arguments_text()) + _MESSAGE_OVERHEAD
            for call in reply.calls
        )
        return Usage(prompt=prompt, completion=max(completion, 1), cached=cached)

    def _count(self, text: str) -> int:
        key = hashlib.sha256(text.encode()).digest()
        count = self._counts.get(key)
        if count is None:
            count = count_tokens(text)
        self._remember(self._counts, key, count)
        return count

    def _remember[V](self, table: OrderedDict[bytes, V], key: bytes, value: V) -> None:
        table[key] = value
        table.move_to_end(key)
        if len(table) > self._capacity:
            table.popitem(last=False)
