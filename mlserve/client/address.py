"""Where a server is: `http://host:port/prefix`, `https://…`, `grpc://host:port` or `grpcs://…`."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlserve.client.faults import ClientError

__all__ = ["Address"]

_PORTS = {"http": 80, "https": 443, "grpc": None, "grpcs": None}


@dataclass(frozen=True)
class Address:
    """An address in its parts; `str()` gives it as people write it."""

    scheme: str
    host: str
    port: int
    prefix: str = ""  # of paths, without a slash at its end

    @classmethod
    def parse(cls, text: str) -> Address:
        """The parts of an address. ClientError says what is wrong with it."""
        try:
            if not isinstance(text, str):
                raise ValueError("is no text")
            return cls._parsed(text)
        except ValueError as error:
            told = f"{text!r} is no address that can be called: {error}; expected http://HOST:PORT or grpc://HOST:PORT"
            raise ClientError(f"{told} (https, grpcs)", str(text), arrived=False) from None

    @classmethod
    def _parsed(cls, text: str) -> Address:
        parts = urlsplit(text)
        if parts.scheme not in _PORTS or not parts.netloc:
            raise ValueError("it does not begin with a scheme")
        port = parts.port if parts.port is not None else _PORTS[parts.scheme]
        if not parts.hostname or port is None:
            raise ValueError("it needs a host and a port")
        if parts.username or parts.query or parts.fragment:
            raise ValueError("it has more than a host, a port and a path; credentials go into `headers`")
        prefix = parts.path.rstrip("/")
        if prefix and parts.scheme.startswith("grpc"):
            raise ValueError("it has a path, which gRPC has none of")
        if not (prefix + parts.netloc).isascii() or " " in text:
            raise ValueError("it has characters that have to be encoded (%20, punycode)")
        return cls(parts.scheme, parts.hostname, port, prefix)

    @property
    def is_grpc(self) -> bool:
        """Whether the scheme says gRPC."""
        return self.scheme.startswith("grpc")

    @property
    def is_secure(self) -> bool:
        """Whether the scheme says TLS."""
        return self.scheme.endswith("s")

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def ssl_context(self, given: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """What to secure connections with: what was given, or the system's certificates; None without TLS."""
        if not self.is_secure:
            return None
        context = given or ssl.create_default_context()
        if given is None and self.is_grpc:
            context.set_alpn_protocols(["h2"])
        return context

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"
