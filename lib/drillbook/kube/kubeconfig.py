"""How to reach the API server and who we are there: everything that kubectl reads from a kubeconfig, or why not.

The official client's loader does the plain part. What it passes over in silence (a login command that isn't there,
impersonation, a client certificate that expires) is done here; what nobody can do is a fault with its name. All faults
of a kubeconfig are raised at once, when it is opened.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import shutil
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger

from drillbook.errors import ParameterError

Object = dict[str, Any]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_PROXIES = ("http", "https", "socks5", "socks5h")
# A login command may ask a person to log in by a browser.
_LOGIN_SECONDS = 300
_LEEWAY = timedelta(seconds=30)
# What RFC 7230 allows in a header's name, as client-go escapes the keys of user extra.
_IN_A_NAME = "!#$&'*+-.^_`|~"


@dataclass(frozen=True)
class Login:
    """What a login command answered: entries for the user, and until when they hold."""

    entries: Object
    expires: datetime | None


class Access:
    """The way to one API server. Not safe to use from several threads at once: the transport sees to that."""

    def __init__(self, kubeconfig: str, context: str) -> None:
        """The named kubeconfig, else $KUBECONFIG, else ~/.kube/config, else in a pod its own account.

        ParameterError with every fault, if it can't be used.
        """
        self._chosen = kubeconfig or os.environ.get("KUBECONFIG", "")
        self._context = context
        self._expires: datetime | None = None
        self._token_file: Path | None = None
        self._impersonation: tuple[tuple[str, str], ...] = ()
        self._cluster: Object = {}
        self.configuration = self._load()

    # -- loading -------------------------------------------------------------------------------------------------------

    def _load(self) -> client.Configuration:
        configuration = client.Configuration()
        configuration.retries = urllib3.Retry(0)  # `Endurance` asks again: it knows what may be repeated
        configuration.connection_pool_maxsize = 16
        home = Path("~/.kube/config").expanduser()
        try:
            if not self._chosen and not home.is_file() and _SERVICE_ACCOUNT.is_file():
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
                self._cluster = _cluster_info(
                    {"server": configuration.host, "certificate-authority": configuration.ssl_ca_cert}, Path("/")
                )
            else:
                self._read(self._chosen or str(home), configuration)
            _proxy(configuration)
            _usable(configuration)
        except (config.ConfigException, OSError) as error:
            raise unusable([str(error)]) from error
        except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
            # The loader stumbles over what is no kubeconfig; its words may quote the file, and with it a token.
            raise unusable([f"{self._chosen or home} can't be read as a kubeconfig ({type(error).__name__})"]) from None
        return configuration

    def _read(self, paths: str, configuration: client.Configuration) -> None:
        merged = KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]
        if merged is None:
            raise config.ConfigException(f"Invalid kube-config file. No configuration found in {paths}")
        loader = KubeConfigLoader(merged, active_context=self._context or None, config_base_path=None)  # type: ignore[no-untyped-call]
        context = _plain(loader.current_context).get("context") or {}
        cluster, user = _plain(loader._cluster), _user(merged, str(context.get("user") or ""))
        faults = [*_cluster_faults(str(context.get("cluster")), cluster), *_user_faults(context, user)]
        folder, of_cluster = _folder(loader._user, paths), _folder(loader._cluster, paths)
        given = copy.deepcopy(user or {})
        self._expires, self._token_file = None, None
        if not faults and (command := given.pop("exec", None)):
            if given.get("token") or given.get("tokenFile") or given.get("client-certificate-data"):
                pass  # as kubectl: what is in the file comes first
            else:
                login, faults = _log_in(command, folder, lambda: _cluster_info(cluster, of_cluster))
                given |= login.entries
                self._expires = login.expires
        if given.get("tokenFile"):
            self._token_file = folder / str(given["tokenFile"])
            faults += [] if self._token_file.is_file() else [f"the token's file {self._token_file} does not exist"]
        if faults:
            raise unusable(faults)
        if loader._user is not None:
            loader._user = ConfigNode("user", given, getattr(loader._user, "path", None))  # type: ignore[no-untyped-call]
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
        configuration.refresh_api_key_hook = None  # it would put back what was read first
        self._impersonation = impersonation(given)
        self._cluster = _cluster_info(cluster, of_cluster)

    # -- using ---------------------------------------------------------------------------------------------------------

    def headers(self) -> list[tuple[str, str]]:
        """Authorization and impersonation, as they are now; a token's file is read again each time."""
        if self._token_file is not None:
            self.configuration.api_key["BearerToken"] = f"Bearer {self._token_file.read_text(encoding='utf-8').strip()}"
        bearer = self.configuration.auth_settings().get("BearerToken", {}).get("value")
        return ([("Authorization", str(bearer))] if bearer else []) + list(self._impersonation)

    @property
    def cluster_entry(self) -> Object:
        """The cluster as another kubeconfig may have it, its CA inlined; a proxy's user and password are left out."""
        found = {key: value for key, value in self._cluster.items() if key != "config"}
        if proxy := str(found.get("proxy-url") or ""):
            parts = urlsplit(proxy)
            found["proxy-url"] = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return found

    @property
    def expired(self) -> bool:
        """Whether what the login command gave holds no longer."""
        return self._expires is not None and datetime.now(UTC) > self._expires - _LEEWAY

    def renew(self) -> bool:
        """Read everything again, and log in again where a command does it; whether other credentials were found."""
        before = _credentials(self.configuration)
        self.configuration = self._load()
        return _credentials(self.configuration) != before


