"""A stand-in for the Hugging Face Hub on 127.0.0.1: what the hub client asks of repos and buckets, and faults.

In a test: `with StandIn(folder) as hub:` and then `HfApi(endpoint=hub.url, token=hub.token)`. For other processes:
`python tests/hub_stand_in.py --port 8123 --folder F`, and HF_ENDPOINT and HF_TOKEN set before they import the client.

The state lies in a folder: `repos.json`, `buckets.json`, contents by their sha256 in `blobs/`, and what hf_xet
uploads in `cas/`. Contents go from and to the disk piece by piece, whatever their size. The server reads every content
that it is told of and knows it by the digest that it computed itself, so a digest in a listing is proven. Downloads go
over plain HTTP; through hf_xet, a session finds only what it uploaded, and writes to `cas/` by itself: `bandwidth`
slows only what comes over HTTP. What this cannot show: the real Hub's quotas and rate limits, and how long things take.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from local_server import LocalServer

ID = r"(?P<id>[^/]+/[^/]+)"
REV = r"(?P<rev>[^/]+)"
REPOS = r"/api/(?P<type>models|datasets)"
OF_TYPE = r"(/(?P<type>datasets))?"
ROUTES = [
    ("POST", r"/_faults", "control"),
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"{REPOS}/{ID}/preupload/{REV}", "preupload"),
    ("POST", rf"{OF_TYPE}/{ID}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("POST", rf"{REPOS}/{ID}/commit/{REV}", "commit"),
    ("GET", rf"{REPOS}/{ID}/tree/{REV}(/(?P<path>.+))?", "tree"),
    ("GET", rf"{REPOS}/{ID}/refs", "refs"),
    ("GET", rf"{REPOS}/{ID}/commits/{REV}", "commits"),
    ("POST", rf"{REPOS}/{ID}/paths-info/{REV}", "paths"),
    ("POST", rf"{REPOS}/{ID}/super-squash/{REV}", "squash"),
    ("GET", rf"/api/(?P<kind>models|datasets|buckets)/{ID}/xet-(read|write)-token(/{REV})?", "xet_token"),
    ("GET", rf"{REPOS}/{ID}(/revision/{REV})?", "info"),
    ("POST", rf"/api/buckets/{ID}", "bucket_create"),
    ("GET", rf"/api/buckets/{ID}", "bucket_info"),
    ("POST", rf"/api/buckets/{ID}/batch", "bucket_batch"),
    ("GET", rf"/api/buckets/{ID}/tree(/(?P<path>.+))?", "bucket_tree"),
    ("POST", rf"/api/buckets/{ID}/paths-info", "bucket_paths"),
    ("HEAD|GET", rf"/buckets/{ID}/resolve/(?P<path>.+)", "bucket_resolve"),
    ("HEAD|GET", rf"{OF_TYPE}/{ID}/resolve/{REV}/(?P<path>.+)", "resolve"),
    ("HEAD|GET", r"/cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
]
WRITES = {"create", "preupload", "lfs_batch", "commit", "squash", "bucket_create", "bucket_batch"}
OPEN = {"control", "lfs_put", "cdn"}
"""Routes that need no token: the signed addresses, and the stand-in's own."""
LARGE_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".parquet")
BLOCK = 1 << 18
"""Bytes of a content in memory at once."""
QUOTA = "Private repository storage limit reached, please upgrade your plan to increase your private storage limit."


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a route (after `skip` that go well)."""

    route: str
    """A name in ROUTES, or `*` for any."""
    kind: str
    """`status`, `slow`, `cut` (nothing done, no answer), `cut_body` (half an answer), `lost` (done, no answer),
    `partial` (a bucket batch of which only the first half is done), `silent` (the same, and no word of it), `quota`."""
    times: int = 1
    skip: int = 0
    status: int = 500
    retry_after: float | None = None
    seconds: float = 0.2
    message: str = "the stand-in was told to fail"


@dataclass(frozen=True)
class Part:
    """A piece of a file, as an answer."""

    path: Path
    start: int
    size: int

    def __len__(self) -> int:
        return self.size


def blocks(data: bytes | Part, size: int) -> Iterator[bytes]:
    """The first `size` bytes, piece by piece."""
    if isinstance(data, bytes):
        yield data[:size]
        return
    with data.path.open("rb") as file:
        file.seek(data.start)
        while size and (block := file.read(min(size, BLOCK))):
            size -= len(block)
            yield block


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "", **body: object) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


class StandIn(LocalServer):
    """The server, in threads of this process. `token` may write in the namespaces of `user` and of the organisation
    that `user` is a member of, `read_token` only read."""

    organisation = "us"

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        user: str = "me",
        token: str = "",
        page: int = 1000,
        bandwidth: float = 0.0,
    ) -> None:
        """`bandwidth`: bytes a second of all uploads together, 0 for no limit."""
        self.folder, self.user, self.page, self.bandwidth = Path(folder).resolve(), user, page, bandwidth
        self.token = token or f"hf_{secrets.token_hex(16)}"
        self.read_token = f"hf_{secrets.token_hex(16)}"
        self.signature = secrets.token_hex(8)
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """The route of every request so far."""
        self.lock = threading.RLock()
        self.fault_lock = threading.Lock()  # its own: a commit asks this very server for a xet token
        self._received = 0.0  # when all bytes so far were to arrive, by the monotonic clock
        self._xet_session: Any = None
        self._shards: set[Path] = set()
        self._xet_files: dict[str, tuple[str, int, Path]] = {}
        for name in ("blobs", "cas", "incoming"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, dict] = self._load("repos")
        self.buckets: dict[str, dict] = self._load("buckets")
        super().__init__(Handler, port, hub=self)

    # --- for tests ---

    def fail(self, route: str, kind: str, **details: object) -> None:
        """The next request of `route` fails; see Fault."""
        assert route == "*" or any(route == name for _, _, name in ROUTES), route
        self.faults.append(Fault(route, kind, **details))

    def commits(self, repo: str) -> list[str]:
        """Titles of a repo's commits, oldest first."""
        return [commit["title"] for commit in self.repos[repo]["commits"]]

    def content(self, name: str) -> dict[str, bytes]:
        """What a model repo (`me/x`), dataset repo (`datasets/me/x`) or bucket (`buckets/me/x`) holds now."""
        if name.startswith("buckets/"):
            files = self.buckets[name.removeprefix("buckets/")]["files"]
        else:
            files = self.repos[name]["commits"][-1]["files"]
        return {path: self.blob(record["sha256"]).read_bytes() for path, record in files.items()}

    def tamper(self, name: str, path: str, data: bytes | None) -> None:
        """Change or remove a stored file behind the client's back."""
        with self.lock:
            bucket = name.startswith("buckets/")
            holder = self.buckets[name[8:]] if bucket else self.repos[name]["commits"][-1]
            large = holder["files"].pop(path)["lfs"]
            if data is not None:
                holder["files"][path] = self.record(data, large=large)
            self.save()

    # --- state ---

    def _load(self, name: str) -> dict:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def save(self) -> None:
        for name, state in (("repos", self.repos), ("buckets", self.buckets)):
            temporary = self.folder / f"{name}.tmp"
            temporary.write_text(json.dumps(state))
            temporary.replace(self.folder / f"{name}.json")

    def blob(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256

    def incoming(self) -> Path:
        """A place for a content that is not known yet."""
        return self.folder / "incoming" / secrets.token_hex(8)

    def arrive(self, size: int) -> None:
        """Return when so many more bytes have had the time to arrive."""
        if self.bandwidth:
            with self.lock:
                self._received = max(time.monotonic(), self._received) + size / self.bandwidth
                wait = self._received - time.monotonic()
            time.sleep(max(0.0, wait))

    def record(self, data: bytes | Path, *, large: bool, xet: str | None = None) -> dict:
        """Store a content (a file is moved) and describe it as the listings do."""
        if isinstance(data, bytes):
            content, data = data, self.incoming()
            data.write_bytes(content)
        size, digest = data.stat().st_size, sha256_of(data)
        data.replace(self.blob(digest))
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
        stored = pointer if large else self.blob(digest).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(stored) + stored, usedforsecurity=False).hexdigest()
        if xet is None and large:
            xet = self.xet_hash(self.blob(digest))
        now = int(time.time() * 1000)
        return {"sha256": digest, "size": size, "git": git, "lfs": large, "xet": xet, "uploaded": now}

    # --- xet ---

    @staticmethod
    def xet_hash(path: Path) -> str:
        import hf_xet

        return hf_xet.hash_files([str(path)])[0].hash

    def xet_read(self, digest: str) -> tuple[Path, str]:
        """A content that a client has uploaded through hf_xet, by its sha256 or xet hash, as a file; its xet hash."""
        import hf_xet

        if (found := self.xet_file(digest)) is None:
            raise Refused(422, f"the content {digest} was never uploaded")
        xet, size, storage = found
        name = f"read-{secrets.token_hex(4)}"
        target, file = self.folder / "cas" / name, self.incoming()
        try:
            # From a copy: hf_xet locks a database there, which its uploader may still hold.
            shutil.copytree(storage / "xet" / "xorbs", target / "xet" / "xorbs", copy_function=link_or_copy)
            self._xet_session = self._xet_session or hf_xet.XetSession()
            with self._xet_session.new_file_download_group(
                token_refresh_url=f"{self.url}/api/models/x/{name}/xet-read-token/main",
                token_refresh_headers={"authorization": f"Bearer {self.token}"},
                custom_headers={},
                progress_callback=None,
            ) as group:
                group.start_download_file(hf_xet.XetFileInfo(xet, size), str(file))
            if not file.exists():  # of an empty one nothing is written
                file.touch()
            return file, xet
        except (OSError, RuntimeError) as error:
            raise Refused(422, f"the content {digest} cannot be read: {error}") from error
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def xet_file(self, digest: str) -> tuple[str, int, Path] | None:
        """Xet hash, size and storage of an uploaded file."""
        with self.fault_lock:
            for shard in (self.folder / "cas").glob("*/xet/xorbs/shards/*.mdb"):
                if shard not in self._shards and not shard.parents[3].name.startswith("read-"):
                    self._shards.add(shard)
                    for name, (xet, size) in files_of_shard(shard.read_bytes()).items():
                        self._xet_files[name] = (xet, size, shard.parents[3])
            return self._xet_files.get(digest)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: str, target: str) -> None:
    """Contents never change, so a link will do; the database does."""
    if source.endswith(".redb"):
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


