"""The certificates that TLS connections trust: those that `requests` trusts, for every client."""

from __future__ import annotations

import os
import ssl
from pathlib import Path


def trusting(bundle: str | None = None) -> ssl.SSLContext:
    """The certificates of a bundle (a file, or a folder that OpenSSL has indexed); without one, of the environment's
    (`REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`, then `SSL_CERT_FILE` and `SSL_CERT_DIR`), else of certifi, since not every
    container has the system's. Raises `OSError` when it cannot be read."""
    import httpx

    named = bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if named is None:
        return httpx.create_ssl_context()
    is_folder = Path(named).is_dir()
    return ssl.create_default_context(cafile=None if is_folder else named, capath=named if is_folder else None)