def unusable(faults: list[str]) -> ParameterError:
    """The error for a kubeconfig that can't be used."""
    return ParameterError(
        [fault if len(fault) <= 400 else f"{fault[:399]}…" for fault in faults],
        where="The way to the Kubernetes API",
        todo="Name a kubeconfig and a context in the profile (kubernetes:), or set KUBECONFIG.",
    )


def _folder(node: Any, paths: str) -> Path:
    """Where the file is that an entry is in: its relative paths begin there."""
    return Path(getattr(node, "path", None) or paths).expanduser().absolute().parent


def _plain(node: Any) -> Object:
    value = node.value if isinstance(node, ConfigNode) else node
    return value if isinstance(value, dict) else {}


def _user(merged: Any, name: str) -> Object | None:
    """The named user's entry; None if there is no such name."""
    users = merged.value.get("users") or []
    found = [_plain(item) for item in users if _plain(item).get("name") == name]
    return (found[0].get("user") or {}) if found else None


def _cluster_faults(name: str, cluster: Object) -> list[str]:
    faults = [] if cluster.get("server") else [f"cluster {name} has no server"]
    proxy = str(cluster.get("proxy-url") or "")
    if proxy and urlsplit(proxy).scheme.lower() not in _PROXIES:
        faults.append(
            f"proxy-url of cluster {name} is {urlsplit(proxy).scheme or 'no URL'}: only {', '.join(_PROXIES)} work"
        )
    return faults


def _user_faults(context: Object, user: Object | None) -> list[str]:
    name = str(context.get("user") or "")
    if user is None:
        return [f"the context's user {name!r} is not among the users"] if name else []
    faults = []
    if "auth-provider" in user:
        provider = (user["auth-provider"] or {}).get("name", "")
        faults.append(
            f"user {name} logs in by auth-provider {provider}, which kubectl took out in 1.26: use its exec plugin"
        )
    if not user.get("as") and any(user.get(key) for key in ("as-uid", "as-groups", "as-user-extra")):
        faults.append(f"user {name} has as-uid, as-groups or as-user-extra without as: nobody is impersonated")
    if "username" in user and (user.get("token") or user.get("tokenFile")):
        faults.append(f"user {name} has both a token and a password: kubectl takes only one of them")
    return faults


def impersonation(user: Object) -> tuple[tuple[str, str], ...]:
    """The headers by which the user acts as another one; each group and each value of extra is its own header."""
    found = [("Impersonate-User", str(user["as"]))] if user.get("as") else []
    found += [("Impersonate-Uid", str(user["as-uid"]))] if user.get("as-uid") else []
    found += [("Impersonate-Group", str(group)) for group in user.get("as-groups") or []]
    for key, values in (user.get("as-user-extra") or {}).items():
        found += [
            (f"Impersonate-Extra-{quote(str(key), safe=_IN_A_NAME).lower()}", str(value)) for value in values or []
        ]
    return tuple(found)


