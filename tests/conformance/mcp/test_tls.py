"""MCP servers with bad certificates: nothing is sent, and the error says what is wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perdure.app.mcp_offers import fault_of
from perdure.domain.mcp import McpUnreachable
from tests.mcp_scripts import Scripted, Talk
from tests.sites import serving

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass
class Authority:
    """Signs certificates into this folder."""

    folder: Path

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        made = self._builder(self.name, self.key, NOW + DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file = self.folder / "authority.pem"
        self.file.write_bytes(self._signed(made))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: dt.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 3 * DAY)
            .not_valid_after(until)
        )

    def _signed(self, made: x509.CertificateBuilder) -> bytes:
        return made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server(self, address: str, until: dt.datetime) -> ssl.SSLContext:
        """The context of a server whose certificate is for this address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = self._builder(x509.Name([]), key, until).add_extension(names, critical=True)
        file = self.folder / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._signed(made)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@asynccontextmanager
async def in_front_of(server: Scripted, context: ssl.SSLContext) -> AsyncIterator[str]:
    """A proxy with TLS in front of a server; its URL."""
    port = int(server.url.split(":")[2].split("/")[0])

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)

        async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
            target.close()

        await asyncio.gather(one_way(reader, back), one_way(there, writer), return_exceptions=True)

    front = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{front.sockets[0].getsockname()[1]}/mcp"
    finally:
        front.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (None, ""),
        ("expired", "certificate has expired"),
        ("other host", "not valid for '127.0.0.1'"),
        ("unknown authority", "unable to get local issuer certificate"),
    ],
)
async def test_a_bad_certificate_is_named_and_nothing_is_sent(
    fault: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    trusted = ssl.create_default_context()
    if fault != "unknown authority":
        trusted.load_verify_locations(authority.file)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
    context = authority.server(
        "127.0.0.2" if fault == "other host" else "127.0.0.1",
        NOW - DAY if fault == "expired" else NOW + DAY,
    )
    async with (
        Scripted() as server,
        in_front_of(server, context) as url,
        Talk.to(url) as talk,
    ):
        if fault is None:
            assert await talk.said() == "done"
            return
        with pytest.raises(McpUnreachable) as failed:
            await talk.call(timeout=5)
        assert said in failed.value.message
        assert fault_of(failed.value).code == "tls_failed", failed.value.message
        assert server.seen == []


async def test_a_server_without_tls_is_named() -> None:
    async with serving() as site, Talk.to(f"https://127.0.0.1:{site.port}/mcp") as talk:
        with pytest.raises(McpUnreachable) as failed:
            await talk.call(timeout=5)
        assert fault_of(failed.value).code == "tls_failed", failed.value.message
        assert site.asked == []
