"""A certificate for localhost that no machine trusts."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(folder: Path) -> tuple[Path, Path]:
    """The certificate, in a directory as OpenSSL looks for it, and its key."""
    trusted = folder / "trusted"
    trusted.mkdir()
    certificate, key = trusted / "localhost.pem", folder / "localhost.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["openssl", "rehash", str(trusted)], check=True, capture_output=True)
    return certificate, key
