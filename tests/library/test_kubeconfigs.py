"""Every kubeconfig that kubectl takes works, for requests and for streams; or it is refused by name before anything."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.fix_apiserver import ADMIN, DRILL, Api
from tests.library.fix_kubeconfigs import Authority, bastion, kubeconfig, stub

from drillbook import kube as k8s
from drillbook.errors import KubernetesError, ParameterError
from drillbook.kube import Kube

EXEC = "client.authentication.k8s.io/v1"


def command(folder: Path, text: str, **more: Any) -> dict[str, Any]:
    """A login command that runs a Python text."""
    script = folder / "login.py"
    script.write_text(text)
    return {
        "exec": {
            "apiVersion": EXEC,
            "command": sys.executable,
            "args": [str(script)],
            "interactiveMode": "Never",
            **more,
        }
    }


def answering(status: dict[str, Any], version: str = EXEC) -> str:
    return (
        f"import json; print(json.dumps({{'kind': 'ExecCredential', 'apiVersion': {version!r}, 'status': {status!r}}}))"
    )


def reached(kube: Kube) -> str:
    """Who we are by a request; and a stream gets as far as the API server's own answer."""
    with pytest.raises(KubernetesError) as missing:
        kube.exec("default", "nowhere", "main", ["true"], timeout_seconds=20)
    assert missing.value.status in (403, 404) and "nowhere" in missing.value.what, missing.value
    return kube.whoami().username


# -- what can't work is named ------------------------------------------------------------------------------------------

HTTPS = "https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("cluster", "user", "says"),
    [
        ({"server": HTTPS, "proxy-url": "socks4://b:1"}, {"token": "x"}, "proxy-url of cluster k is socks4"),
        ({"server": HTTPS, "proxy-url": "bastion:1080"}, {"token": "x"}, "proxy-url of cluster k"),
        ({}, {"token": "x"}, "cluster k has no server"),
        ({"server": HTTPS}, None, "user 'u' is not among the users"),
        ({"server": HTTPS}, {"auth-provider": {"name": "gcp"}}, "auth-provider gcp"),
        ({"server": HTTPS}, {"token": "x", "as-groups": ["a"]}, "without as"),
        ({"server": HTTPS}, {"token": "x", "as-uid": "1"}, "without as"),
        ({"server": HTTPS}, {"token": "x", "as-user-extra": {"a": ["b"]}}, "without as"),
        ({"server": HTTPS}, {"token": "x", "username": "a", "password": "b"}, "only one of them"),
        ({"server": HTTPS}, {"tokenFile": "none"}, "none does not exist"),
        ({"server": HTTPS, "certificate-authority": "none.crt"}, {"token": "x"}, "none.crt"),
        (
            {"server": HTTPS, "certificate-authority-data": base64.b64encode(b"no PEM").decode()},
            {"token": "x"},
            "certificate authority",
        ),
        (
            {"server": HTTPS},
            {"exec": {"apiVersion": EXEC, "command": "no-such-login", "installHint": "get it\nfrom us"}},
            "no-such-login is not installed: get it from us",
        ),
        (
            {"server": HTTPS},
            {"exec": {"apiVersion": EXEC, "command": "./bin/no-such-login"}},
            "no-such-login is not installed",
        ),
        ({"server": HTTPS}, {"exec": {"command": "true"}}, "no apiVersion"),
        (
            {"server": HTTPS},
            {"exec": {"apiVersion": EXEC, "command": "true", "interactiveMode": "Always"}},
            "needs a terminal",
        ),
    ],
)
def test_b25_what_cannot_work_is_named_when_the_client_is_opened(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any] | None, says: str
) -> None:
    with pytest.raises(ParameterError) as refused:
        Kube.open(kubeconfig(tmp_path / "config", cluster, user))
    assert says in str(refused.value) and refused.value.exit_code == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys; print('half way'); sys.exit('session expired: log in')", "ended with 1: session expired: log in"),
        ("print('a token perhaps')", "no ExecCredential"),
        (answering({"token": "s3cret"}, "client.authentication.k8s.io/v1beta1"), "v1beta1"),
        (answering({}), "neither a token nor"),
        (answering({"clientCertificateData": "s3cret"}), "neither a token nor"),
        (answering({"token": "s3cret", "expirationTimestamp": "tomorrow"}), "no ExecCredential"),
    ],
)
def test_b25_a_login_command_that_gives_nothing_is_no_missing_right(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ParameterError) as refused:
        Kube.open(kubeconfig(tmp_path / "config", {"server": HTTPS}, command(tmp_path, text)))
    assert says in str(refused.value) and "s3cret" not in str(refused.value)


