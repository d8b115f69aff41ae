"""Patterns, rules, passwords, tokens, certificates, throttling."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.registry import Action, Caller, Grant, Identity
from sampan.registry.access import certificates, scopes, tokens
from sampan.registry.access.control import AccessControl
from sampan.registry.access.htpasswd import BadUsersFile, Passwords, parse
from sampan.registry.access.rules import Rule, Rules
from sampan.registry.access.throttle import Throttle
from sampan.registry.access.tokens import BadKeys, ForeignKey, ForeignTokens, OwnTokens
from sampan.registry.errors import TooManyRequests, Unauthenticated
from sampan.registry.patterns import Patterns

NOW = 1_700_000_000
KEY = b"k" * 32


class Clock:
    def __init__(self) -> None:
        self.now_s = float(NOW)

    def __call__(self) -> float:
        return self.now_s


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("team/*", ["team/a", "team/"], ["team", "team/a/b", "other/a"]),
        ("team/**", ["team/a", "team/a/b"], ["team", "teams/a"]),
        ("**", ["a", "a/b/c"], []),
        ("v?.*", ["v1.2", "v1."], ["v12.1", "v1"]),
        ("a.b", ["a.b"], ["axb"]),
        ("**/cache", ["x/cache", "x/y/cache"], ["cache", "x/cache/y"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    one = Patterns((pattern,))
    assert [name for name in matching if not one.match(name)] == []
    assert [name for name in others if one.match(name)] == []


@pytest.mark.parametrize("pattern", ["", "*a" * 9, "x" * 600])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match="invalid pattern"):
        Patterns((pattern,))


@given(st.text(alphabet="ab/.-", max_size=30))
def test_a_name_without_wildcards_matches_itself_alone(name: str) -> None:
    if name:
        assert Patterns((name,)).match(name)
        assert not Patterns((name,)).match(name + "a")


def rule(repositories: str, actions: str, users: str = "", groups: str = "") -> Rule:
    wanted: list[Any] = actions.split()
    return Rule(
        repositories=Patterns(repositories.split()),
        actions=frozenset(wanted),
        users=frozenset(users.split()),
        groups=frozenset(groups.split()),
    )


@pytest.fixture
def rules() -> Rules:
    return Rules(
        [
            rule("team/**", "pull push", groups="dev"),
            rule("shared/*", "pull", users="*"),
            rule("**", "pull push delete admin", users="root"),
            rule("team/**", "admin", users="carl"),
        ],
        anonymous=Patterns(("public/**",)),
        groups={"dev": frozenset({"alice"})},
    )


@pytest.mark.parametrize(
    ("name", "groups", "action", "repository", "allowed"),
    [
        ("alice", (), "push", "team/a", True),
        ("alice", (), "delete", "team/a", False),
        ("alice", (), "push", "shared/a", False),
        ("alice", (), "pull", "shared/a", True),
        ("alice", (), "pull", "public/a", True),
        ("alice", (), "push", "public/a", False),
        ("alice", (), "pull", "", True),
        ("alice", (), "admin", "", False),
        ("bob", (), "pull", "team/a", False),
        ("bob", ("dev",), "pull", "team/a", True),
        ("root", (), "admin", "", True),
        ("carl", (), "admin", "", False),
        ("", (), "pull", "public/a", True),
        ("", (), "push", "public/a", False),
        ("", (), "pull", "shared/a", False),
        ("", (), "pull", "", False),
        ("", (), "admin", "", False),
    ],
)
def test_rules(
    rules: Rules, name: str, groups: tuple[str, ...], action: Action, repository: str, allowed: bool
) -> None:
    assert rules.allow(Identity(name=name, groups=groups), action, repository) is allowed


def test_without_rules_users_do_everything_but_administer() -> None:
    rules = Rules([])
    someone = Identity(name="someone")
    assert rules.allow(someone, "delete", "a/b")
    assert not rules.allow(someone, "admin", "")
    assert not rules.allow(Identity(), "pull", "a/b")


def test_users_file() -> None:
    good = hashed("secret")
    text = f"# who\nalice:{good}\n\nbob:{good.replace('$2b$', '$2y$')}\n".encode()
    assert sorted(parse(text, "users")) == ["alice", "bob"]
    for line in ("alice", ":x", "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "alice:plain"):
        with pytest.raises(BadUsersFile, match="users, line 2"):
            parse(f"\n{line}\n".encode(), "users")


async def test_passwords_and_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users"
    path.write_text(f"alice:{hashed('secret')}\n")
    clock = Clock()
    passwords = Passwords(str(path), clock)
    compared: list[bytes] = []
    real = bcrypt.checkpw

    def counting(password: bytes, against: bytes) -> bool:
        compared.append(password)
        return real(password, against)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    answers = await asyncio.gather(*(passwords.verify("alice", "secret") for _ in range(8)))
    assert answers == [True] * 8
    assert compared == [b"secret"]
    assert await passwords.verify("alice", "secret")
    assert len(compared) == 1
    assert not await passwords.verify("alice", "wrong")
    assert not await passwords.verify("nobody", "secret"), "a user who is not there"
    assert len(compared) == 3, "and one is compared for them all the same"
    clock.now_s += 3600
    assert not passwords.remembers("alice", "secret")
    path.write_text(f"alice:{hashed('changed')}\nbob:{hashed('b')}\n")
    assert not await passwords.verify("alice", "secret")
    assert await passwords.verify("alice", "changed")
    path.write_text(f"bob:{hashed('b')}\n")
    assert not passwords.remembers("alice", "changed"), "removed"
    path.write_text("damaged\n")
    assert await passwords.verify("bob", "b"), "a damaged file locks nobody out"


def test_throttle() -> None:
    throttle = Throttle(burst=3, refill_s=10)
    for _ in range(3):
        assert throttle.wait_s("a", 100) == 0
        throttle.failed("a", 100)
    assert throttle.wait_s("a", 100) == 10
    assert throttle.wait_s("b", 100) == 0
    assert throttle.wait_s("a", 105) == 5
    assert throttle.wait_s("a", 110) == 0
    throttle.succeeded("a")
    throttle.failed("a", 110)
    assert throttle.wait_s("a", 110) == 0


def control(rules: Rules, clock: Clock, passwords: Passwords | None = None, **more: Any) -> AccessControl:
    own = OwnTokens(KEY, service="reg", now_s=clock)
    return AccessControl(rules, service="reg", own=own, passwords=passwords, now_s=clock, **more)


async def test_wrong_passwords_are_throttled(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "users"
    path.write_text(f"alice:{hashed('secret')}\n")
    clock = Clock()
    access = control(rules, clock, Passwords(str(path), clock))
    for _ in range(5):
        with pytest.raises(Unauthenticated, match="incorrect"):
            await access.identify(Caller(address="192.0.2.1", authorization=basic("alice", "wrong")))
    with pytest.raises(TooManyRequests) as caught:
        await access.identify(Caller(address="192.0.2.1", authorization=basic("alice", "secret")))
    assert 0 < caught.value.retry_after_s <= 10
    elsewhere = await access.identify(Caller(address="192.0.2.2", authorization=basic("alice", "secret")))
    assert elsewhere.name == "alice"
    again = await access.identify(Caller(address="192.0.2.1", authorization=basic("alice", "secret")))
    assert again.name == "alice", "what is known to be right is not throttled"


async def test_neighbours_in_ipv6_are_one(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "users"
    path.write_text(f"alice:{hashed('secret')}\n")
    clock = Clock()
    access = control(rules, clock, Passwords(str(path), clock))
    outcomes = []
    for number in range(7):
        caller = Caller(address=f"2001:db8::{number}", authorization=basic("alice", "wrong"))
        with pytest.raises((Unauthenticated, TooManyRequests)) as caught:
            await access.identify(caller)
        outcomes.append(caught.type)
    assert outcomes == [Unauthenticated] * 5 + [TooManyRequests] * 2
    elsewhere = Caller(address="2001:db8:0:1::1", authorization=basic("alice", "secret"))
    assert (await access.identify(elsewhere)).name == "alice"


@pytest.mark.parametrize(
    "header",
    [
        "Basic !!!",
        "Basic " + base64.b64encode(b"nocolon").decode(),
        "Digest x",
        "Bearer x.y.z",
        "Bearer ",
        "Basic " + "A" * 100_000,
    ],
)
async def test_malformed_credentials(rules: Rules, header: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("")
    clock = Clock()
    with pytest.raises(Unauthenticated):
        await control(rules, clock, Passwords(str(path), clock)).identify(Caller(authorization=header))


async def test_own_tokens(rules: Rules) -> None:
    clock = Clock()
    access = control(rules, clock)
    alice = Identity(name="alice")
    wanted = scopes.parse(["repository:team/a:pull,push repository:shared/x:push", "registry:catalog:*"])
    token = access.issue(alice, wanted)
    seen = await access.identify(Caller(authorization=f"Bearer {token}"))
    assert seen.name == "alice"
    assert seen.grants == (
        Grant(repository="team/a", actions=("pull", "push")),
        Grant(repository="", actions=("pull",)),
    )
    assert access.allows(seen, "push", "team/a")
    assert access.allows(seen, "pull", "")
    assert not access.allows(seen, "delete", "team/a"), "the rules say no: 403"
    with pytest.raises(Unauthenticated, match="ask for another one"):
        access.allows(seen, "pull", "team/b")
    assert access.sees(seen, "team/b")
    assert not access.sees(seen, "other/b")
    with pytest.raises(Unauthenticated, match="cannot be had for a token"):
        access.issue(seen, wanted)
    clock.now_s += tokens.LIFETIME_S
    with pytest.raises(Unauthenticated, match="expired"):
        await access.identify(Caller(authorization=f"Bearer {token}"))


async def test_anonymous_tokens(rules: Rules) -> None:
    clock = Clock()
    access = control(rules, clock)
    assert not access.allows(Identity(), "pull", ""), "GET /v2/ must tell clients to log in"
    token = access.issue(Identity(), scopes.parse(["repository:public/a:pull,push"]))
    seen = await access.identify(Caller(authorization=f"Bearer {token}"))
    assert seen.is_anonymous
    assert access.allows(seen, "pull", "")
    assert access.allows(seen, "pull", "public/a")
    assert not access.allows(seen, "push", "public/a")
    with pytest.raises(Unauthenticated, match="authentication required"):
        control(Rules([]), clock).issue(Identity(), [])


def test_challenges(rules: Rules) -> None:
    access = control(rules, Clock())
    caller = Caller(host='reg.lan:5000"\r\n', secure=True)
    assert access.challenge(caller, "pull", "") == 'Bearer realm="https://reg.lan:5000/token",service="reg"'
    assert access.challenge(caller, "push", "a/b").endswith(',scope="repository:a/b:pull,push"')
    assert control(rules, Clock(), basic=True).challenge(caller, "pull", "a") == 'Basic realm="reg"'


@pytest.mark.parametrize(
    "scope", ["x", "repository:a", "repository::pull", "a" * 600, ":a:pull:" + "b" * 600]
)
def test_malformed_scopes(scope: str) -> None:
    with pytest.raises(scopes.InvalidScope):
        scopes.parse([scope])


def test_scopes() -> None:
    assert scopes.parse(["repository(plugin):a/b:pull", "repository:h:5000/a:*", "x:y:z"]) == [
        Grant(repository="a/b", actions=("pull",)),
        Grant(repository="h:5000/a", actions=("pull", "push", "delete")),
    ]
    with pytest.raises(scopes.InvalidScope):
        scopes.parse(["repository:a:pull"] * 100)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda one: st.lists(one) | st.dictionaries(st.sampled_from(["type", "name", "actions", "x"]), one),
        max_leaves=8,
    )
)
def test_a_malformed_claim_grants_nothing(claim: Any) -> None:
    well_formed = isinstance(claim, list) and any(isinstance(one, dict) and "actions" in one for one in claim)
    assert scopes.grants_of(claim) == () or well_formed


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def foreign(keys: list[ForeignKey], clock: Callable[[], float]) -> ForeignTokens:
    return ForeignTokens(keys, issuers=["auth.lan"], service="reg", now_s=clock)


def signed(key: Any = RSA, algorithm: str = "RS256", headers: Any = None, **claims: Any) -> str:
    values = {
        "iss": "auth.lan",
        "aud": "reg",
        "sub": "dora",
        "exp": NOW + 60,
        "access": [{"type": "repository", "name": "team/a", "actions": ["pull"]}],
    } | claims
    return jwt.encode(values, key, algorithm=algorithm, headers=headers)


def test_foreign_tokens() -> None:
    clock = Clock()
    reader = foreign([ForeignKey(EC.public_key(), "e"), ForeignKey(RSA.public_key(), "r")], clock)
    for token in (signed(), signed(headers={"kid": "r"}), signed(EC, "ES256"), signed(aud=["x", "reg"])):
        seen = reader.read(token)
        assert (seen.name, seen.decided_elsewhere) == ("dora", True)
        assert seen.grants == (Grant(repository="team/a", actions=("pull",)),)
    bad = {
        "issuer": signed(iss="else"),
        "audience": signed(aud="else"),
        "expired": signed(exp=NOW - 61),
        "not yet": signed(nbf=NOW + 61),
        "no number": signed(exp="soon"),
        "other key": signed(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "symmetric": signed(b"x" * 32, "HS256"),
        "none": jwt.encode({"iss": "auth.lan", "aud": "reg", "exp": NOW + 60}, None, algorithm="none"),
        "wrong kid": signed(headers={"kid": "e"}),
        "no token": "-----BEGIN PUBLIC KEY-----",
    }
    for reason, token in bad.items():
        with pytest.raises(Unauthenticated):
            pytest.fail(f"{reason}: {reader.read(token)}")


def test_foreign_grants_decide_alone(rules: Rules) -> None:
    access = control(rules, Clock())
    dora = Identity(
        name="dora", grants=(Grant(repository="team/a", actions=("pull",)),), decided_elsewhere=True
    )
    assert access.allows(dora, "pull", "team/a")
    assert access.sees(dora, "team/a")
    assert not access.sees(dora, "shared/a")
    assert not access.allows(dora, "admin", "")
    for action, repository in (("push", "team/a"), ("pull", "shared/a")):
        with pytest.raises(Unauthenticated):
            access.allows(dora, action, repository)  # type: ignore[arg-type]


def test_key_files(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key()))
    jwks.write_text(json.dumps({"keys": [public | {"kid": "r", "alg": "RS256"}]}))
    [key] = tokens.read_jwks(str(jwks))
    assert foreign([key], Clock()).read(signed()).name == "dora"
    jwks.write_text('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}')
    with pytest.raises(BadKeys, match="0 public keys"):
        tokens.read_jwks(str(jwks))
    for text in ("", "[]", '{"keys": 3}', "{}"):
        jwks.write_text(text)
        with pytest.raises(BadKeys):
            tokens.read_jwks(str(jwks))
    with pytest.raises(BadKeys, match="No such file"):
        tokens.read_certificates(str(tmp_path / "none"))


def test_the_signing_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = tokens.signing_key(str(path))
    assert tokens.signing_key(str(path)) == first
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(BadKeys, match="readable by others"):
        tokens.signing_key(str(path))


def test_certificates() -> None:
    subject = ((("organizationName", "dev"),), (("organizationName", "ops"),), (("commonName", "alice"),))
    found = certificates.identity_of({"subject": subject})
    assert found == Identity(name="alice", groups=("dev", "ops"))
    assert certificates.identity_of({"subject": subject[:2]}) is None
    assert certificates.identity_of(None) is None
