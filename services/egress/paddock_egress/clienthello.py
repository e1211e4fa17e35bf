"""The name in a TLS ClientHello, read by OpenSSL itself: no parser of ours stands between an agent and the way out."""

import ssl

LONGEST = 64 * 1024
"""Bytes of a ClientHello; with post-quantum keys a browser's has about 2 KB."""


class NotTls(Exception):
    """What came is not the beginning of a TLS connection."""


class ClientHello:
    """Takes bytes until the name is known."""

    def __init__(self) -> None:
        self._seen = False
        self._name: str | None = None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # What is terminated elsewhere may be as old as its two ends like; here only its name is read.
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.sni_callback = self._callback
        self._incoming = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, ssl.MemoryBIO(), server_side=True)
        self._size = 0

    def feed(self, data: bytes) -> bool:
        """Take what came; returns whether the name is known.

        Raises:
            NotTls: it is none, or longer than any.
        """
        self._size += len(data)
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            # The callback ends the handshake, which this is not the end for.
            if not self._seen:
                raise NotTls(error.reason or "no TLS") from None
        if not self._seen and self._size > LONGEST:
            raise NotTls("too long")
        return self._seen

    @property
    def name(self) -> str:
        """The host that the client asks for, in small letters; empty where it names none."""
        return (self._name or "").lower()

    def _callback(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int:
        self._seen = True
        self._name = name
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
