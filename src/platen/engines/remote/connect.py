"""Chooses how an upstream is reached: by our fast plain client, or by httpx where more is asked for."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from platen.core.errors import ConfigError
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.http1 import Origin
from platen.engines.remote.transport import Transport


def open_transport(config: UpstreamConfig, headers: Mapping[str, str]) -> Transport:
    """A transport to the service. Raises ConfigError for certificates that can't be used."""
    proxy = proxy_for(config)
    if proxy is None and not config.http2 and config.ca_file is None and config.client_certificate is None:
        return Origin(
            config.base_url,
            headers,
            connect_seconds=config.connect_seconds,
            read_seconds=config.read_seconds,
        )
    from platen.engines.remote.library import LibraryTransport

    return LibraryTransport(
        config.base_url,
        headers,
        connect_seconds=config.connect_seconds,
        read_seconds=config.read_seconds,
        proxy=proxy,
        verify=_tls(config),
        http2=config.http2,
    )


def proxy_for(config: UpstreamConfig) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for the service; none for this machine."""
    parts = urlsplit(config.base_url)
    host = parts.hostname or ""
    if config.proxy == "none" or host in ("localhost", "127.0.0.1", "::1"):
        return None
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def check_certificates(config: UpstreamConfig) -> None:
    """Raises ConfigError when a certificate or key of the upstream is not there or is none."""
    if config.ca_file is not None or config.client_certificate is not None:
        _tls(config)


def _tls(config: UpstreamConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.client_certificate is not None:
            context.load_cert_chain(config.client_certificate, config.client_key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the certificates of the upstream {config.name} can't be used: {error}",
            hint="Give PEM files, relative to the project file: ca_file, client_certificate, client_key.",
        ) from None
    return context
