"""Lists of manifests: ``docker manifest``, which speaks to registries itself, and ``sampan manifest``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.registry import OCI_INDEX, Registry

ARCHITECTURES = ("amd64", "arm64")


@pytest.fixture(scope="module")
def daemon_host(new_daemon: Callable[..., Daemon]) -> Iterator[str]:
    daemon = new_daemon("--bridge", "none")
    yield daemon.host
    daemon.stop()


@pytest.fixture
def clients(daemon_host: str, sampan: Client, tmp_path: Path) -> dict[str, Client]:
    """Both clients, with one folder for the lists that are being made."""
    folder = str(tmp_path / "config")
    return {
        "docker": Client(daemon_host, config=folder),
        "sampan": Client(daemon_host, sampan.program, config=folder),
    }


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        for architecture in ARCHITECTURES:
            made.add_image("app", architecture, [{"file": architecture.encode()}], architecture=architecture)
        yield made


def parts(registry: Registry) -> list[str]:
    return [f"{registry.host}/app:{architecture}" for architecture in ARCHITECTURES]


def pushed(registry: Registry, name: str) -> Any:
    media_type, data = registry.manifests[name]["1"]
    assert media_type == OCI_INDEX
    return json.loads(data)


@pytest.mark.parametrize("which", ["docker", "sampan"])
@pytest.mark.parametrize("repository", ["app", "other"])
def test_a_list_is_made_and_pushed(
    clients: dict[str, Client], registry: Registry, which: str, repository: str
) -> None:
    client, name = clients[which], f"{registry.host}/{repository}:1"
    client("manifest", "create", "--insecure", name, *parts(registry))
    client("manifest", "annotate", "--variant", "v8", name, parts(registry)[1])
    begun = json.loads(client.line("manifest", "inspect", name))
    client("manifest", "push", "--insecure", "--purge", name)
    index = pushed(registry, repository)
    assert index["manifests"] == begun["manifests"]
    assert [entry["platform"].get("variant", "") for entry in index["manifests"]] == ["", "v8"]
    for entry, architecture in zip(index["manifests"], ARCHITECTURES, strict=True):
        assert entry["platform"]["architecture"] == architecture
        assert registry.manifests[repository][entry["digest"]] == registry.manifests["app"][architecture]
    gone = client("manifest", "push", "--insecure", name, code=1)
    assert f"No such manifest: {name}" in gone.err
    # the engine pulls what was put together
    own = json.loads(clients["docker"].line("version", "--format", "{{json .Server.Arch}}"))
    clients["docker"]("pull", "-q", name)
    found = clients["docker"].line("image", "inspect", "--format", "{{.Architecture}}", name)
    clients["docker"]("rmi", name)
    assert found == own


def test_blobs_are_copied_where_they_cannot_be_mounted(
    clients: dict[str, Client], registry: Registry
) -> None:
    registry.faults.no_mounts = True
    client, name = clients["sampan"], f"{registry.host}/copied:1"
    client("manifest", "create", name, *parts(registry))
    assert "Pushed ref" in client("manifest", "push", name).out
    for entry in pushed(registry, "copied")["manifests"]:
        manifest = json.loads(registry.manifests["copied"][entry["digest"]][1])
        for part in (manifest["config"], *manifest["layers"]):
            assert ("copied", part["digest"]) in registry.linked


def test_either_client_goes_on_with_what_the_other_began(
    clients: dict[str, Client], registry: Registry
) -> None:
    name = f"{registry.host}/shared:1"
    clients["sampan"]("manifest", "create", name, parts(registry)[0])
    clients["docker"]("manifest", "create", "--insecure", "--amend", name, *parts(registry))
    clients["sampan"]("manifest", "annotate", "--os-version", "7", name, parts(registry)[1])
    clients["docker"]("manifest", "push", "--insecure", name)
    first = pushed(registry, "shared")
    clients["sampan"]("manifest", "push", name)
    assert pushed(registry, "shared") == first
    assert first["manifests"][1]["platform"]["os.version"] == "7"


def test_what_is_in_a_registry(clients: dict[str, Client], registry: Registry) -> None:
    client, name = clients["sampan"], f"{registry.host}/app:multi"
    digests = {f"linux/{one}": registry.manifests["app"][one] for one in ARCHITECTURES}
    known = {platform: registry.add_manifest("app", "", data) for platform, (_, data) in digests.items()}
    registry.add_index("app", "multi", known, annotations={"org.example.kept": "yes"})
    assert json.loads(client.line("manifest", "inspect", name)) == json.loads(
        registry.manifests["app"]["multi"][1]
    )
    verbose = json.loads(client.line("manifest", "inspect", "-v", name))
    assert [one["Descriptor"]["digest"] for one in verbose] == list(known.values())
    assert [one["Descriptor"]["platform"]["architecture"] for one in verbose] == list(ARCHITECTURES)
    single = json.loads(client.line("manifest", "inspect", "-v", parts(registry)[0]))
    # what the manifest does not say is in the config
    assert single["Descriptor"]["platform"] == {"architecture": "amd64", "os": "linux"}


def test_lists_that_are_refused(clients: dict[str, Client], registry: Registry) -> None:
    client, name = clients["sampan"], f"{registry.host}/bad:1"
    missing = client("manifest", "create", name, f"{registry.host}/app:none", code=1)
    assert f"manifest for {registry.host}/app:none not found" in missing.err
    assert "No such manifest" in client("manifest", "rm", name, code=1).err
    client("manifest", "create", name, parts(registry)[0])
    twice = client("manifest", "create", name, parts(registry)[1], code=1)
    assert "refusing to amend an existing manifest list with no --amend flag" in twice.err
    absent = client("manifest", "annotate", "--arch", "arm", name, parts(registry)[1], code=1)
    assert f"manifest for image {parts(registry)[1]} does not exist in {name}" in absent.err
    client("manifest", "create", "elsewhere:1", parts(registry)[0])
    foreign = client("manifest", "push", "elsewhere:1", code=1)
    assert "cannot use source images from a different registry than the target image" in foreign.err
    client("manifest", "push", name)
    nested = client("manifest", "create", f"{registry.host}/nested:1", name, code=1)
    assert "is a manifest list itself" in nested.err
    client("manifest", "rm", name, "elsewhere:1")
