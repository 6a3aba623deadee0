"""Why a PostgreSQL server is not trusted: libpq says no more than that its certificate is not."""

import os
import socket
import ssl

from sqlalchemy import URL

#: What libpq says, whatever is wrong with the certificate but for its name.
UNTRUSTED = "certificate verify failed"
#: With this a client asks PostgreSQL for TLS, and with that it gets it.
_SSL_REQUEST, _SSL_GRANTED = b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"S"


def reason_of_distrust(url: URL, *, timeout: float) -> str | None:
    """Return why the certificate of the server at ``url`` is not trusted, in OpenSSL's words.

    It connects once more, for no longer than ``timeout`` seconds at a time, and says nothing but that it wants TLS.
    None where that does not tell: the server is gone, or ``url`` does not say where and whom to trust.
    """
    trusted = url.query.get("sslrootcert")
    if trusted == "system" and not _finds_system():
        return "psycopg's own OpenSSL does not find the system's certificates; let sslrootcert name a file of them"
    if url.host is None or not isinstance(trusted, str):
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        if trusted == "system":
            context.set_default_verify_paths()
        else:
            context.load_verify_locations(trusted)
        with socket.create_connection((url.host, url.port or 5432), timeout=timeout) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) == _SSL_GRANTED:
                context.wrap_socket(plain).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError:
        return None
    return None


def _finds_system() -> bool:
    """Return whether ``sslrootcert=system`` can work: the OpenSSL of psycopg's wheel looks in no usual place."""
    import psycopg  # noqa: PLC0415 - whoever uses SQLite needs none

    return psycopg.pq.__impl__ != "binary" or not {"SSL_CERT_FILE", "SSL_CERT_DIR"}.isdisjoint(os.environ)
