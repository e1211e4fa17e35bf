"""`python -m paddock_egress` serves; `python -m paddock_egress check FILE` looks at a configuration."""

import asyncio
import contextlib
import signal
import ssl
import sys
from pathlib import Path

import httpx

from paddock_egress.authority import Authority, write_trust
from paddock_egress.config import validation
from paddock_egress.config.errors import InvalidConfiguration
from paddock_egress.config.model import Configuration
from paddock_egress.errors import SettingsError
from paddock_egress.log import Log
from paddock_egress.proxy import BUFFER_BYTES, WATCH_SECONDS, Proxy
from paddock_egress.rules import rules_of
from paddock_egress.runs import Runs
from paddock_egress.settings import TOKEN, Settings, load_settings, secret, secrets_of


def main(arguments: list[str]) -> int:
    """Returns the exit code: 2 where a setting, the configuration or a secret can't be used."""
    try:
        if arguments[:1] == ["check"] and len(arguments) == 2:
            validation.load(Path(arguments[1]))
            return 0
        settings = load_settings()
        asyncio.run(_serve(settings, validation.load(settings.config)))
    except (InvalidConfiguration, SettingsError) as error:
        print(f"paddock-egress: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(settings: Settings, configuration: Configuration) -> None:
    """Until SIGTERM or SIGINT. Raises SettingsError."""
    values = _values(settings, configuration)
    rules = rules_of(configuration, values)
    authority = Authority(rules) if rules else None
    roots = [_text(settings.roots), _text(settings.extra_roots) if settings.extra_roots else ""]
    if settings.trust is not None:
        write_trust(settings.trust, roots, authority)
    log = Log()
    async with httpx.AsyncClient(
        base_url=settings.mlflow_url,
        headers={"Authorization": f"Bearer {values[TOKEN]}"},
        # A proxy or a netrc are not meant for what is inside the stack.
        trust_env=False,
    ) as client:
        proxy = Proxy(configuration, rules, authority, _trusted(roots), Runs(client), log)
        server = await asyncio.start_server(
            proxy.serve, settings.listen_host, settings.listen_port, limit=BUFFER_BYTES
        )
        log.write(
            "started",
            hosts=len(configuration.defaults.allow),
            services=", ".join(configuration.services),
        )
        watch = asyncio.create_task(proxy.watch())
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        ending = asyncio.create_task(ended.wait())
        changing = asyncio.create_task(_changed(settings, configuration, values))
        # A watch that dies would leave revoked keys' connections open: the process ends with it.
        await asyncio.wait({watch, ending, changing}, return_when=asyncio.FIRST_COMPLETED)
        server.close()
        if changing.done():
            log.write("ended", reason="a secret was changed: the next start takes the new one")
        for task in (watch, changing):
            if task.done():
                task.result()


def _values(settings: Settings, configuration: Configuration) -> dict[str, str]:
    """Every secret by its name. Raises SettingsError."""
    return secrets_of(settings.secrets, configuration) | {TOKEN: secret(settings.secrets, TOKEN)}


async def _changed(settings: Settings, configuration: Configuration, values: dict[str, str]) -> None:
    """Waits until a secret has another value; whoever starts services starts this one again."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        # One that is gone is in use until the next start says so.
        with contextlib.suppress(SettingsError):
            if _values(settings, configuration) != values:
                return


def _trusted(roots: list[str]) -> ssl.SSLContext:
    """What services are verified against."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        for text in roots:
            if text.strip():
                context.load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        raise SettingsError(
            f"expected certificates in PEM, found {error.reason}; mend the file of CA_BUNDLE"
        ) from None
    return context


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise SettingsError(
            f"expected a readable file of certificates at {path}, found: {error.strerror}; let every user read"
            " the file that CA_BUNDLE names (chmod a+r)"
        ) from None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
