"""The output of an earlier Kaggle kernel as a store to read from: mounted in the session, or downloaded.

A kernel that is attached to a notebook as a source is mounted, and read there. Everywhere else the output is asked for
with the `kaggle` package: its client signs in and lists the files, each with a signed address, and a file is downloaded
from there when it is read. The client's own download is not used: it holds whole files in memory and, in some versions,
saves a server's error page as if it were the file.

The store is the one folder of the output that is laid out as one. Nothing is ever written.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.hub_content import HashingSink
from kelron_lib.kaggle_mounts import output_of
from kelron_lib.manifest import LATEST, MANIFEST, step_of
from kelron_lib.store import Entry, FolderStore, MissingFile, plain_parts, unconditionally

SCHEME = "kaggle://"
WAITS = (1.0, 4.0, 15.0, 60.0)
"""Seconds before each further try of a request that failed for a passing reason."""
TIMEOUTS = (20.0, 120.0)
"""Seconds to connect, and a server's longest silence."""
PAGE = 100
"""Files that one request lists."""
PASSING = (408, 429, 500, 502, 503, 504)
"""Answers after which another try may go well."""
BLOCK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
Result = TypeVar("Result")


def open_kaggle_store(url: str, *, mounts: Path | None = None) -> MountedStore | DownloadedStore:
    """The store in the output of the kernel behind `kaggle://OWNER/KERNEL`; reaches no network yet.

    `mounts`: where outputs may be mounted (a session's `input`). Raises KelronError for a URL that names no kernel,
    and for a mounted output without a store or with several.
    """
    owner, _, slug = url.removeprefix(SCHEME).strip("/").partition("/")
    if not url.startswith(SCHEME) or not _NAME.fullmatch(owner) or not _NAME.fullmatch(slug):
        raise KelronError(f"{url!r} names no Kaggle kernel: use kaggle://OWNER/KERNEL, as in the notebook's address")
    kernel, mount = f"{owner}/{slug}", output_of(owner, slug, mounts)
    return DownloadedStore(kernel) if mount is None else _mounted(kernel, mount)


def _mounted(kernel: str, mount: Path) -> MountedStore:
    paths = [entry.path for entry in FolderStore(mount).list()]
    return MountedStore(kernel, mount / find_store(paths, f"the output of {kernel}, mounted at {mount},"))


def find_store(paths: Sequence[str], where: str) -> str:
    """The folder among `paths` that is a store: with a LATEST.json, or with manifests in step folders; "" is the top.

    Raises KelronError, beginning with `where`, unless there is exactly one.
    """
    found = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        above, _, step = folder.rpartition("/")
        if name == LATEST:
            found.add(folder)
        elif name == MANIFEST and step_of(step) is not None:
            found.add(above)
    if not found:
        raise KelronError(f"{where} holds no store ({len(paths)} files, no {LATEST}): name a kernel that saved one")
    if len(found) > 1:
        names = ", ".join(sorted(folder or "its top" for folder in found))
        raise KelronError(f"{where} holds {len(found)} stores ({names}): download the right one and name that folder")
    return found.pop()


class _ReadOnly:
    """Whatever would write refuses."""

    kernel: str

    def write_bytes(self, path: str, data: bytes, confirm: Callable[[], None] = unconditionally) -> None:
        self._refuse()

    def put_file(self, local: Path, path: str) -> None:
        self._refuse()

    def put_files(self, files: Mapping[str, Path]) -> None:
        self._refuse()

    def delete(self, prefix: str) -> None:
        self._refuse()

    def prepare(self) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise KelronError(f"kaggle://{self.kernel} is read-only: name another store URL for new checkpoints")


class MountedStore(_ReadOnly, FolderStore):
    """A store in an output that is mounted here."""

    def __init__(self, kernel: str, root: Path) -> None:
        super().__init__(root)
        self.kernel = kernel

    def describe(self) -> str:
        return f"Kaggle output {self.kernel} (mounted at {self.root})"