def test_b25_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as refused:
        Kube.open(
            kubeconfig(
                tmp_path / "config", {"proxy-url": "ftp://x"}, {"as-uid": "1", "auth-provider": {"name": "oidc"}}
            )
        )
    assert len(refused.value.faults) == 4


# -- who we are --------------------------------------------------------------------------------------------------------


def test_b23_another_identity_is_sent_with_requests_and_with_streams(tmp_path: Path) -> None:
    user = {
        "token": "base",
        "as": "jane",
        "as-uid": "77",
        "as-groups": ["dev", "ops"],
        "as-user-extra": {"example.org/Scope": ["a", "b"], "x%y": ["c"]},
    }
    with stub() as server, Kube.open(kubeconfig(tmp_path / "config", {"server": server.url}, user)) as kube:
        kube.server_version()
        with pytest.raises(KubernetesError, match="no"):
            kube.exec("default", "x", "main", ["true"], timeout_seconds=20)
    wanted = {
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "77"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-example.org%2fscope", "a"),
        ("Impersonate-Extra-example.org%2fscope", "b"),
        ("Impersonate-Extra-x%25y", "c"),
        ("Authorization", "Bearer base"),
    }
    assert any("Upgrade" in dict(headers) for _, headers, _ in server.asked)
    for path, headers, _ in server.asked:
        assert wanted <= set(headers), path


