"""A stand-in for Kaggle on 127.0.0.1 that keeps datasets and kernels, and plays their sessions.

It answers the requests of the real `kaggle` package as Kaggle does as far as that is known: a slug is made from the
title whatever the id says; what does not exist is answered 403; a refused push is an answer 200 with an error in it; a
session starts without the sources that were rejected; a new dataset is hidden from its owner for a while, and mounted
a while after it is called ready. `play` decides what a session does: `notebook` executes what was pushed in an emulated
/kaggle tree, with a machine of its own (tests/kaggle_image.py); tests also give functions that return at once.

`faults[METHOD]` says what goes wrong with the next requests of a method, in order: an HTTP status; `lost` (done, and
the answer never comes); a text beginning with `refuse:` (SaveKernel: nothing is saved, and the answer is 200).
`faults["stream"]`: after how many lines a log breaks off; a negative number: it ends there as if it were whole.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import psutil
from kaggle_stand_in import KEY, USER
from local_server import LocalServer

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ACTIVE = ("QUEUED", "RUNNING", "CANCEL_REQUESTED")
TIMED_OUT = "Your notebook was canceled after {:.1f}s: it exceeded the max allowed execution duration"


@dataclass
class Played:
    """What became of a session."""

    status: str = "COMPLETE"
    files: dict[str, bytes] = field(default_factory=dict)
    log: str = ""
    message: str = ""


@dataclass
class Version:
    """One version of a kernel and its session."""

    number: int
    asked: dict
    status: str = "QUEUED"
    message: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    mounted: list[str] = field(default_factory=list)
    seconds: float = 0.0
    began: float = 0.0
    """When its session began, by the monotonic clock."""

    @property
    def parameters(self):
        cell = next(c for c in json.loads(self.asked["text"])["cells"] if c.get("id") == "pushed")
        found: dict = {}
        exec(cell["source"], found)
        return {name: value for name, value in found.items() if name.isupper()}

    @property
    def record(self):
        from kelron_lib.kaggle_ops.kernels import find_record

        return find_record(self.asked["text"])


@dataclass
class DatasetVersion:
    files: dict[str, bytes]
    made: float
    notes: str = ""


@dataclass
class Dataset:
    private: bool
    versions: list[DatasetVersion] = field(default_factory=list)
    deleted: int = 0
    """How many versions there were before these."""


class World(LocalServer):
    """The server, in threads of this process; sessions are threads, too, and may have processes of their own."""

    def __init__(
        self, play, *, queue=0.0, hidden=0.0, slow=0.0, lag=0.0, layout="new", cap=lambda *_: 12 * 3600, sessions=2
    ):
        """`queue`: seconds before a session begins, or `queue(version)`, which returns when it is to; `hidden`: seconds
        for which a new dataset is answered 403; `slow`: seconds until a version is ready; `lag`: seconds after that
        until it is mounted; `cap(world, version)`: seconds after which a session is killed, instead of 12 hours, asked
        again and again while it runs; `sessions`: how many with a GPU may be active."""
        self.play, self.queue, self.hidden, self.slow, self.lag = play, queue, hidden, slow, lag
        self.layout, self.cap, self.sessions = layout, cap, sessions
        self.faults = defaultdict(list)
        self.requests = []
        self.kernels: dict[str, list[Version]] = {}
        self.datasets: dict[str, Dataset] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self.forced_public = False
        self.keeps_old_versions = False
        """Whether a dataset's older versions stay although they were to be deleted."""
        self.lost_models: list[str] = []
        """Models that this user may not attach."""
        self.unattachable = 0
        """How many pushes to come have their datasets rejected, although they are ready."""
        self.used_hours, self.total_hours = 3.5, 30.0
        self.refresh = datetime(2026, 11, 28, tzinfo=UTC)
        self.at_once = 0
        self.over = threading.Event()
        """Nobody looks any more: sessions that still run are killed."""
        self.lock = threading.RLock()
        self.threads = []
        super().__init__(_Handler, world=self)

    def __exit__(self, *_):
        self.over.set()
        super().__exit__(*_)
        for thread in self.threads:
            thread.join(60)

    def environment(self):
        """What another process needs to take this for Kaggle: requests to Kaggle go through it as through a proxy."""
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
            "HTTP_PROXY": self.url,
            "http_proxy": self.url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    # --- what happens ---

    def versions(self, slug):
        return self.kernels.get(f"{USER}/{slug}", [])

    def history(self, *slugs):
        """All versions of these kernels, in the order of their pushes."""
        found = [version for slug in slugs for version in self.versions(slug)]
        return sorted(found, key=lambda version: version.asked["order"])

    def cancel(self, version):
        """As Cancel Run in Kaggle's page does: the session's end is asked for, and comes when it heeds it."""
        with self.lock:
            assert version.status == "RUNNING"
            version.status = "CANCEL_REQUESTED"

    def delete(self, slug):
        """As Delete in a kernel's page does."""
        with self.lock:
            del self.kernels[f"{USER}/{slug}"]

    def wait(self, seconds=60.0):
        """Until no session is active."""
        end = time.monotonic() + seconds
        while any(v.status in ACTIVE for kernel in self.kernels.values() for v in kernel):
            assert time.monotonic() < end, "a session did not end"
            time.sleep(0.02)

    def _session(self, ref, version, began):
        if callable(self.queue):
            self.queue(version)
        else:
            time.sleep(self.queue)
        version.began, version.status = time.monotonic(), "RUNNING"
        try:
            played = self.play(self, ref, version)
        except Exception as error:  # the test has to see it
            played = Played("ERROR", message=f"the stand-in itself failed: {type(error).__name__}: {error}")
        with self.lock:
            version.files, version.message = played.files, played.message
            if played.log:
                version.lines = played.log.splitlines(keepends=True)
            version.seconds = time.monotonic() - began
            version.status = "CANCEL_ACKNOWLEDGED" if version.status == "CANCEL_REQUESTED" else played.status

    def mounted(self, version, when=None):
        """The attached things, by their place under /kaggle/input."""
        found, now = {}, time.monotonic() if when is None else when
        for ref in version.asked.get("datasetDataSources", []):
            there = [v for v in self.datasets[ref].versions if now - v.made >= self.slow + self.lag]
            if there:
                found[self._place("datasets", ref)] = there[-1].files
        for source in version.asked.get("kernelDataSources", []):
            owner, slug, *number = source.split("/")
            all_versions = self.kernels[f"{owner}/{slug}"]
            ended = [v for v in all_versions if v.status not in ACTIVE and v.files]
            wanted = [v for v in all_versions if str(v.number) in number] or ended[-1:]
            for one in wanted:
                found[self._place("notebooks", f"{owner}/{slug}")] = one.files
        return found

    def _place(self, kind, ref):
        return f"{kind}/{ref}" if self.layout == "new" else ref.partition("/")[2]

    # --- requests ---

    def save_kernel(self, asked):
        from slugify import slugify

        owner, slug = asked["slug"].split("/")[0], slugify(asked.get("newTitle") or asked["slug"].split("/")[1])
        ref = f"{owner}/{slug}"
        if owner != USER:
            return 403, {"code": 403, "message": "Permission 'kernels.update' was denied"}
        runs = asked.get("kernelExecutionType") != "QUICK_SAVE"
        active = [v for k in self.kernels.values() for v in k if v.status in ACTIVE]
        if runs and asked.get("enableGpu") and sum(bool(v.asked.get("enableGpu")) for v in active) >= self.sessions:
            return 200, {"error": f"Maximum batch GPU session count of {self.sessions} reached."}
        rejects = self.unattachable > 0 and bool(asked.get("datasetDataSources"))
        self.unattachable -= rejects
        bad_data = [r for r in asked.get("datasetDataSources", []) if rejects or not self._attachable(r)]
        bad_models = [m for m in asked.get("modelDataSources", []) if m in self.lost_models]
        bad_kernels = [s for s in asked.get("kernelDataSources", []) if "/".join(s.split("/")[:2]) not in self.kernels]
        asked["order"] = len(self.requests)
        asked["datasetDataSources"] = [r for r in asked.get("datasetDataSources", []) if r not in bad_data]
        asked["kernelDataSources"] = [s for s in asked.get("kernelDataSources", []) if s not in bad_kernels]
        version = Version(len(self.kernels.get(ref, [])) + 1, asked, status="QUEUED" if runs else "NEW_SCRIPT")
        self.kernels.setdefault(ref, []).append(version)
        if runs:
            self.at_once = max(self.at_once, 1 + sum("kelron-0" in v.asked["slug"] for v in active))
            thread = threading.Thread(target=self._session, args=(ref, version, time.monotonic()), daemon=True)
            self.threads.append(thread)
            thread.start()
        return 200, {
            "ref": f"/code/{ref}",
            "url": f"https://www.kaggle.com/code/{ref}",
            "versionNumber": version.number,
            "invalidDatasetSources": bad_data,
            "invalidKernelSources": bad_kernels,
            "invalidModelSources": bad_models,
        }

    def _attachable(self, ref):
        dataset = self.datasets.get(ref)
        return dataset is not None and time.monotonic() - dataset.versions[0].made >= self.slow

    def _version(self, asked):
        versions = self.kernels.get(f"{asked['userName']}/{asked['kernelSlug']}")
        label = asked.get("versionLabel", "")
        if not versions:
            return None
        return next((v for v in versions if f"v{v.number}" == label), None) if label else versions[-1]

    def get_kernel(self, asked):
        version = self._version(asked)
        if version is None:
            return 403, {"code": 403, "message": "Permission 'kernels.get' was denied"}
        newest = self.kernels[f"{asked['userName']}/{asked['kernelSlug']}"][-1]
        metadata = {"title": version.asked["newTitle"], "currentVersionNumber": newest.number, "isPrivate": True}
        return 200, {"metadata": metadata, "blob": {"source": version.asked["text"]}}

    def get_kernel_session_status(self, asked):
        version = self._version(asked)
        if version is None:
            return 403, {"code": 403, "message": "Permission 'kernels.get' was denied"}
        return 200, {"status": version.status, "failureMessage": version.message}

    def list_kernel_session_output(self, asked):
        version = self._version(asked)
        if version is None:
            return 403, {"code": 403, "message": "Permission 'kernels.get' was denied"}
        ref = f"{asked['userName']}/{asked['kernelSlug']}/{version.number}"
        names, first = sorted(version.files), int(asked.get("pageToken") or 0)
        last = first + min(int(asked.get("pageSize") or 20), 50)
        files = [{"fileName": n, "url": f"{self.url}/output/{ref}/{quote(n)}?signature=1"} for n in names[first:last]]
        log = json.dumps(self.events(version)) if version.lines and version.status not in ACTIVE else ""
        return 200, {"files": files, "log": log, "nextPageToken": str(last) if last < len(names) else ""}

    def events(self, version):
        return [{"stream_name": "stdout", "time": n, "data": line} for n, line in enumerate(version.lines)]

    def get_accelerator_quota_statistics(self, asked):
        gpu = {"timeUsed": f"{self.used_hours * 3600:.0f}s", "totalTimeAllowed": f"{self.total_hours * 3600:.0f}s"}
        return 200, {"quotaRefreshTime": self.refresh.strftime("%Y-%m-%dT%H:%M:%SZ"), "gpuQuota": gpu}

    def introspect_token(self, asked):
        return 200, {"active": asked.get("token") == KEY, "username": USER}

    def _dataset(self, asked):
        dataset = self.datasets.get(f"{asked['ownerSlug']}/{asked['datasetSlug']}")
        hidden = dataset is not None and time.monotonic() - dataset.versions[0].made < self.hidden
        return None if hidden else dataset

    def get_dataset(self, asked):
        if (dataset := self._dataset(asked)) is None:
            return 403, {"code": 403, "message": "Permission 'datasets.get' was denied"}
        versions = [
            {"versionNumber": n, "versionNotes": v.notes} for n, v in enumerate(dataset.versions, 1 + dataset.deleted)
        ]
        return 200, {
            "ref": f"{asked['ownerSlug']}/{asked['datasetSlug']}",
            "isPrivate": dataset.private,
            "currentVersionNumber": dataset.deleted + len(versions),
            "versions": versions,
        }

    def get_dataset_status(self, asked):
        if (dataset := self._dataset(asked)) is None:
            return 403, {"code": 403, "message": "Permission 'datasets.get' was denied"}
        ready = time.monotonic() - dataset.versions[-1].made >= self.slow
        return 200, {"status": "READY" if ready else "BLOBS_RECEIVED"}

    def download_dataset(self, asked):
        dataset = self._dataset(asked)
        ready = [v for v in dataset.versions if time.monotonic() - v.made >= self.slow] if dataset else []
        if not ready or asked.get("fileName") not in ready[-1].files:
            return 404, {"code": 404, "message": "Not found"}
        where = f"{asked['ownerSlug']}/{asked['datasetSlug']}/{dataset.versions.index(ready[-1])}/{asked['fileName']}"
        other_host = self.url.replace("127.0.0.1", "localhost")  # as the storage is: credentials do not go there
        return 302, {"location": f"{other_host}/dataset/{where}?signature=1"}

    def start_blob_upload(self, asked):
        token = f"blob-{len(self.uploads)}"
        self.uploads[token] = (asked["name"], b"")
        return 200, {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def create_dataset(self, asked):
        ref = f"{asked['ownerSlug']}/{asked['slug']}"
        if ref in self.datasets:
            return 409, {"code": 409, "message": "The requested title is already in use by a dataset"}
        private = bool(asked.get("isPrivate")) and not self.forced_public
        self.datasets[ref] = Dataset(private, [self._received(asked)])
        return 200, {"status": "ok", "url": f"https://www.kaggle.com/datasets/{ref}"}

    def create_dataset_version(self, asked):
        ref, body = f"{asked['ownerSlug']}/{asked['datasetSlug']}", asked["body"]
        if ref not in self.datasets:
            return 404, {"code": 404, "message": "Not found"}
        dataset = self.datasets[ref]
        if body.get("deleteOldVersions") and not self.keeps_old_versions:
            dataset.deleted += len(dataset.versions)
            dataset.versions.clear()
        dataset.versions.append(self._received(body, body.get("versionNotes", "")))
        return 200, {"status": "ok", "url": f"https://www.kaggle.com/datasets/{ref}"}

    def _received(self, asked, notes=""):
        return DatasetVersion(dict(self.uploads[file["token"]] for file in asked["files"]), time.monotonic(), notes)

    def delete_dataset(self, asked):
        return (200, {}) if self.datasets.pop(f"{asked['ownerSlug']}/{asked['datasetSlug']}", None) else (404, {})


class _Handler(BaseHTTPRequestHandler):
    world: World
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, body, kind="application/json", **headers):
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed, or gave up waiting
            self._send(status, body, kind, **headers)

    def _send(self, status, body, kind, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def _read(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _signed_in(self):
        import base64

        login = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        return self.headers.get("Authorization") in (f"Basic {login}", f"Bearer {KEY}")

    def do_POST(self):
        asked, method = json.loads(self._read() or "{}"), urlsplit(self.path).path.rpartition("/")[2]
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in method).lstrip("_")
        with self.world.lock:
            self.world.requests.append((method, asked))
            fault = self.world.faults[method].pop(0) if self.world.faults[method] else None
        if isinstance(fault, int):
            status, body = fault, {"code": fault, "message": "told to fail"}
        elif isinstance(fault, str) and fault.startswith("refuse:"):
            status, body = 200, {"error": fault.removeprefix("refuse:")}
        elif not self._signed_in() and method != "IntrospectToken":
            status, body = 401, {"code": 401, "message": "Unauthenticated"}
        elif not hasattr(self.world, name):
            status, body = 404, {"code": 404, "message": f"no such method {method}"}
        else:
            with self.world.lock:
                status, body = getattr(self.world, name)(asked)
        if fault == "lost":
            self.close_connection = True
            return
        where = {"Location": body["location"]} if status == 302 else {}
        self._answer(status, json.dumps(body).encode(), **where)

    def do_PUT(self):
        token = urlsplit(self.path).path.rpartition("/")[2]
        self.world.uploads[token] = (self.world.uploads[token][0], self._read())
        self._answer(200, b"")

    def do_GET(self):
        url = urlsplit(self.path)
        kind, _, rest = unquote(url.path).lstrip("/").partition("/")
        if "/logs/stream/" in url.path:
            label = parse_qs(url.query).get("versionLabel", [""])[0]
            with suppress(BrokenPipeError, ConnectionResetError):  # nobody listens any more
                self._stream(url.path.partition("/logs/stream/")[2], label)
            return None
        if parse_qs(url.query).get("signature") != ["1"] or self.headers.get("Authorization"):
            return self._answer(403, b"<Error>SignatureDoesNotMatch</Error>", "text/xml")
        owner, slug, number, name = rest.split("/", 3)
        if kind == "output":
            content = self.world.kernels[f"{owner}/{slug}"][int(number) - 1].files[name]
        else:
            content = self.world.datasets[f"{owner}/{slug}"].versions[int(number)].files[name]
        return self._answer(200, content, "application/octet-stream")

    def _stream(self, ref, label):
        owner, slug = ref.split("/")
        version = self.world._version({"userName": owner, "kernelSlug": slug, "versionLabel": label})
        if version is None:
            return self._answer(403, b"{}")
        if version.status not in ACTIVE:
            return self._answer(200, json.dumps(self.world.events(version)).encode(), "text/plain")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = self.world.faults["stream"].pop(0) if self.world.faults["stream"] else 10**9
        sent = 0
        while True:
            over = version.status not in ACTIVE
            for event in self.world.events(version)[sent:]:
                if sent >= abs(cut):
                    self.close_connection = True
                    return None if cut > 0 else self._chunk(b"")
                self._chunk(f"data: {json.dumps(event)}\n\n".encode())
                sent += 1
            if over:
                self._chunk(b"data: END_OF_LOG\n\n")
                return self._chunk(b"")
            time.sleep(0.02)

    def _chunk(self, content):
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()


# --- sessions that really execute ---


@dataclass
class Notebooks:
    """Executes what was pushed, each in a machine of its own (`image`: a function that makes one in a folder and
    returns its python), under `home`. It is killed at the world's cap, or at the timeout that it was pushed with.

    `hangs(version, working)` says whether a running session stands still now, as one whose GPU does not answer;
    `kill(version, working)` whether it is killed before its cap; `keeps` whether the output of a killed one survives;
    `used(world, version)`, how many seconds of its budget are gone when it begins.
    """

    home: Path
    image: object
    environment: dict = field(default_factory=dict)
    hangs: object = None
    kill: object = None
    keeps: bool = False
    used: object = None

    def __call__(self, world, ref, version):
        root = self.home / f"{ref.replace('/', '-')}-{version.number}"
        working, began = root / "kaggle" / "working", time.monotonic()
        working.mkdir(parents=True)
        (root / "kaggle" / "input").mkdir()
        for place, files in world.mounted(version).items():
            version.mounted.append(place)
            for name, content in files.items():
                target = root / "kaggle" / "input" / place / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        (root / "notebook.ipynb").write_text(version.asked["text"])
        process = self._start(world, root, working, version)
        timeout, killed, hung = float(version.asked.get("sessionTimeoutSeconds", 12 * 3600)), False, False
        while process.poll() is None:
            late = time.monotonic() - began >= min(timeout, world.cap(world, version))
            late = late or version.status == "CANCEL_REQUESTED"
            if late or world.over.is_set() or (self.kill is not None and self.kill(version, working)):
                killed = True
                kill_all(process.pid)
            elif self.hangs is not None and self.hangs(version, working) != hung:
                hung = not hung
                signal_all(process.pid, signal.SIGSTOP if hung else signal.SIGCONT)
            time.sleep(0.05)
        seconds = time.monotonic() - began
        version.reader.join(60)
        shutil.rmtree(root / "venv", ignore_errors=True)
        files = {
            str(path.relative_to(working)): path.read_bytes()
            for path in sorted(working.rglob("*"))
            if path.is_file() and not any(p.is_symlink() for p in (path, *path.parents) if working in p.parents)
        }
        if killed:
            message = TIMED_OUT.format(seconds)
            return Played("CANCEL_ACKNOWLEDGED", files if self.keeps else {}, message=message)
        return Played("COMPLETE" if process.returncode == 0 else "ERROR", files)

    def _start(self, world, root, working, version):
        python = self.image(root / "venv")
        scratch = root / "tmp"
        scratch.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment = {
            **kept,
            "HOME": str(root),
            "TMPDIR": str(scratch),
            "KELRON_KAGGLE": str(root / "kaggle"),
            "KAGGLE_KERNEL_RUN_TYPE": "Batch",
            "KELRON_SESSION_START": repr(time.time() - (self.used(world, version) if self.used else 0.0)),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **self.environment,
        }
        command = [python, "-m", "papermill", "--log-output", "--no-progress-bar", "-k", "python3"]
        command += ["--start-timeout", "600"]  # a busy machine takes its time
        process = subprocess.Popen(
            [*map(str, command), str(root / "notebook.ipynb"), str(working / "__notebook__.ipynb")],
            cwd=working,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        version.reader = threading.Thread(target=lambda: version.lines.extend(process.stdout), daemon=True)
        version.reader.start()
        return process


def family_of(pid):
    """A process and all below it, which have sessions of their own."""
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def signal_all(pid, number):
    """A signal to a process and all below it."""
    for process in family_of(pid):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def kill_all(pid):
    """Kill a process and all below it: they stand still first, so that none begins another meanwhile."""
    stopped = set()
    while new := {process.pid for process in family_of(pid)} - stopped:
        for number in new:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGSTOP)
        stopped |= new
    signal_all(pid, signal.SIGKILL)


def by_hand(name, overrides):
    """A notebook as a person leaves it who sets the preset and the overrides in its parameters' cell."""
    notebook = json.loads((NOTEBOOKS / f"{name.replace(' ', '_')}.ipynb").read_text(encoding="utf-8"))
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    source = "".join(cell["source"]).replace('PRESET = "kelron-14b-t4x2"', 'PRESET = "tiny-cpu"')
    cell["source"] = source.replace("OVERRIDES = []", f"OVERRIDES = {[*overrides]!r}")
    return json.dumps(notebook)