@dataclass
class DownloadedStore(_ReadOnly):
    """A store in an output that is downloaded, file by file, when it is read.

    An output never changes; what was learnt of it is kept. `sleep` waits between tries.
    """

    kernel: str
    """OWNER/KERNEL."""
    say: Callable[[str], None] = print
    sleep: Callable[[float], None] = time.sleep
    beat_seconds: float = 60.0
    settle_seconds: float = 0.0
    _entries: dict[str, Entry] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        return f"Kaggle output {self.kernel}"

    def list(self, prefix: str = "") -> Sequence[Entry]:
        top = "/".join(plain_parts(prefix)) + "/" if prefix else ""
        return [self._entry(path) for path in sorted(self._addresses) if path == prefix or path.startswith(top)]

    def read_bytes(self, path: str) -> bytes:
        sink = io.BytesIO()
        self._fetch(path, sink)
        return sink.getvalue()

    def sha256(self, path: str) -> str:
        if path not in self._digests:
            sink = HashingSink()
            self._fetch(path, sink)
            self._digests[path] = sink.hexdigest()
        return self._digests[path]

    def get_file(self, path: str, local: Path) -> None:
        self._address(path)
        try:
            with local.open("w+b") as sink:
                self._fetch(path, sink)
        except OSError as error:
            raise cannot_write(f"write {local}", error) from error

    def locate(self) -> None:
        """Raise KelronError unless the output can be had and holds one store."""
        assert self._addresses is not None

    @cached_property
    def _addresses(self) -> dict[str, str]:
        """The files of the store, by their path in it, each with its signed address."""
        files = self._tried("list the files", self._listed)
        top = find_store([*files], f"the output of {self.kernel}")
        cut = len(top) + 1 if top else 0
        return {path[cut:]: address for path, address in files.items() if path.startswith(f"{top}/" if top else "")}

    def _listed(self) -> dict[str, str]:
        """All files of the output, by their path in it; a name that is no plain path is left out."""
        client, files = self._client, dict[str, str]()
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        request = ApiListKernelSessionOutputRequest()
        request.user_name, _, request.kernel_slug = self.kernel.partition("/")
        request.page_size = PAGE
        with client.build_kaggle_client() as kaggle:
            while True:
                answer = kaggle.kernels.kernels_api_client.list_kernel_session_output(request)
                files |= {item.file_name: item.url for item in answer.files or [] if _is_plain(item.file_name)}
                if not answer.next_page_token or answer.next_page_token == request.page_token:
                    return files
                request.page_token = answer.next_page_token

    @cached_property
    def _client(self) -> Any:
        return sign_in()

    def _address(self, path: str) -> str:
        plain_parts(path)
        if path not in self._addresses:
            raise MissingFile(f"{path} is missing in {self.describe()}")
        return self._addresses[path]

    def _entry(self, path: str) -> Entry:
        """The listing tells no sizes, and a signed address answers only GET: the first byte's answer has it."""
        if path not in self._entries:
            size = self._tried(f"look up {path}", lambda: _size(self._address(path)))
            self._entries[path] = Entry(path, size)
        return self._entries[path]

    def _fetch(self, path: str, sink: Any) -> None:
        """Download into an empty sink; after a break it goes on where it stopped."""
        self._tried(f"read {path}", lambda: download(self._address(path), sink))
        self._entries[path] = Entry(path, sink.tell())

    def _tried(self, doing: str, call: Callable[[], Result]) -> Result:
        """What `call` returns; tried again while that may help. Raises KelronError."""
        for wait in (*WAITS, None):
            try:
                with _explained(self.kernel):
                    return call()
            except Passing as failure:
                line = f"cannot {doing} in {self.describe()}: {failure}"
                if wait is None:
                    raise KelronError(f"{line} (given up after {len(WAITS) + 1} tries)") from None
                if failure.expired:
                    self.__dict__.pop("_addresses", None)
                wait = max(wait, failure.wait)
                self.say(f"{line}; trying again in {wait:.0f} s")
                self.sleep(wait)
        raise AssertionError("the last try returns or raises")


