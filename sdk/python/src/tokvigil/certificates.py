"""Reading the certificates that a connection is checked against, and no fork meanwhile.

OpenSSL has locks of its own: a child that is forked while another thread reads certificates hangs when it reads some
itself (4 of 150 did, with three threads that did nothing else). Handshakes are safe.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path

from tokvigil.errors import ConfigurationError

Verify = bool | str | os.PathLike[str] | ssl.SSLContext

# Reentrant, because a signal handler may fork.
_reading = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_reading.acquire, after_in_parent=_reading.release, after_in_child=_reading.release
    )


def context_of(verify: Verify = True) -> ssl.SSLContext:
    """`verify` is True for those of the system, a file or directory, a context, or False to check none.

    Raises `ConfigurationError` for what is none of these.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    with _reading:
        if verify is True:
            import httpcore2  # here, so that `import tokvigil` stays light

            return httpcore2.default_ssl_context()
        if verify is False:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        try:
            if Path(verify).is_dir():
                return ssl.create_default_context(capath=verify)
            return ssl.create_default_context(cafile=verify)
        except (OSError, TypeError) as error:
            raise ConfigurationError(f"verify is no file or directory of certificates: {error}") from None
