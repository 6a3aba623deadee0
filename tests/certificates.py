"""Certificates of an authority of a test's own: right ones, and such as must not be accepted."""

import ssl
from datetime import UTC, datetime, timedelta

import trustme


def tls_of(authority: trustme.CA, name: str, *, is_expired: bool = False) -> ssl.SSLContext:
    """Return what a server of this name speaks TLS with; its certificate has expired a minute ago, or not yet."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    now = datetime.now(UTC)
    until = now - timedelta(minutes=1) if is_expired else now + timedelta(days=1)
    authority.issue_cert(name, not_before=now - timedelta(days=2), not_after=until).configure_cert(context)
    return context