class Passing(Exception):
    """A request failed for a reason that may pass."""

    def __init__(self, line: str, *, wait: float = 0.0, expired: bool = False) -> None:
        super().__init__(line)
        self.wait = wait
        """Seconds that the server asks to wait."""
        self.expired = expired
        """The signed address is no longer good; a new listing has new ones."""


def sign_in() -> Any:
    """The `kaggle` package's client, signed in. Raises KelronError where it is not installed or knows no user."""
    try:
        # It signs in when it is imported, and where it cannot, prints a page of help and ends the process.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi

            client = KaggleApi()
            client.authenticate()
    except ImportError as error:
        raise not_installed(error) from None
    except SystemExit:
        if source := _refused_token():
            line = f"Kaggle does not accept the token of {source}: make a new one at kaggle.com/settings"
            raise KelronError(line) from None
        raise KelronError(
            "Kaggle wants to know who asks: set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, or put "
            "kaggle.json in ~/.kaggle (kaggle.com/settings makes one)"
        ) from None
    return client


def _refused_token() -> str:
    """Where the token is from that the package found and could not sign in with; empty where it found none."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    token, source = get_access_token_from_env()
    return str(source) if token else ""


def not_installed(error: ImportError) -> KelronError:
    return KelronError(
        f"Kaggle is reached with the kaggle package ({error.name} is not installed): pip install 'kelron[kaggle]'; an "
        "output that is attached to this notebook needs none"
    )


def requests_library() -> Any:
    """The library that the kaggle package talks by, which comes with it."""
    try:
        import requests
    except ImportError as error:
        raise not_installed(error) from None
    return requests


def _is_plain(path: str) -> bool:
    with suppress(KelronError):
        return bool(plain_parts(path))
    return False


@contextmanager
def _explained(kernel: str) -> Iterator[None]:
    """Turns what requests raises into Passing or KelronError; addresses are signed, so none is ever shown."""
    requests = requests_library()
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403, 404):
            raise KelronError(
                f"Kaggle shows no output of {kernel} (it answered {status}): take OWNER/KERNEL from the notebook's "
                "address, and sign in as somebody who may see it"
            ) from None
        if status not in PASSING:
            raise KelronError(f"Kaggle answered {status} when asked for the output of {kernel}") from None
        raise Passing(f"Kaggle answered {status}", wait=asked_wait(error.response)) from None
    except requests.RequestException as error:
        raise Passing(f"Kaggle cannot be reached or broke off ({type(error).__name__})") from None


def asked_wait(response: Any) -> float:
    with suppress(ValueError):
        return max(0.0, float(response.headers.get("Retry-After", "")))
    return 0.0


@contextmanager
def _answer(address: str, first: int, last: int | None = None) -> Iterator[Any]:
    """The answer to a request for the bytes from `first` on. Raises as _explained expects, or KelronError."""
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={first}-{'' if last is None else last}"}
    with requests_library().get(address, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        if response.status_code in (400, 401, 403):  # the storage's words for a signature that is too old
            raise Passing(f"Kaggle's storage answered {response.status_code}", expired=True)
        if response.status_code != 416:  # asked for what is beyond the end
            response.raise_for_status()
        yield response


def _size(address: str) -> int:
    """Bytes of a file, without fetching more than one."""
    with _answer(address, 0, 0) as response:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status_code == 200:
            total = response.headers.get("Content-Length", "")
        if not total.isdecimal():
            raise KelronError("Kaggle's storage does not tell how large a file is: download the output by hand")
        return int(total)


def download(address: str, sink: Any) -> None:
    """Append to `sink` what it does not hold yet."""
    with _answer(address, sink.tell()) as response:
        if response.status_code == 416:
            return
        if response.status_code != 206:
            sink.seek(0)
            sink.truncate()
        for block in response.iter_content(BLOCK):
            sink.write(block)
