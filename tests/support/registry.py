"""A registry on the loopback address, in memory, that can be made to misbehave and counts what it served."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import re
import ssl
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

from aiohttp import web
from tests.support.images import tar_of

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

_PIECE = 64 << 10
_NAMES = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags)/(?P<rest>.*)")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Faults:
    """What goes wrong; tests change it while the registry runs."""

    cut_after_bytes: int = 0
    """Each answer with a blob breaks off after so many bytes."""
    stall_after_bytes: int = 0
    """Each answer with a blob stands still after so many bytes, until :attr:`Registry.released` is set."""
    no_ranges: bool = False
    drip: tuple[int, float] = (0, 0.0)
    """Answers with blobs come in pieces of so many bytes, with so many seconds between them."""
    cut_uploads_after_bytes: int = 0
    """Each request that sends a piece of a blob breaks off after so many bytes, which are kept."""
    lose_verdicts: int = 0
    """So many uploads are completed, and the connection closed without an answer."""
    no_mounts: bool = False
    """Blobs of other repositories have to be sent."""
    forget_uploads: bool = False
    """An upload whose connection was cut is not known any more."""
    void_uploads: bool = False
    """How far an upload has come cannot be told, as with distribution."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Where requests for a path are sent instead."""
    flip_blobs: bool = False
    """Blobs come with one bit changed."""
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers of the next answers, whatever is asked for."""


class Registry:
    """``with Registry() as registry``: serves at ``registry.host`` from a thread of its own."""

    def __init__(
        self,
        *,
        users: dict[str, str] | None = None,
        tokens: bool = False,
        certificate: tuple[Path, Path] | None = None,
        client_authority: Path | None = None,
    ) -> None:
        """With ``users`` everything needs a name and password, by way of a token server with ``tokens``."""
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.linked: set[tuple[str, str]] = set()
        """Which repository has which blob."""
        self.requests: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        """Of the requests."""
        self.blob_bytes = 0
        """Bytes of blobs that were sent."""
        self.upload_bytes = 0
        """Bytes of blobs that were received."""
        self.most_at_once = 0
        """Answers with blobs that were on their way together."""
        self._open = 0
        self.faults = Faults()
        self.stalled = threading.Event()
        self.released = threading.Event()
        self.answers: dict[str, tuple[int, bytes]] = {}
        """Status and body for a path, whatever is asked of it."""
        self.descriptions: dict[str, tuple[str, int]] = {}
        """Text and stars of repositories, by name: what searches find."""
        self.offers_refresh_tokens = False
        self.refresh_tokens: list[str] = []
        self.forms: list[dict[str, str]] = []
        """What was posted for tokens."""
        self._users = users or {}
        self._tokens: dict[str, str] | None = {} if tokens else None
        self._certificate = certificate
        self._client_authority = client_authority
        self._port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    # life

    def __enter__(self) -> Registry:
        self._thread.start()
        assert self._ready.wait(10), "the registry does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _start(self) -> None:
        self._server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        context = None
        if self._certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*self._certificate)
            if self._client_authority is not None:
                context.load_verify_locations(self._client_authority)
                context.verify_mode = ssl.CERT_REQUIRED
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def _end(self) -> None:
        # without this a TLS connection waits for the other side to say farewell
        for connection in list(self._server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()
        await asyncio.sleep(0)

    # content

    def add_blob(self, name: str, data: bytes) -> dict[str, object]:
        digest = digest_of(data)
        self.blobs[digest] = data
        self.linked.add((name, digest))
        return {"digest": digest, "size": len(data)}

    def add_manifest(self, name: str, tag: str, data: bytes, media_type: str = OCI_MANIFEST) -> str:
        digest = digest_of(data)
        known = self.manifests.setdefault(name, {})
        known[digest] = (media_type, data)
        if tag:
            known[tag] = (media_type, data)
        return digest

    def add_image(
        self,
        name: str,
        tag: str,
        layers: list[dict[str, bytes]],
        *,
        architecture: str = "amd64",
        annotations: dict[str, str] | None = None,
    ) -> str:
        """An image with the files of each layer, gzipped; the digest of its manifest."""
        descriptors, diff_ids = [], []
        for files in layers:
            plain = tar_of(files)
            diff_ids.append(digest_of(plain))
            packed = gzip.compress(plain, 1, mtime=0)
            descriptors.append({"mediaType": f"{OCI_LAYER}+gzip", **self.add_blob(name, packed)})
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "test"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, **self.add_blob(name, json.dumps(config).encode())},
            "layers": descriptors,
            "annotations": annotations or {},
        }
        return self.add_manifest(name, tag, json.dumps(manifest, indent=1).encode())

    def add_index(
        self,
        name: str,
        tag: str,
        platforms: dict[str, str],
        *,
        more: tuple[dict[str, object], ...] = (),
        **fields: object,
    ) -> str:
        """An index of manifests that are there, by ``os/architecture[/variant]``, with ``more`` entries and
        whatever ``fields`` it has."""
        entries: list[dict[str, object]] = []
        for platform, digest in platforms.items():
            os_, architecture, *variant = platform.split("/")
            described = {
                "os": os_,
                "architecture": architecture,
                **({"variant": variant[0]} if variant else {}),
            }
            size = len(self.manifests[name][digest][1])
            entries.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": size, "platform": described})
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, *more], **fields}
        return self.add_manifest(name, tag, json.dumps(document, indent=1).encode(), OCI_INDEX)

    def describe(self, name: str, digest: str) -> dict[str, object]:
        """The descriptor of a manifest that is there."""
        media_type, data = self.manifests[name][digest]
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def layers_of(self, name: str, reference: str) -> list[str]:
        return [layer["digest"] for layer in json.loads(self.manifests[name][reference][1])["layers"]]

    def count(self, method: str, part: str) -> int:
        """Requests so far whose path contains ``part``."""
        return sum(line.startswith(f"{method} ") and part in line for line in self.requests)

    # answering

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        self.headers.append(request.headers)
        if self.faults.failures:
            status, headers = self.faults.failures.pop(0)
            return web.Response(status=status, headers=headers)
        if request.path in self.answers:
            status, body = self.answers[request.path]
            return web.Response(status=status, body=body, content_type="application/json")
        if request.path in self.faults.redirects:
            return web.Response(status=307, headers={"Location": self.faults.redirects[request.path]})
        if request.path == "/token":
            return await self._token(request)
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.path in ("/v2", "/v2/"):
            return web.json_response({})
        if request.path == "/v1/search" and self.descriptions:
            return self._search(request)
        found = _NAMES.fullmatch(request.path)
        if found is None:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        name, rest = found["name"], found["rest"]
        if found["kind"] == "tags":
            return self._tags(request, name)
        if found["kind"] == "manifests":
            return await self._manifest(request, name, rest)
        if rest.startswith("uploads/"):
            return await self._upload(request, name, rest.removeprefix("uploads/"))
        return await self._blob(request, name, rest)

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        if not self._users:
            return None
        header = request.headers.get("Authorization", "")
        if self._tokens is None:
            if self._knows(header):
                return None
            challenge = 'Basic realm="test"'
        else:
            if header.removeprefix("Bearer ") in self._tokens:
                return None
            scheme = "https" if self._certificate else "http"
            challenge = f'Bearer realm="{scheme}://{self.host}/token",service="test"'
            found = _NAMES.fullmatch(request.path)
            if found is not None:
                challenge += f',scope="repository:{found["name"]}:pull"'
        return _error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

    def _knows(self, header: str) -> bool:
        if not header.startswith("Basic "):
            return False
        user, _, password = base64.b64decode(header[6:]).decode().partition(":")
        return self._users.get(user) == password

    async def _token(self, request: web.BaseRequest) -> web.Response:
        """By name and password, or (OAuth2) by a refresh token that an earlier answer had."""
        assert self._tokens is not None
        scope = request.query.get("scope", "")
        if request.method == "POST":
            form = parse_qs((await _body(request)).decode())
            self.forms.append({key: values[0] for key, values in form.items()})
            known = form["refresh_token"][0] in self.refresh_tokens
            scope = form.get("scope", [""])[0]
        else:
            known = self._knows(request.headers.get("Authorization", ""))
        if not known:
            return _error(401, "UNAUTHORIZED", "incorrect username or password")
        token = uuid.uuid4().hex
        self._tokens[token] = scope
        answer: dict[str, object] = {"access_token" if self.forms else "token": token, "expires_in": 300}
        if self.offers_refresh_tokens and request.query.get("offline_token") == "true":
            self.refresh_tokens.append(uuid.uuid4().hex)
            answer["refresh_token"] = self.refresh_tokens[-1]
        return web.json_response(answer)

    def _search(self, request: web.BaseRequest) -> web.Response:
        word = request.query["q"]
        found = [
            {"name": name, "description": text, "star_count": stars, "is_official": stars > 100}
            for name, (text, stars) in self.descriptions.items()
            if word in name
        ]
        return web.json_response({"query": word, "num_results": len(found), "results": found})

    def _tags(self, request: web.BaseRequest, name: str) -> web.Response:
        if name not in self.manifests:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        tags = sorted(tag for tag in self.manifests[name] if ":" not in tag)
        last = request.query.get("last", "")
        page = [tag for tag in tags if tag > last][:2]
        headers = {}
        if page and page[-1] != tags[-1]:
            headers["Link"] = f'</v2/{name}/tags/list?n=2&last={page[-1]}>; rel="next"'
        return web.json_response({"name": name, "tags": page}, headers=headers)

    async def _manifest(self, request: web.BaseRequest, name: str, reference: str) -> web.Response:
        if request.method == "PUT":
            data = await _body(request)
            parsed = json.loads(data)
            for part in (parsed["config"], *parsed["layers"]) if "layers" in parsed else ():
                if (name, part["digest"]) not in self.linked:
                    return _error(400, "MANIFEST_BLOB_UNKNOWN", part["digest"])
            for part in parsed.get("manifests", ()):
                if part["digest"] not in self.manifests.get(name, {}):
                    return _error(400, "MANIFEST_BLOB_UNKNOWN", part["digest"])
            tag = "" if ":" in reference else reference
            digest = self.add_manifest(name, tag, data, request.headers["Content-Type"])
            return web.Response(status=201, headers={"Docker-Content-Digest": digest})
        found = self.manifests.get(name, {}).get(reference)
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = found
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
        return web.Response(body=data, headers=headers)

    async def _blob(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        data = self.blobs.get(digest)
        if data is None or (name, digest) not in self.linked:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(data))})
        start, status, headers = 0, 200, {}
        ranged = request.headers.get("Range", "")
        if ranged and not self.faults.no_ranges:
            start, status = int(ranged.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(data):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.faults.flip_blobs:
            body = bytes((body[0] ^ 1,)) + body[1:]
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body)
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            await response.prepare(request)
            await self._send(request, response, body)
        finally:
            self._open -= 1
        return response

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse, body: bytes) -> None:
        faults, sent = self.faults, 0
        step, pause_s = faults.drip
        limit = faults.cut_after_bytes or faults.stall_after_bytes or len(body)
        while sent < min(limit, len(body)):
            piece = body[sent : min(sent + (step or _PIECE), limit)]
            await response.write(piece)
            if pause_s:
                await asyncio.sleep(pause_s)
            sent += len(piece)
            self.blob_bytes += len(piece)
        if sent == len(body):
            return
        if faults.stall_after_bytes:
            self.stalled.set()
            await self._loop.run_in_executor(None, self.released.wait, 30)
        if request.transport is not None:
            request.transport.close()

    async def _upload(self, request: web.BaseRequest, name: str, session: str) -> web.Response:
        if request.method == "POST":
            mount = request.query.get("mount", "")
            if mount and not self.faults.no_mounts and (request.query.get("from", ""), mount) in self.linked:
                self.linked.add((name, mount))
                return web.Response(status=201, headers={"Location": f"/v2/{name}/blobs/{mount}"})
            session = uuid.uuid4().hex
            self.uploads[session] = bytearray()
            return self._accepted(name, session)
        if session not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if request.method == "DELETE":
            del self.uploads[session]
            return web.Response(status=204)
        if request.method == "GET":
            if self.faults.void_uploads and self.uploads[session]:
                return _error(416, "BLOB_UPLOAD_INVALID", "upload resumed at wrong offset")
            return self._accepted(name, session, status=204)
        content = self.uploads[session]
        ranged = request.headers.get("Content-Range", "")
        if request.method == "PATCH" and ranged and int(ranged.partition("-")[0]) != len(content):
            return web.Response(status=416)
        if not await self._receive(request, content):
            if self.faults.forget_uploads:
                del self.uploads[session]
            return web.Response(status=500)
        if request.method == "PATCH":
            return self._accepted(name, session)
        digest = request.query["digest"]
        data = bytes(self.uploads.pop(session))
        if digest_of(data) != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.add_blob(name, data)
        if self.faults.lose_verdicts:
            self.faults.lose_verdicts -= 1
            _hang_up(request)
        return web.Response(status=201, headers={"Location": f"/v2/{name}/blobs/{digest}"})

    async def _receive(self, request: web.BaseRequest, content: bytearray) -> bool:
        """Whether all of it came, rather than the connection being cut as the faults say."""
        limit, count = self.faults.cut_uploads_after_bytes, 0
        while chunk := await request.content.readany():
            piece = chunk[: limit - count] if limit else chunk
            content += piece
            count += len(piece)
            self.upload_bytes += len(piece)
            if limit and count >= limit:
                _hang_up(request)
                return False
        return True

    def _accepted(self, name: str, session: str, status: int = 202) -> web.Response:
        # with a query of its own, as registries with a state in the URL have
        location = f"/v2/{name}/blobs/uploads/{session}?state=x"
        headers = {"Location": location, "Range": f"0-{max(len(self.uploads[session]) - 1, 0)}"}
        return web.Response(status=status, headers=headers)


def _hang_up(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _body(request: web.BaseRequest) -> bytes:
    """All of it; aiohttp's own reading has a limit."""
    parts = []
    while chunk := await request.content.readany():
        parts.append(chunk)
    return b"".join(parts)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"errors": [{"code": code, "message": message}]}
    return web.json_response(body, status=status, headers=headers)
