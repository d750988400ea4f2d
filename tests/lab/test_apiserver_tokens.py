"""Service accounts' tokens: asked for, used, and over; and what a review says of them."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from fix_apiserver import ADMIN, Api, Kubectl, cleanly

from drillbook_lab.api.tokens import TokenDirectory, kept_tokens

ME = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def call(api: Api, method: str, path: str, token: str, body: Any = None) -> tuple[int, Any]:
    async def go() -> tuple[int, Any]:
        trust = ssl.create_default_context(cafile=str(api.serving.tls.ca))
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.request(method, api.url + path, json=body, ssl=trust) as response,
        ):
            return response.status, await response.json()

    return asyncio.run(cleanly(go()))


@pytest.fixture
def account(api: Api) -> str:
    """The uid of the service account `robot`."""
    made = api.do(
        api.registry.create,
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "robot", "namespace": "default"},
        },
    )
    return str(made["metadata"]["uid"])


def ask(api: Api, **spec: Any) -> tuple[int, Any]:
    return call(api, "POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", ADMIN, {"spec": spec})


def test_a_token_speaks_for_its_account(api: Api, account: str) -> None:
    code, made = ask(api, expirationSeconds=600)
    assert (code, made["kind"], made["spec"]["expirationSeconds"]) == (201, "TokenRequest", 600)
    token = made["status"]["token"]
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("system:serviceaccount:default:robot", 600)
    code, review = call(api, "POST", ME, token, {})
    info = review["status"]["userInfo"]
    assert (code, info["username"], info["uid"]) == (201, "system:serviceaccount:default:robot", account)
    assert "system:serviceaccounts:default" in info["groups"]
    assert call(api, "GET", "/api/v1/namespaces/default/pods", token)[0] == 403  # known, and no role


def test_a_token_ends(api: Api, account: str) -> None:
    token = api.tokens.issue("default", "robot", account, 4)
    assert call(api, "POST", ME, token, {})[0] == 201
    while api.tokens.claims(token) is not None:
        asyncio.run(asyncio.sleep(0.05))
    code, said = call(api, "POST", ME, token, {})
    assert (code, said["reason"]) == (401, "Unauthorized")
    assert call(api, "POST", ME, ADMIN, {})[0] == 201  # a kubeconfig's token has no end


def test_a_token_ends_with_its_account_and_with_the_pod_it_is_bound_to(api: Api, account: str) -> None:
    uid = api.pod("p")["metadata"]["uid"]
    bound = ask(api, boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid})[1]["status"]["token"]
    free = ask(api)[1]["status"]["token"]
    assert [call(api, "POST", ME, token, {})[0] for token in (bound, free)] == [201, 201]
    api.do(api.registry.delete, "Pod", "default", "p")
    assert [call(api, "POST", ME, token, {})[0] for token in (bound, free)] == [401, 201]
    api.do(api.registry.delete, "ServiceAccount", "default", "robot")
    assert call(api, "POST", ME, free, {})[0] == 401


def test_what_a_request_may_not_ask(api: Api, account: str) -> None:
    code, said = ask(api, expirationSeconds=10)
    assert code == 422
    assert (
        "spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes" in said["message"]
    )
    assert ask(api, boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "none"})[0] == 404
    assert ask(api, boundObjectRef={"kind": "Node", "apiVersion": "v1", "name": "n"})[0] == 400
    code, _ = call(api, "POST", "/api/v1/namespaces/default/serviceaccounts/nobody/token", ADMIN, {})
    assert code == 404


def test_a_review_of_a_token(api: Api, account: str) -> None:
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    elsewhere = ask(api, audiences=["https://elsewhere"])[1]["status"]["token"]

    def review(token: str, **spec: Any) -> Any:
        return call(api, "POST", path, ADMIN, {"spec": {"token": token, **spec}})[1]["status"]

    good = review(ask(api)[1]["status"]["token"])
    assert (good["authenticated"], good["user"]["username"]) == (True, "system:serviceaccount:default:robot")
    assert review("nonsense") == {"user": {}, "error": "invalid bearer token"}
    assert "authenticated" not in review(elsewhere)
    assert review(elsewhere, audiences=["https://elsewhere"])["audiences"] == ["https://elsewhere"]
    assert call(api, "POST", ME, elsewhere, {})[0] == 401
    assert call(api, "POST", path, ask(api)[1]["status"]["token"], {"spec": {"token": "x"}})[0] == 403


def bare(api: Api) -> Path:
    """A kubeconfig that knows the server and nobody."""
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"] = []
    config["contexts"] = [{"name": "bare", "context": {"cluster": config["clusters"][0]["name"], "user": ""}}]
    config["current-context"] = "bare"
    path = api.folder / "bare"
    path.write_text(yaml.safe_dump(config))
    return path


def test_kubectl_creates_a_token_and_is_somebody_with_it(api: Api, kubectl: Kubectl, account: str) -> None:
    token = kubectl("create", "token", "robot", "--duration", "20m").strip()
    bearer = kubectl("auth", "whoami", "--token", token, "--server", api.url, "--kubeconfig", str(bare(api)))
    assert "system:serviceaccount:default:robot" in bearer


def test_an_altered_token_is_nobodys() -> None:
    tokens = TokenDirectory()
    token = tokens.issue("ns", "robot", "uid", 600)
    head, payload, signature = token.split(".")
    other = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "==").replace(b"robot", b"admin")).decode()
    assert tokens.who(f"Bearer {token}") is not None
    assert tokens.who(f"Bearer {head}.{other.rstrip('=')}.{signature}") is None
    assert TokenDirectory().who(f"Bearer {token}") is None


def test_tokens_and_their_key_stay(tmp_path: Path) -> None:
    first = kept_tokens(tmp_path / "tokens.json", ("lab", "lab-admin"))
    assert kept_tokens(tmp_path / "tokens.json", ("lab", "lab-admin")) == first
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0
