"""Certificates: the system's own authority, and the identity of a node as a certificate of it.

A node's certificate names system, node, machine and the users for whom it may speak, in a URI of its alternative names. Keys are P-256. The library for
it is big: whoever runs long calls this module as a program (`python -m unios.kernel.certificates`, one JSON object in, one out).
"""

import datetime
import hashlib
import ipaddress
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from unios import durable
from unios.core.validity import DATED_BACK_MS
from unios.errors import InternalError, ProtocolError
from unios.security_limits import AUTHORITY_LIFE_S, CERTIFICATE_LIFE_S

SCHEME: Final = "unios"
LIFE_VARIABLE: Final = "UNIOS_CERTIFICATE_LIFE_S"
"""Another life of nodes' certificates, in seconds: for tests of what else takes a quarter of a year."""


class Identity(NamedTuple):
    """Who a certificate says that its holder is. `users`: for whom it may speak; "*" is everybody."""

    system: str
    node: str
    machine: str
    users: tuple[str, ...]

    def uri(self) -> str:
        query = urlencode({"machine": self.machine, "users": ",".join(quote(user, safe="*") for user in self.users)})
        return f"{SCHEME}://{self.system}/{quote(self.node)}?{query}"


def parse_uri(uri: str) -> Identity:
    """Return the identity in a certificate's URI. Raises ProtocolError."""
    try:
        parts = urlsplit(uri)
        query = parse_qs(parts.query, strict_parsing=True)
        users = tuple(unquote(user) for user in query["users"][0].split(","))
        found = Identity(parts.netloc, unquote(parts.path.lstrip("/")), query["machine"][0], users)
    except (ValueError, KeyError, IndexError) as error:
        raise ProtocolError("the peer's certificate carries no identity of a unios node") from error
    if parts.scheme != SCHEME or not all((found.system, found.node, found.machine)):
        raise ProtocolError("the peer's certificate carries no identity of a unios node")
    return found


def identity_of(certificate: Mapping[str, Any] | None) -> Identity | None:
    """Return who a verified certificate (as ssl.getpeercert gives it) is; None if the peer showed none. Raises ProtocolError."""
    if not certificate:
        return None
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI":
            return parse_uri(value)
    raise ProtocolError("the peer's certificate carries no identity of a unios node")


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, durably and at once."""
    durable.place(path, data)


def mark(pem: bytes) -> str:
    """Return the SHA-256 of a node's certificate as records name it, hex."""
    return mark_der(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))


def mark_der(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


# What follows needs `cryptography` and imports it late.


def make_authority(folder: Path, system: str) -> None:
    """Make the authority's key and certificate in `folder`, unless they are there."""
    durable.make_folders(folder)
    if (folder / "ca.key").exists() and (folder / "ca.crt").exists():
        return
    key, certificate = new_authority(f"unios {system}")
    write_secret(folder / "ca.key", key)
    write_secret(folder / "ca.crt", certificate)


def new_authority(name: str) -> tuple[bytes, bytes]:
    """Return the key and the certificate, PEM, of an authority that is called so."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), AUTHORITY_LIFE_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    return _pem(key), builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def issue(key_pem: bytes, certificate_pem: bytes, name: str, hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a new key and its certificate, PEM, by that authority, for whoever is reached at `hosts`, names or IP addresses."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    authority = x509.load_pem_x509_certificate(certificate_pem)
    signer = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not of an elliptic curve")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])]), authority.subject, key.public_key(), AUTHORITY_LIFE_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return _pem(key), builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _host(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def make_key() -> tuple[bytes, bytes]:
    """Return a new private key and its public key, PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _pem(key), public


def sign(folder: Path, public_key: bytes, identity: Identity) -> bytes:
    """Return a certificate, PEM, by the authority in `folder`. Raises ValueError if the public key is none."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    try:
        holder = serialization.load_pem_public_key(public_key)
    except UnsupportedAlgorithm as error:
        raise ValueError(f"the key is of a kind that is not known: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(holder, ec.EllipticCurvePublicKey):
        raise ValueError("the key is not of an elliptic curve")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, identity.node[:64])])
    life_s = int(os.environ.get(LIFE_VARIABLE, CERTIFICATE_LIFE_S))
    builder = _builder(name, authority.subject, holder, life_s, authority.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri())]), critical=False)
    signed: bytes = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return signed


def issued_by(leaf_der: bytes, authority_pem: bytes) -> bool:
    """Return whether the authority signed that certificate."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        x509.load_der_x509_certificate(leaf_der).verify_directly_issued_by(x509.load_pem_x509_certificate(authority_pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def fingerprint(certificate_pem: bytes) -> str:
    """Return the SHA-256 of a certificate, hex."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem


def _builder(subject: Any, issuer: Any, key: Any, life_s: int, end: datetime.datetime | None = None) -> Any:
    """`end`: the authority's own, after which nothing that it signed holds."""
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(seconds=life_s)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(milliseconds=DATED_BACK_MS))  # clocks of machines differ
        .not_valid_after(min(until, end) if end is not None else until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> Any:
    from cryptography import x509

    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **dict.fromkeys(names, False))


# as a program


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Do one request: {"sign": public key, "ca": folder, "identity": [...]}, {"fingerprint": certificate}, or {"issue": [authority's key, its certificate,
    name, hosts]}, {"key": true}, {"authority": name}."""
    if "authority" in request:
        secret, made = new_authority(request["authority"])
        return {"key": secret.decode(), "certificate": made.decode()}
    if "key" in request:
        key, public = make_key()
        return {"key": key.decode(), "public": public.decode()}
    if "sign" in request:
        system, node, machine, users = request["identity"]
        return {"certificate": sign(Path(request["ca"]), request["sign"].encode(), Identity(system, node, machine, tuple(users))).decode()}
    if "issue" in request:
        authority, certificate, name, hosts = request["issue"]
        key, issued = issue(authority.encode(), certificate.encode(), name, hosts)
        return {"key": key.decode(), "certificate": issued.decode()}
    return {"fingerprint": fingerprint(request["fingerprint"].encode())}


def ask(request: dict[str, Any], timeout_s: float = 20.0) -> dict[str, Any]:
    """Do one request in a program of its own. Blocks; raises InternalError."""
    command = [sys.executable, "-P", "-m", "unios.kernel.certificates"]
    done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=timeout_s, check=False, cwd="/")
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise InternalError(f"the certificate could not be made: {words[-1] if words else done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
