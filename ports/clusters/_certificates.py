"""Certificates, made with cryptography: one self-signed certificate and its key make a cluster private."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from ports.errors import StoreError

_DAYS = 3650  # a running cluster must not see its certificate expire


def write_self_signed(path: Path) -> None:
    """Write a new certificate and its key as one PEM file, 0600. A process that can read it can join the cluster.

    The key is on the curve P-256 and takes 1 ms to make (RSA with 2048 bits: up to 300 ms). The certificate is valid
    from yesterday, for machines whose clocks differ.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ports cluster")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
    except OSError as error:
        raise StoreError(path, error.strerror or str(error)) from error
