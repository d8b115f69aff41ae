"""The registry's settings file and flags."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.cli.commands import registryserver
from sampan.daemon.options import SettingError
from sampan.daemon.registry import sections, settings
from sampan.daemon.registry.sections import Settings
from sampan.daemon.registry.values import Duration, Size


def decoded(**content: Any) -> Settings:
    return settings.decode({name.replace("_", "-"): value for name, value in content.items()}, "r.toml")


def test_durations_and_sizes() -> None:
    written = {90: 90, "90": 90, "1.5m": 90, "1h": 3600, "30d": 30 * 86400, "2w": 14 * 86400}
    assert {text: Duration.read(text).seconds for text in written} == written
    assert Size.read("10G").in_bytes == 10 << 30
    for wrong in ("", "1y", "-1s", None, True, [1]):
        with pytest.raises(ValueError):
            Duration.read(wrong)
    for wrong in ("", "1x", -1, True, 1.5):
        with pytest.raises(ValueError):
            Size.read(wrong)


def test_defaults_serve_this_machine_alone() -> None:
    made = decoded()
    assert made.is_open
    assert made.is_local
    assert not decoded(listen="0.0.0.0:5000").is_local
    assert decoded(listen=["unix:///run/r.sock", "[::1]:5000", "localhost:5000"]).is_local


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"gc": {"interval": "soon"}}, "gc.interval: invalid duration 'soon'"),
        ({"gc": {"often": 1}}, "gc.often: there is no such key"),
        ({"port": 1}, "port: there is no such key"),
        ({"webhooks": [{"secret": "x"}]}, "webhooks[0].url: is needed"),
        ({"webhooks": [{"url": "ftp://x"}]}, "webhooks[0].url: must begin with"),
        ({"listen": "here"}, "listen: 'here' is neither"),
        ({"quotas": [{"repositories": ["a"], "size": "much"}]}, "quotas[0].size: invalid size"),
        ({"quotas": [{"repositories": "a", "size": 1}]}, "quotas[0].repositories: expected a list"),
        ({"immutable": [{"tags": ["*" * 30]}]}, "immutable[0].tags: invalid pattern"),
        ({"retention": [{"repositories": ["a"]}]}, "retention[0]: needs keep"),
        ({"rules": [{"repositories": ["a"], "actions": ["pull"], "users": ["a"]}]}, "rules: have no effect"),
        ({"auth": {}}, "auth: needs htpasswd"),
        (
            {"auth": {"htpasswd": "u", "challenge": "basic", "anonymous": ["a"]}},
            "auth.anonymous: does not go",
        ),
        (
            {"auth": {"htpasswd": "u"}, "rules": [{"repositories": ["a"], "actions": ["pull"]}]},
            "rules[0]: needs",
        ),
        ({"auth": {"token": {"realm": "r", "service": "s", "issuers": ["i"]}}}, "auth.token: needs one of"),
        ({"auth": {"htpasswd": "u", "token-lifetime": "5s"}}, "auth.token-lifetime: must be"),
        (
            {"tls": {"certificate": "c", "key": "k", "client-certificates": "required"}},
            "tls.client-certificates",
        ),
        ({"log-level": "loud"}, "log-level: must be one of"),
        ({"trusted-proxies": ["lan"]}, "trusted-proxies: 'lan' does not appear to be"),
        ({"admin-socket": "here"}, "admin-socket: must be an absolute path"),
    ],
)
def test_problems_name_the_key(content: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings.decode(content, "r.toml")
    assert str(caught.value).startswith(f"r.toml: {told}")


def test_flags_and_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('listen = "127.0.0.1:1"\nroot = "/a"\n[gc]\ngrace = "2h"\n')
    made, validate = settings.load(["--config", str(path), "--root=/b", "--validate"])
    assert (made.listen, made.root, made.gc.grace, validate) == (("127.0.0.1:1",), "/b", Duration(7200), True)
    made, _ = settings.load(["--config", str(path), "--listen", ":2", "--listen", ":3"])
    assert made.listen == (":2", ":3")
    path.write_text("listen = \n")
    with pytest.raises(SettingError, match=r"r\.toml: Invalid value"):
        settings.load(["--config", str(path)])
    with pytest.raises(SettingError, match="no such file"):
        settings.load(["--config", str(tmp_path / "none")])
    for wrong in (["--fly"], ["here"], ["--root"]):
        with pytest.raises(SettingError, match="sampan registry serve --help"):
            settings.load(wrong)


def test_secrets_from_files(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    assert settings.secret("", str(path), "k") == "s3cret"
    assert settings.secret("x", "", "k") == "x"
    with pytest.raises(SettingError, match="exclude each other"):
        settings.secret("x", str(path), "k")
    with pytest.raises(SettingError, match="k-file: "):
        settings.secret("", str(tmp_path / "none"), "k")


DOCS = Path(__file__).parents[2] / "docs" / "registry.md"


def examples() -> list[str]:
    return re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)


def test_the_documentation_shows_every_key() -> None:
    [whole] = [one for one in examples() if one.startswith("# every setting")]
    content = tomllib.loads(whole)
    settings.decode(content, "docs/registry.md")

    def missing(kind: type, shown: Any, place: str) -> list[str]:
        found = []
        for field in msgspec.structs.fields(kind):
            name = f"{place}{field.encode_name}"
            if field.encode_name not in shown:
                found.append(name)
                continue
            inner = SECTIONS.get(name)
            value = shown[field.encode_name]
            if inner is not None:
                found += missing(inner, value[0] if isinstance(value, list) else value, f"{name}.")
        return found

    absent = missing(Settings, content, "")
    assert absent == ["auth.token.certificates"], "which is there as the alternative"


SECTIONS = {
    "tls": sections.TlsSection,
    "auth": sections.AuthSection,
    "auth.token": sections.TokenSection,
    "rules": sections.RuleSection,
    "storage": sections.StorageSection,
    "storage.s3": sections.S3Section,
    "gc": sections.GcSection,
    "scrub": sections.ScrubSection,
    "retention": sections.RetentionSection,
    "quotas": sections.QuotaSection,
    "immutable": sections.ImmutableSection,
    "webhooks": sections.WebhookSection,
    "upstreams": sections.UpstreamSection,
}


def test_no_section_is_forgotten() -> None:
    made = {
        one for one in vars(sections).values() if isinstance(one, type) and issubclass(one, sections.Section)
    }
    assert made - {sections.Section, Settings} == set(SECTIONS.values())


@pytest.mark.parametrize("text", examples(), ids=lambda text: text.split("\n")[0])
def test_examples_of_the_documentation(text: str) -> None:
    content = {"auth": {"htpasswd": "users"}, **tomllib.loads(text)}
    settings.decode(content, "docs/registry.md")


def test_the_command_has_the_flags_of_the_process() -> None:
    assert {option.name for option in registryserver.SERVE.options} == set(settings.FLAGS)
    assert [one.name for one in registryserver.SERVE.options if one.kind == "bool"] == list(settings.SWITCHES)
