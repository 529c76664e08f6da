"""TLS of the HTTP port from two PEM files, checked by a handshake with ourselves before anything listens."""

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from rrrnet.errors import UsageError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: the server's, followed by those of the authorities between it and the root.
        key: its private key, without a password.
    """

    certificate: Path
    key: Path


def files_of(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """Both files, or None where TLS is not wanted.

    Raises:
        UsageError: one is given without the other, or they cannot be used; see `check`.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together: give both, or neither")
    files = TlsFiles(certificate, key)
    check(files)
    return files


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For the HTTP server: TLS 1.2 or later.

    Raises:
        UsageError: a file cannot be read, or holds no usable certificate or key, or they do not belong together.
    """
    for name, path in (("--tls-cert", files.certificate), ("--tls-key", files.key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"{name} {path} cannot be read: {error.strerror}") from error
    probe_context(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"--tls-key {files.key} is not the key of the certificate {files.certificate}") from error
        raise UsageError(
            f"--tls-key {files.key} holds no private key in PEM form that can be read without a password"
        ) from error
    return context


def probe_context(files: TlsFiles) -> ssl.SSLContext:
    """For a client on this machine that trusts this very certificate and no other, whatever host it is made out for.

    Raises:
        UsageError: the file holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(files.certificate)
    except ssl.SSLError as error:
        raise UsageError(f"--tls-cert {files.certificate} holds no certificate in PEM form") from error
    return context


def client_trust(authorities: Path | None) -> ssl.SSLContext:
    """For a client: the certificates of a PEM file, or those that this machine trusts.

    Raises:
        UsageError: the file cannot be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=authorities)
    except ssl.SSLError as error:
        raise UsageError(f"--ca {authorities} holds no certificate in PEM form") from error
    except OSError as error:
        raise UsageError(f"--ca {authorities} cannot be read: {error.strerror}") from error


def failure(error: BaseException) -> str | None:
    """What to say of TLS that failed, found among the causes of a client's error; None where something else did."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = cause.verify_message.rstrip(".")
        return f"its certificate is not trusted ({reason}): --ca FILE names the PEM certificates to trust"
    reason = cause.reason or "no reason told"
    advice = "a service without --tls-cert is asked with http://, one with it needs --ca FILE"
    return f"TLS does not work there ({reason}): {advice}"


def check(files: TlsFiles) -> None:
    """See that clients would accept the certificate today.

    Raises:
        UsageError: a file is unusable, or the certificate has expired or is not valid yet.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(files).wrap_bio(to_server, to_client, server_side=True)
    client = probe_context(files).wrap_bio(to_client, to_server)
    try:
        for side in (client, server, client, server, client):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue  # the other side's turn
    except ssl.SSLCertVerificationError as error:
        raise UsageError(f"--tls-cert {files.certificate} is of no use to clients: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise UsageError(f"--tls-cert {files.certificate} does not work: {error.reason}") from error


def readable_by_others(path: Path) -> bool:
    """Whether any user of this machine may read a file that is meant to be secret."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _no_password() -> str:
    """Called by OpenSSL for an encrypted key, instead of asking at the terminal."""
    return ""
