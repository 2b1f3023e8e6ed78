"""A private CA and the certificates it gives out, made by openssl for one run."""

import itertools
import os
import subprocess

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]


class Authority:
    def __init__(self, folder):
        os.makedirs(folder)
        self.folder = folder
        self.numbers = itertools.count(1)
        usage = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        name = f"private CA {os.path.basename(folder)}"
        self.certificate = self._make("ca", name, usage)

    def _make(self, file, name, extensions, signed=()):
        path = os.path.join(self.folder, file)
        command = ["openssl", "req", "-x509", *KEY, *signed, "-subj", f"/CN={name}"]
        command += ["-keyout", f"{path}.key", "-out", f"{path}.pem"]
        command += [word for extension in extensions for word in ("-addext", extension)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        assert done.returncode == 0, f"openssl: {done.stderr.decode(errors='replace').strip()[-400:]}"
        os.chmod(f"{path}.key", 0o600)
        return f"{path}.pem"

    def flags(self, *names):
        """What a server is told to show a certificate for these names, written `IP:…` or `DNS:…`."""
        extensions = [f"subjectAltName={','.join(names)}", "basicConstraints=critical,CA:FALSE"]
        by = ["-CA", self.certificate, "-CAkey", self.certificate.replace(".pem", ".key")]
        path = self._make(f"server-{next(self.numbers)}", "server", extensions, by)
        return ["--tls-cert", path, "--tls-key", path.replace(".pem", ".key")]