def test_basic_authentication_is_sent(tmp_path: Path) -> None:
    user = {"username": "jane", "password": "a:b"}
    with stub() as server, Kube.open(kubeconfig(tmp_path / "config", {"server": server.url}, user)) as kube:
        kube.server_version()
    sent = dict(server.asked[0][1])["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == "jane:a:b"


def cluster_of(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(api.kubeconfig.read_text())["clusters"][0]["cluster"]
    return found


def test_b39_a_token_that_is_rotated_in_its_file_is_read_again(api: Api, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(ADMIN + "\n")
    with Kube.open(kubeconfig(tmp_path / "config", cluster_of(api), {"tokenFile": "token"})) as kube:
        assert reached(kube) == "lab-admin"
        (tmp_path / "token").write_text(DRILL)
        assert kube.whoami().username.endswith(":drillbook")


@pytest.mark.parametrize("how", ["expired", "refused", "file"])
def test_b39_a_token_that_is_no_longer_taken_is_asked_for_again(api: Api, tmp_path: Path, how: str) -> None:
    """By its own expiry, by the API server's 401, and by a kubeconfig that a person renewed."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{'old' if how != 'expired' else ADMIN}\n")
    if how == "file":
        user: dict[str, Any] = {"token": "old"}
    else:
        expires = ", 'expirationTimestamp': '2020-01-01T00:00:00Z'" if how == "expired" else ""
        text = (
            "import json, pathlib\n"
            f"token = pathlib.Path({str(tokens)!r}).read_text().strip()\n"
            f"print(json.dumps({{'kind': 'ExecCredential', 'apiVersion': {EXEC!r}, 'status': {{'token': token{expires}}}}}))"
        )
        user = command(tmp_path, text)
    path = kubeconfig(tmp_path / "config", cluster_of(api), user)
    with Kube.open(path) as kube:
        if how == "refused":
            with pytest.raises(KubernetesError) as denied:
                kube.whoami()
            assert denied.value.status == 401
        tokens.write_text(DRILL)
        if how == "file":
            kubeconfig(tmp_path / "config", cluster_of(api), {"token": DRILL})
        assert reached(kube).endswith(":drillbook")
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": how, "namespace": "default"}}
        with pytest.raises(KubernetesError, match="forbidden") as other:
            kube.create(made)
        assert other.value.status == 403, "the change was asked for as the new one"


def test_b39_a_login_that_fails_in_the_middle_is_no_wrong_parameter(api: Api, tmp_path: Path) -> None:
    user = command(tmp_path, answering({"token": ADMIN, "expirationTimestamp": "2020-01-01T00:00:00Z"}))
    with Kube.open(kubeconfig(tmp_path / "config", cluster_of(api), user)) as kube:
        command(tmp_path, "import sys; sys.exit('session expired')")
        with pytest.raises(KubernetesError, match=r"log in again: .*session expired") as failed:
            kube.whoami()
    assert failed.value.status == 401


def test_b39_a_client_certificate_that_is_no_longer_taken_is_asked_for_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "who").write_text("old")
    pairs = {
        name: dict(zip(("clientCertificateData", "clientKeyData"), authority.pair(name), strict=True))
        for name in ("old", "new")
    }
    (tmp_path / "pairs").write_text(json.dumps(pairs))
    text = (
        f"import json, pathlib\nhere = pathlib.Path({str(tmp_path)!r})\n"
        "status = json.loads((here / 'pairs').read_text())[(here / 'who').read_text()]\n"
        f"print(json.dumps({{'kind': 'ExecCredential', 'apiVersion': {EXEC!r}, 'status': status}}))"
    )
    with stub(authority) as server:
        cluster = {"server": server.url, "certificate-authority": "ca.crt"}
        with Kube.open(kubeconfig(tmp_path / "config", cluster, command(tmp_path, text))) as kube:
            kube.server_version()
            server.takes = lambda headers, name: name == "new"
            (tmp_path / "who").write_text("new")
            with pytest.raises(KubernetesError) as refused:
                kube.exec("default", "x", "main", ["true"], timeout_seconds=20)
            assert refused.value.status == 403, "the stub's answer to whom it takes"
            kube.server_version()
    assert [name for _, _, name in server.asked][:3] == ["old", "old", "new"]
    assert {name for _, _, name in server.asked[3:]} == {"new"}


# -- the way there -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "kind"), [("socks5://", "socks5"), ("http://", "connect"), ("", "connect")])
def test_b21_a_bastion_that_the_environment_names_is_passed_too(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, kind: str
) -> None:
    cluster = cluster_of(api) | {"server": "https://api.nowhere.invalid:6443", "tls-server-name": "localhost"}
    with bastion(api.serving.port) as way:
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}127.0.0.1:{way.port}")
        with Kube.open(kubeconfig(tmp_path / "config", cluster, {"token": ADMIN})) as kube:
            assert reached(kube) == "lab-admin"
    assert {found for found, _ in way.asked} == {kind}


def test_b21_a_proxy_of_the_environment_that_cannot_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks4://127.0.0.1:1")
    with pytest.raises(ParameterError, match="HTTPS_PROXY"):
        Kube.open(kubeconfig(tmp_path / "config", {"server": HTTPS}, {"token": "x"}))


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "http"])
def test_b21_a_bastion_is_passed_by_requests_and_by_streams(api: Api, tmp_path: Path, scheme: str) -> None:
    """The name is resolved by the bastion: here nobody knows it."""
    with bastion(api.serving.port) as way:
        cluster = cluster_of(api) | {
            "server": "https://api.nowhere.invalid:6443",
            "tls-server-name": "localhost",
            "proxy-url": f"{scheme}://{'jane:word@' if scheme == 'http' else ''}127.0.0.1:{way.port}",
        }
        with Kube.open(kubeconfig(tmp_path / "config", cluster, {"token": ADMIN})) as kube:
            assert reached(kube) == "lab-admin"
    assert len(way.asked) >= 2
    login = "Proxy-Authorization: Basic " + base64.b64encode(b"jane:word").decode()
    kind, said = ("connect", login) if scheme == "http" else ("socks5", "api.nowhere.invalid")
    assert {(found, text.lower()) for found, text in way.asked} == {(kind, said.lower())}


def test_b21_a_bastion_that_is_away_is_no_answer(tmp_path: Path) -> None:
    cluster = {"server": HTTPS, "proxy-url": "socks5://127.0.0.1:9"}
    with Kube.open(kubeconfig(tmp_path / "config", cluster, {"token": "x"})) as kube:
        for ask in (kube.whoami, lambda: kube.exec("default", "x", "main", ["true"], timeout_seconds=20)):
            with pytest.raises(KubernetesError, match="no answer"):
                ask()


@pytest.mark.parametrize("how", [{"insecure-skip-tls-verify": True}, {"tls-server-name": "localhost"}])
def test_a_server_of_another_name_is_reached_as_the_kubeconfig_says(
    api: Api, tmp_path: Path, how: dict[str, Any]
) -> None:
    cluster = cluster_of(api) | how
    if "insecure-skip-tls-verify" in how:
        del cluster["certificate-authority-data"]
    with Kube.open(kubeconfig(tmp_path / "config", cluster, {"token": ADMIN})) as kube:
        assert reached(kube) == "lab-admin"
        assert kube.get(k8s.NAMESPACE, "", "default")


def test_the_context_that_is_named_counts_and_files_are_merged(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "token").write_text(DRILL)
    kubeconfig(tmp_path / "a", cluster_of(api), {"token": ADMIN})
    other = {
        "contexts": [{"name": "d", "context": {"cluster": "k", "user": "v"}}],
        "clusters": [],
        "users": [{"name": "v", "user": {"tokenFile": "token"}}],
    }
    (tmp_path / "b" / "config").write_text(yaml.safe_dump(other))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'a'}:{tmp_path / 'b' / 'config'}:{tmp_path / 'none'}")
    with Kube.open() as kube:
        assert kube.whoami().username == "lab-admin"
    with Kube.open(context="d") as kube:
        assert kube.whoami().username.endswith(":drillbook"), "a relative path begins at its own file"