def files_of_shard(data: bytes) -> dict[str, tuple[str, int]]:
    """Files in a xet shard: records of 48 bytes, a header and its segments, proofs and sha256 for each file."""

    def name(raw: bytes) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))

    found, at = {}, 48
    while data[at : at + 32] != b"\xff" * 32:
        xet = name(data[at : at + 32])
        flags, entries = struct.unpack("<II", data[at + 32 : at + 40])
        segments = range(at + 48, at + 48 + 48 * entries, 48)
        size = sum(struct.unpack("<I", data[start + 36 : start + 40])[0] for start in segments)
        at += 48 * (1 + entries * (2 if flags & 0x80000000 else 1))
        found[xet] = (xet, size)
        if flags & 0x40000000:
            found[name(data[at : at + 32])] = (xet, size)
            at += 48
    return found


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: StandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_request(self) -> None:
        split = urlsplit(self.path)
        body = self.read_file() if split.path.startswith("/lfs/") and self.command == "PUT" else self.read_body()
        self.query = {key: values[-1] for key, values in parse_qs(split.query).items()}
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, split.path)
            if match and self.command in method.split("|"):
                groups = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                if groups.pop("type", "") == "datasets":
                    groups["id"] = f"datasets/{groups['id']}"
                self.serve(route, groups, body)
                if isinstance(body, Path):
                    body.unlink(missing_ok=True)
                return None
        return self.answer(404, {"error": f"the stand-in has no {self.command} {split.path}"})

    def read_file(self) -> Path:
        """The body, a content of any size, on the disk."""
        path, left = self.hub.incoming(), int(self.headers["Content-Length"])
        with path.open("wb") as file:
            while left and (block := self.rfile.read(min(left, BLOCK))):
                self.hub.arrive(len(block))
                file.write(block)
                left -= len(block)
        return path

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def serve(self, route: str, groups: dict[str, str], body: bytes | Path) -> None:
        fault = self.next_fault(route)
        kind = fault.kind if fault else ""
        if kind == "cut":
            return self.hang_up()
        if kind == "slow":
            time.sleep(fault.seconds)
        self.fault_kind = kind
        try:
            if kind == "status":
                return self.answer(fault.status, {"error": fault.message}, retry_header(fault))
            if kind == "quota":
                raise Refused(403, QUOTA)
            self.authorize(route, groups)
            reply = getattr(self, f"on_{route}")(groups, body)
        except Refused as refused:
            headers = {"X-Error-Message": refused.body["error"], "X-Error-Code": refused.code}
            return self.answer(refused.status, refused.body, {k: v for k, v in headers.items() if v})
        if kind == "lost":
            return self.hang_up()
        return self.answer(*reply, cut=kind == "cut_body")

    def next_fault(self, route: str) -> Fault | None:
        with self.hub.fault_lock:
            self.hub.requests.append(route)
            for fault in self.hub.faults:
                if fault.route in (route, "*"):
                    if fault.skip > 0:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    if fault.times <= 0:
                        self.hub.faults.remove(fault)
                    return fault
        return None

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(
        self, status: int, content: object = b"", headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        data = content if isinstance(content, bytes | Part) else json.dumps(content).encode()
        headers = {"Content-Length": str(len(data)), **(headers or {})}
        if data is not content:
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            for block in blocks(data, len(data) // 2 if cut else len(data)):
                self.wfile.write(block)
        if cut:
            self.wfile.flush()
            self.hang_up()

    def authorize(self, route: str, groups: dict[str, str]) -> None:
        if route in OPEN:
            return
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not sent:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if sent not in (self.hub.token, self.hub.read_token):
            raise Refused(401, "Invalid credentials in Authorization header")
        foreign = "id" in groups and groups["id"].removeprefix("datasets/").split("/")[0] not in (
            self.hub.user,
            self.hub.organisation,
            "x",
        )
        if foreign and route != "bucket_create" and not self.is_public(groups["id"]):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if (route in WRITES or "xet-write" in self.path) and (foreign or sent != self.hub.token):
            raise Refused(403, "the token has no permission to write here")

    def is_public(self, name: str) -> bool:
        holders = (self.hub.repos.get(name), self.hub.buckets.get(name))
        return any(holder is not None and not holder["private"] for holder in holders)

    # --- the account, repos ---

    def on_control(self, _: dict, body: bytes) -> tuple:
        self.hub.faults.append(Fault(**json.loads(body)))
        return 200, asdict(self.hub.faults[-1])

    def on_whoami(self, *_: object) -> tuple:
        role = "write" if self.headers["Authorization"].endswith(self.hub.token) else "read"
        orgs = [{"type": "org", "name": self.hub.organisation}]
        return 200, {"type": "user", "name": self.hub.user, "orgs": orgs, "auth": {"accessToken": {"role": role}}}

    def on_create(self, _: dict, body: bytes) -> tuple:
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or self.hub.user}/{wanted['name']}"
        if name.split("/")[0] not in (self.hub.user, self.hub.organisation):
            raise Refused(403, "You don't have the rights to create a model under this namespace")
        name = f"datasets/{name}" if wanted.get("type") == "dataset" else name
        url = f"{self.hub.url}/{name}"
        with self.hub.lock:
            if name in self.hub.repos:
                raise Refused(409, "You already created this model repo", url=url)
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.hub.repos[name] = {"private": private, "commits": []}
            self.new_commit(name, "initial commit", {".gitattributes": self.hub.record(b"", large=False)})
        return 200, {"url": url, "name": name}

    def on_validate(self, _: dict, body: bytes) -> tuple:
        """What a card says of itself, as far as it can be judged here: front matter that is YAML."""
        import yaml

        parts = json.loads(body)["content"].split("---\n")
        try:
            good = isinstance(yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0] else None, dict)
        except yaml.YAMLError:
            good = False
        return (200, {"errors": [], "warnings": []}) if good else (400, {"errors": [{"message": "no front matter"}]})

    def repo(self, groups: dict[str, str]) -> dict:
        if groups["id"] not in self.hub.repos:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.hub.repos[groups["id"]]

    def revision(self, groups: dict[str, str]) -> dict:
        commits = self.repo(groups)["commits"]
        wanted = groups.get("rev", "main")
        if wanted == "main":
            return commits[-1]
        for commit in commits:
            if commit["oid"] == wanted:
                return commit
        raise Refused(404, f"Invalid rev id: {wanted}", "RevisionNotFound")

    def new_commit(self, name: str, title: str, files: dict) -> str:
        oid = secrets.token_hex(20)
        self.hub.repos[name]["commits"].append(
            {"oid": oid, "title": title, "date": "2026-01-01T00:00:00.000Z", "files": files}
        )
        self.hub.save()
        return oid

    def on_info(self, groups: dict, _: bytes) -> tuple:
        commit = self.revision(groups)
        siblings = [{"rfilename": path} for path in commit["files"]]
        private = self.repo(groups)["private"]
        name, lists = groups["id"].removeprefix("datasets/"), {"tags": [], "siblings": siblings}
        return 200, {"id": name, "sha": commit["oid"], "private": private, **lists}

    def on_refs(self, groups: dict, _: bytes) -> tuple:
        head = self.revision(groups)["oid"]
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        return 200, {"branches": [branch], "converts": [], "tags": [], "pullRequests": []}

    def on_commits(self, groups: dict, _: bytes) -> tuple:
        self.revision(groups)
        commits = reversed(self.repo(groups)["commits"])
        return 200, [{"id": c["oid"], "title": c["title"], "message": "", "date": c["date"], "authors": []}
                     for c in commits]  # fmt: skip

    def on_squash(self, groups: dict, body: bytes) -> tuple:
        with self.hub.lock:
            files = self.revision(groups)["files"]
            self.repo(groups)["commits"].clear()
            self.new_commit(groups["id"], json.loads(body)["message"], files)
        return 200, {}

    def on_preupload(self, groups: dict, body: bytes) -> tuple:
        files = self.revision(groups)["files"]
        answers = []
        for wanted in json.loads(body)["files"]:
            path, known = wanted["path"], files.get(wanted["path"])
            large = path.endswith(LARGE_ENDINGS) or wanted["size"] > 10_000_000
            oid = known and (known["sha256"] if known["lfs"] else known["git"])
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": answers}

    def on_lfs_batch(self, _: dict, body: bytes) -> tuple:
        objects = json.loads(body)["objects"]
        for wanted in objects:
            if not self.hub.blob(wanted["oid"]).exists():
                put = {"href": f"{self.hub.url}/lfs/{wanted['oid']}?X-Amz-Signature={self.hub.signature}"}
                wanted["actions"] = {"upload": put, "verify": {"href": f"{self.hub.url}/lfs/verify"}}
        return 200, {"transfer": "basic", "objects": objects}

    def on_lfs_put(self, groups: dict, body: Path) -> tuple:
        if self.query.get("X-Amz-Signature") != self.hub.signature:
            raise Refused(403, "SignatureDoesNotMatch")
        if sha256_of(body) != groups["oid"]:
            raise Refused(400, "the content has another digest")
        body.replace(self.hub.blob(groups["oid"]))
        return 200, b""

    def on_lfs_verify(self, _: dict, body: bytes) -> tuple:
        wanted = json.loads(body)
        blob = self.hub.blob(wanted["oid"])
        if not blob.exists() or blob.stat().st_size != wanted["size"]:
            raise Refused(404, "the content has not arrived")
        return 200, {}

    def on_commit(self, groups: dict, body: bytes) -> tuple:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        with self.hub.lock:
            commit = self.revision(groups | {"rev": "main"})
            if header.get("parentCommit") not in (None, commit["oid"]):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(commit["files"])
            for line in lines[1:]:
                self.apply(files, line["key"], line["value"])
            oid = self.new_commit(groups["id"], header["summary"], files)
        url = f"{self.hub.url}/{groups['id']}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url}

    def apply(self, files: dict, key: str, value: dict) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self.hub.record(base64.b64decode(value["content"]), large=False)
        elif key == "lfsFile":
            files[path] = self.large_record(value["oid"])
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            inside = [name for name in files if name.startswith(f"{path.rstrip('/')}/")]
            if not inside:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in inside:
                del files[name]

    def large_record(self, oid: str) -> dict:
        if self.hub.blob(oid).exists():
            return self.hub.record(self.hub.blob(oid), large=True)
        data, xet = self.hub.xet_read(oid)
        record = self.hub.record(data, large=True, xet=xet)
        if record["sha256"] != oid:
            raise Refused(400, f"the LFS content {oid} has another digest")
        return record

    def on_tree(self, groups: dict, _: bytes) -> tuple:
        files = self.revision(groups)["files"]
        top = groups.get("path", "").strip("/")
        if top and not any(path.startswith(f"{top}/") for path in files):
            raise Refused(404, f"{top} does not exist on main", "EntryNotFound")
        return self.page_of([repo_item(path, files[path]) for path in sorted(files)], top)

    def page_of(self, items: list[dict], top: str, *, is_prefix: bool = False) -> tuple:
        """A page of a listing and the address of the next, as the Hub gives it."""
        start = top if is_prefix else f"{top}/" if top else ""
        chosen, folders = [], set()
        for item in (item for item in items if item["path"].startswith(start)):
            below = item["path"][len(start) :].split("/")
            recursive = self.query.get("recursive", "").lower() == "true"
            if recursive or len(below) == 1:
                chosen.append(item)
            for depth in range(1, len(below) if recursive else min(2, len(below))):
                folders.add(start + "/".join(below[:depth]))
        chosen = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(folders)] + chosen
        cursor = int(self.query.get("cursor", 0))
        after = cursor + self.hub.page
        headers = {}
        if after < len(chosen):
            query = "&".join(f"{key}={quote(value)}" for key, value in (self.query | {"cursor": str(after)}).items())
            headers["Link"] = f'<{self.hub.url}{urlsplit(self.path).path}?{query}>; rel="next"'
        return 200, chosen[cursor:after], headers

    def on_paths(self, groups: dict, body: bytes) -> tuple:
        files = self.revision(groups)["files"]
        wanted = parse_qs(body.decode()).get("paths", [])
        return 200, [repo_item(path, files[path]) for path in wanted if path in files]

    def on_resolve(self, groups: dict, _: bytes) -> tuple:
        commit = self.revision(groups)
        if groups["path"] not in commit["files"]:
            raise Refused(404, "Entry not found", "EntryNotFound")
        record = commit["files"][groups["path"]]
        headers = {"X-Repo-Commit": commit["oid"]}
        if not record["lfs"]:
            return self.ranged(record, headers | {"ETag": f'"{record["git"]}"'})
        return self.redirected(record, headers)

    def redirected(self, record: dict, headers: dict[str, str]) -> tuple:
        """Large contents come from elsewhere, by a signed address."""
        # Another host by its name: the client does not follow it for metadata, nor sends it the token.
        target = f"http://localhost:{self.hub.port}/cdn/{record['sha256']}?X-Amz-Signature={self.hub.signature}"
        linked = {"X-Linked-Size": str(record["size"]), "X-Linked-ETag": f'"{record["sha256"]}"'}
        return 302, b"", headers | linked | {"Location": target, "ETag": f'"{record["sha256"]}"'}

    def on_cdn(self, groups: dict, _: bytes) -> tuple:
        if self.query.get("X-Amz-Signature") != self.hub.signature:
            raise Refused(403, "SignatureDoesNotMatch")
        return self.ranged({"sha256": groups["oid"]}, {"ETag": f'"{groups["oid"]}"'})

    def ranged(self, record: dict, headers: dict[str, str]) -> tuple:
        path = self.hub.blob(record["sha256"])
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 200, Part(path, 0, size), headers
        first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
        if first >= size:
            raise Refused(416, "Range not satisfiable")
        return 206, Part(path, first, last + 1 - first), headers | {"Content-Range": f"bytes {first}-{last}/{size}"}

    # --- xet, buckets ---

    def on_xet_token(self, groups: dict, _: bytes) -> tuple:
        # Each session has its own storage, since no two processes can open one at once.
        session = re.sub(r"\W", "", self.headers.get("X-Xet-Session-Id", "none"))
        session = groups["id"].removeprefix("x/") if groups["id"].startswith("x/") else session
        cas, token, expires = f"local://{self.hub.folder / 'cas' / session}", "xet-token", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
        return 200, {"casUrl": cas, "accessToken": token, "exp": expires}, headers

    def bucket(self, groups: dict[str, str]) -> dict:
        if groups["id"] not in self.hub.buckets:
            raise Refused(404, "Bucket not found", "RepoNotFound")
        return self.hub.buckets[groups["id"]]

    def on_bucket_create(self, groups: dict, body: bytes) -> tuple:
        name, wanted = groups["id"], json.loads(body or b"{}")
        url = f"{self.hub.url}/buckets/{name}"
        with self.hub.lock:
            if name in self.hub.buckets:
                raise Refused(409, "You already created this bucket", url=url)
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.hub.buckets[name] = {"private": private, "files": {}}
            self.hub.save()
        return 200, {"url": url, "id": name}

    def on_bucket_info(self, groups: dict, _: bytes) -> tuple:
        bucket = self.bucket(groups)
        size = sum(record["size"] for record in bucket["files"].values())
        created, count = "2026-01-01T00:00:00.000Z", len(bucket["files"])
        facts = {"id": groups["id"], "private": bucket["private"], "createdAt": created}
        return 200, facts | {"size": size, "totalFiles": count}

    def on_bucket_batch(self, groups: dict, body: bytes) -> tuple:
        files = self.bucket(groups)["files"]
        lines = [json.loads(line) for line in body.splitlines()]
        done = len(lines) // 2 if self.fault_kind in ("partial", "silent") else len(lines)
        failed = [{"path": line["path"], "error": "internal error"} for line in lines[done:]]
        failed = [] if self.fault_kind == "silent" else failed
        for line in lines[:done]:
            if line["type"] == "deleteFile":
                with self.hub.lock:
                    files.pop(line["path"], None)
                continue
            xet, data = line["xetHash"], b""
            if xet != "0" * 64:
                try:
                    data, _ = self.hub.xet_read(xet)
                except Refused as refused:
                    failed.append({"path": line["path"], "error": str(refused)})
                    continue
            with self.hub.lock:
                files[line["path"]] = self.hub.record(data, large=True, xet=xet)
        with self.hub.lock:
            self.hub.save()
        status = 422 if failed and len(failed) == len(lines) else 200
        return status, {"success": not failed, "processed": len(lines), "failed": failed}

    def on_bucket_tree(self, groups: dict, _: bytes) -> tuple:
        files = self.bucket(groups)["files"]
        items = [bucket_item(path, files[path]) for path in sorted(files)]
        return self.page_of(items, groups.get("path", ""), is_prefix=True)

    def on_bucket_paths(self, groups: dict, body: bytes) -> tuple:
        files = self.bucket(groups)["files"]
        return 200, [bucket_item(path, files[path]) for path in json.loads(body)["paths"] if path in files]

    def on_bucket_resolve(self, groups: dict, _: bytes) -> tuple:
        files = self.bucket(groups)["files"]
        if groups["path"] not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        record = files[groups["path"]]
        refresh = f"{self.hub.url}/api/buckets/{groups['id']}/xet-read-token"
        return self.redirected(record, {"X-Xet-Hash": record["xet"], "X-Xet-Refresh-Route": refresh})


def retry_header(fault: Fault) -> dict[str, str]:
    return {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}


def repo_item(path: str, record: dict) -> dict:
    item = {"type": "file", "path": path, "size": record["size"], "oid": record["git"]}
    if record["lfs"]:
        item["lfs"] = {"oid": record["sha256"], "size": record["size"], "pointerSize": 134}
        item["xetHash"] = record["xet"]
    return item


def bucket_item(path: str, record: dict) -> dict:
    return {"type": "file", "path": path, "size": record["size"], "xetHash": record["xet"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, required=True, help="where the state lies")
    parser.add_argument("--user", default="me")
    parser.add_argument("--token", default="", help="the only token that may write; random if not given")
    parser.add_argument("--bandwidth", type=float, default=0.0, help="bytes a second of all uploads over HTTP together")
    options = parser.parse_args()
    hub = StandIn(
        options.folder, port=options.port, user=options.user, token=options.token, bandwidth=options.bandwidth
    )
    print(json.dumps({"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}), flush=True)
    hub.server.serve_forever()


if __name__ == "__main__":
    main()
