"""The TLS proxy fetches its certificate by ACME: from a second Caddy, in a network of the test's own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import eventually
from stack_under_test import StackUnderTest

AUTHORITY = """
{
	admin off
	skip_install_trust
	auto_https disable_redirects
}
https://acme.test {
	tls internal
	acme_server
}
"""
ROOT = "/data/caddy/pki/authorities/local/root.crt"
CERTIFICATE = "/data/caddy/certificates/acme.test-acme-local-directory/site.test/site.test.crt"


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def proxy(stack: StackUnderTest, tmp_path: Path) -> Iterator[str]:
    """The proxy's container, told to trust that server; the mail address makes it ask by ACME."""
    image = stack.inspect("tls")["Config"]["Image"]
    network = f"{stack.project}-acme"
    names = (f"{network}-authority", f"{network}-proxy")
    tmp_path.chmod(0o755)
    (tmp_path / "acme.Caddyfile").write_text(AUTHORITY)
    (tmp_path / "tls_secret").write_text("tls-secret-of-the-tests")
    common = ("run", "--detach", "--network", network, "--volume", f"{tmp_path}:/run/secrets:ro")
    settings = {
        "SITE_ADDRESS": "site.test",
        "TLS_ISSUER": "somebody@example.org",
        "ACME_CA": "https://acme.test/acme/local/directory",
        "MAX_UPLOAD": "5GB",
        "HTTPS_SUFFIX": "",
        "SSL_CERT_FILE": "/run/secrets/root.crt",
    }
    docker("network", "create", "--internal", network)
    try:
        docker(
            *(
                *common,
                "--network-alias",
                "acme.test",
                "--name",
                names[0],
                image,
                "/run/secrets/acme.Caddyfile",
            )
        )
        root = eventually(lambda: docker("exec", names[0], "cat", ROOT, check=False), 30, "an authority")
        (tmp_path / "root.crt").write_text(root)
        told = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        docker(
            *common,
            *("--network-alias", "site.test", "--name", names[1], *told, image, "/etc/caddy/tls.Caddyfile"),
        )
        yield names[1]
    finally:
        docker("rm", "--force", "--volumes", *names, check=False)
        docker("network", "rm", network, check=False)


def test_a_mail_address_fetches_a_certificate_by_acme(proxy: str) -> None:
    found = eventually(
        lambda: docker("exec", proxy, "cat", CERTIFICATE, check=False), 60, f"a certificate; {proxy}'s log"
    )
    assert found.startswith("-----BEGIN CERTIFICATE-----")
