"""The cluster's keys, certificates, static tokens and kubeconfigs.

Certificates carry the extensions Python 3.13 insists on by default (ssl.VERIFY_X509_STRICT, RFC 5280):
critical basicConstraints and keyUsage in the CA, key identifiers in both.
"""

import secrets
from pathlib import Path

import yaml

from harness import network
from harness.processes import run
from harness.state import ClusterDir

NODE_NAME = "node-a"
_DAYS = "3650"
_EC_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_IDENTITIES = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
}
_EXTENSIONS = f"""
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:kubernetes, DNS:kubernetes.default, DNS:kubernetes.default.svc, DNS:localhost, \
IP:127.0.0.1, IP:{network.API_ADDRESS}, IP:{network.FIRST_SERVICE_ADDRESS}
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def _certificate(pki: Path, name: str, subject: str, extensions: str, *, signed: bool) -> None:
    argv = ["openssl", "req", "-x509", *_EC_KEY, "-days", _DAYS, "-config", str(pki / "openssl.cnf")]
    argv += ["-extensions", extensions, "-subj", subject]
    argv += ["-keyout", str(pki / f"{name}.key"), "-out", str(pki / f"{name}.crt")]
    if signed:
        argv += ["-CA", str(pki / "ca.crt"), "-CAkey", str(pki / "ca.key")]
    run(argv, f"Making the certificate {name}.crt")


def write_kubeconfig(path: Path, user: str, token: str, server: str, ca: Path) -> None:
    """Write a kubeconfig with one cluster, one user and one context."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sockethealth-test", "cluster": {"server": server, "certificate-authority": str(ca)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "sockethealth-test", "context": {"cluster": "sockethealth-test", "user": user}}],
        "current-context": "sockethealth-test",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))


def kubeconfig_of(directory: ClusterDir, identity: str) -> Path:
    """The kubeconfig of a component, such as `kubelet`, or of `admin`."""
    return directory.path / f"{identity}.kubeconfig"


def create(directory: ClusterDir, server: str) -> None:
    """Make all keys, certificates, tokens and kubeconfigs of a cluster whose API server is at `server`.

    Raises:
        HarnessError: openssl is missing or failed.
    """
    pki = directory.pki
    pki.mkdir(mode=0o700)
    (pki / "openssl.cnf").write_text(_EXTENSIONS)
    _certificate(pki, "ca", "/CN=sockethealth-test-ca", "authority", signed=False)
    _certificate(pki, "apiserver", "/CN=kube-apiserver", "server", signed=True)
    _certificate(pki, "kubelet-client", "/O=system:masters/CN=kubelet-client", "client", signed=True)
    signing_key, public_key = str(pki / "service-accounts.key"), str(pki / "service-accounts.pub")
    curve = "ec_paramgen_curve:prime256v1"
    run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", signing_key],
        "Making the key that signs service-account tokens",
    )
    run(
        ["openssl", "pkey", "-in", signing_key, "-pubout", "-out", public_key],
        "Making the public key of service-account tokens",
    )
    lines = []
    for identity, (user, group) in _IDENTITIES.items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{identity},"{group}"\n')
        write_kubeconfig(kubeconfig_of(directory, identity), user, token, server, pki / "ca.crt")
    tokens = pki / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text("".join(lines))
