"""The certificates that declared services are shown with inside the stack.

The authority is made at each start and its key never leaves this process's memory. It is bound by name constraints to the
hosts that are declared, so that even whoever had the key could speak for no other host.
"""

import datetime
import ssl
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)
_AUTHORITY_DAYS = 3650
"""A proxy that runs on for years must not stop to be trusted; a restart makes another one."""
_LEAF_DAYS = 7


class Authority:
    """Makes a certificate for each declared host, when it is first asked for."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Paddock egress")])
        now = datetime.datetime.now(datetime.UTC)
        permitted = [x509.DNSName(host) for host in sorted(set(hosts))]
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _AUTHORITY_DAYS * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(certificates=True), critical=True)
            .add_extension(x509.NameConstraints(permitted, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self._context = lru_cache(maxsize=256)(self._make)

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def connection(self, host: str) -> tuple[ssl.SSLContext, list[str]]:
        """What one connection to the host is terminated with, and a list that will hold the name in its ClientHello.

        Another name, or none, ends the handshake.
        """
        asked: list[str] = []
        shown = self._context(host, datetime.datetime.now(datetime.UTC).date())

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
            asked.append((name or "").lower())
            if asked[0] != host:
                return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
            connection.context = shown
            return None

        first = _server_context()
        first.sni_callback = choose
        return first, asked

    def _make(self, host: str, day: datetime.date) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        begin = datetime.datetime.combine(day, datetime.time(), datetime.UTC) - _DAY
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + _LEAF_DAYS * _DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        context = _server_context()
        # Python's ssl takes a key from a file only: one of this process alone, in memory (/tmp is a tmpfs), for a moment.
        with tempfile.NamedTemporaryFile() as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                + certificate.public_bytes(serialization.Encoding.PEM)
                + self._certificate.public_bytes(serialization.Encoding.PEM)
            )
            file.flush()
            context.load_cert_chain(file.name)
        return context


def write_trust(folder: Path, roots: Iterable[str], authority: Authority | None) -> None:
    """Write what agents are to trust: the machine's roots and, where there is one, the authority.

    `ca-bundle.crt` has all of them, for programs that know one file; `authority.crt` the authority alone.
    """
    own = [authority.pem] if authority else []
    for name, texts in (("ca-bundle.crt", [*roots, *own]), ("authority.crt", own)):
        partial = folder / f".{name}"
        partial.write_text("".join(text.rstrip("\n") + "\n" for text in texts if text.strip()))
        partial.chmod(0o644)
        partial.replace(folder / name)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    """To sign certificates, or a server's own use."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