def _log_in(command: Object, folder: Path, cluster_info: Callable[[], Object]) -> tuple[Login, list[str]]:
    """Run a login command (client.authentication.k8s.io) and read its answer; no shell is involved."""
    none = Login({}, None)
    name = str(command.get("command") or "")
    version = str(command.get("apiVersion") or "")
    hint = " ".join(str(command.get("installHint") or "").split())
    program = shutil.which(str(folder / name) if "/" in name and not name.startswith("/") else name)
    interactive = sys.stdin is not None and sys.stdin.isatty() and command.get("interactiveMode") != "Never"
    if not name or not version:
        return none, ["the login command (exec) has no command or no apiVersion"]
    if program is None:
        return none, [f"the login command {name} is not installed" + (f": {hint}" if hint else "")]
    if command.get("interactiveMode") == "Always" and not interactive:
        return none, [f"the login command {name} needs a terminal (interactiveMode: Always)"]
    spec: Object = {"interactive": interactive}
    if command.get("provideClusterInfo"):
        spec["cluster"] = cluster_info()
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    given = {str(item["name"]): str(item["value"]) for item in command.get("env") or []}
    try:
        done = subprocess.run(
            [program, *map(str, command.get("args") or [])],
            env={**os.environ, **given, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if interactive else subprocess.PIPE,
            timeout=_LOGIN_SECONDS,
            check=False,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return none, [f"the login command {name} could not be run ({type(error).__name__})"]
    if done.returncode:
        last = (done.stderr or "").strip().splitlines()[-1:]
        return none, [f"the login command {name} ended with {done.returncode}: {' '.join(last) or 'it said nothing'}"]
    return _answer(name, version, done.stdout)


def _answer(name: str, version: str, text: str) -> tuple[Login, list[str]]:
    # Nothing of the answer is quoted: it holds the credentials.
    none = Login({}, None)
    try:
        said = json.loads(text)
        status = said["status"]
        expires = status.get("expirationTimestamp")
        until = datetime.fromisoformat(str(expires).replace("Z", "+00:00")) if expires else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return none, [f"the login command {name} gave no ExecCredential with a status"]
    if said.get("apiVersion") != version:
        return none, [f"the login command {name} answers as {said.get('apiVersion')}, the kubeconfig says {version}"]
    found: Object = {}
    if status.get("token"):
        found["token"] = str(status["token"])
    if status.get("clientCertificateData") and status.get("clientKeyData"):
        for entry, field in (
            ("client-certificate-data", "clientCertificateData"),
            ("client-key-data", "clientKeyData"),
        ):
            found[entry] = base64.b64encode(str(status[field]).encode()).decode()
    if not found:
        return none, [f"the login command {name} gave neither a token nor a client certificate with its key"]
    return Login(found, until), []


def _cluster_info(cluster: Object, folder: Path) -> Object:
    """The cluster as a login command is given it (ExecCredential's spec.cluster)."""
    found: Object = {
        key: cluster[key]
        for key in ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
        if key in cluster
    }
    if data := cluster.get("certificate-authority-data"):
        found["certificate-authority-data"] = data
    elif file := cluster.get("certificate-authority"):
        found["certificate-authority-data"] = base64.b64encode((folder / str(file)).read_bytes()).decode()
    for item in cluster.get("extensions") or []:
        if item.get("name") == "client.authentication.k8s.io/exec":
            found["config"] = item.get("extension")
    return found


def _proxy(configuration: client.Configuration) -> None:
    """A proxy's user and password go into a header; a SOCKS proxy resolves the name, as it does for kubectl."""
    if not configuration.proxy:
        return
    if "://" not in str(configuration.proxy):
        configuration.proxy = f"http://{configuration.proxy}"  # as HTTPS_PROXY may be written
    parts = urlsplit(str(configuration.proxy))
    if parts.scheme.lower() not in _PROXIES:
        raise unusable([f"the proxy (HTTPS_PROXY) is {parts.scheme}: only {', '.join(_PROXIES)} work"])
    if parts.scheme.lower() == "socks5":
        configuration.proxy = parts._replace(scheme="socks5h").geturl()
    elif parts.username and parts.scheme.lower() in ("http", "https"):
        configuration.proxy = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        login = f"{parts.username}:{parts.password or ''}"
        configuration.proxy_headers = urllib3.util.make_headers(proxy_basic_auth=login)


def tls(configuration: client.Configuration) -> ssl.SSLContext | bool:
    """TLS as the kubeconfig asks for it, for clients other than the official one; True for plain HTTP."""
    if not configuration.host.startswith("https:"):
        return True
    made = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data or None)
    # Newer Pythons set this, urllib3 does not: many clusters' own CAs lack a key identifier.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify_ssl:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        made.load_cert_chain(configuration.cert_file, configuration.key_file)
    return made


def _usable(configuration: client.Configuration) -> None:
    """Certificates and keys are loaded once, so that one that is none is named before anything is sent."""
    try:
        tls(configuration)
    except ssl.SSLError as error:
        raise unusable(
            [
                f"the kubeconfig's certificate authority, client certificate or key is not usable: {error.reason or error}"
            ]
        ) from error
    if not configuration.verify_ssl:
        # It was asked for (insecure-skip-tls-verify); once for each request helps nobody.
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)


def _credentials(configuration: client.Configuration) -> tuple[Any, ...]:
    """What would show that other credentials were found: the token, and the client certificate by its content."""
    files = (configuration.cert_file, configuration.key_file)
    return (configuration.api_key.get("BearerToken"), *(Path(file).read_bytes() if file else b"" for file in files))
