"""Kaggle as one user sees it: bounded waits and tries, and errors that say what to do."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.hub_client import scrub
from kelron_lib.kaggle_store import PASSING, TIMEOUTS, Passing, asked_wait, download, requests_library, sign_in

Result = TypeVar("Result")
WAITS = (2.0, 5.0, 15.0, 30.0, 60.0, 60.0)
"""Seconds before each further try of a request that failed for a passing reason; up to a fifth is added at random."""
PAGE = 100
ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")
"""States of a session after which nothing happens any more. CANCEL_ACKNOWLEDGED: cancelled, or out of time."""
ACTIVE = ("QUEUED", "RUNNING", "CANCEL_REQUESTED")


class KaggleError(KelronError):
    """What Kaggle answered, or that it did not."""

    def __init__(self, line: str, *, status: int = 0, wait: float = 0.0, passing: bool = False) -> None:
        super().__init__(line)
        self.status = status
        """The HTTP status; 0 where there was no answer."""
        self.wait = wait
        """Seconds that Kaggle asks to wait."""
        self.passing = passing
        """Another try may go well."""


@dataclass(frozen=True)
class Session:
    """How the newest session of a kernel, or that of one version, is doing."""

    status: str
    """QUEUED, RUNNING, CANCEL_REQUESTED, or one of ENDED; NEW_SCRIPT: saved and never run."""
    message: str = ""
    """Why it failed, where Kaggle tells."""

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


@dataclass(frozen=True)
class Saved:
    """A kernel as it is saved on Kaggle."""

    ref: str
    """OWNER/SLUG."""
    version: int
    source: str
    """The notebook's text."""


@dataclass(frozen=True)
class Output:
    """What a session left."""

    files: dict[str, str] = field(default_factory=dict)
    """Signed addresses by path in /kaggle/working."""
    log: str = ""

    def last_lines(self, count: int = 12) -> list[str]:
        """The last lines of the log, whether Kaggle keeps it as text or as a list of events."""
        try:
            events = json.loads(self.log)
            text = "".join(str(event.get("data", "")) for event in events if isinstance(event, dict))
        except (ValueError, TypeError):
            text = self.log
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]

    def path_of(self, name: str) -> str | None:
        """The shortest path that ends in `name`."""
        ends = [path for path in self.files if path == name or path.endswith(f"/{name}")]
        return min(ends, key=len, default=None)


@dataclass(frozen=True)
class Quota:
    """The week's GPU hours."""

    used: float
    total: float
    refresh: datetime | None

    @property
    def left(self) -> float:
        return max(0.0, self.total - self.used)


@dataclass(frozen=True)
class Dataset:
    """A dataset on Kaggle."""

    ref: str
    private: bool
    version: int
    notes: str
    """Of the newest version."""
    older: int = 0
    """How many versions before it Kaggle still has."""


@dataclass
class Kaggle:
    """Requests to Kaggle. `say` gets one line for each try that failed and is followed by another."""

    say: Callable[[str], None] = print
    sleep: Callable[[float], None] = time.sleep

    @cached_property
    def api(self) -> Any:
        """The package's client, signed in, whose requests do not wait for ever."""
        with _explained("sign in"):
            api = sign_in()
        api.already_printed_version_warning = True  # it would be printed amid our own lines
        build = api.build_kaggle_client
        api.build_kaggle_client = lambda: _impatient(build())
        return api

    @cached_property
    def owner(self) -> str:
        """The user's name on Kaggle."""
        api = self.tried("sign in", lambda: self.api)
        name = str(api.config_values.get("username") or "")
        if not name:
            raise KelronError("Kaggle's credentials name no user: set KAGGLE_USERNAME beside KAGGLE_KEY")
        return name

    # --- kernels ---

    def push(self, folder: Path, timeout: int) -> Any:
        """Save the kernel in a staged folder and start a session of at most `timeout` seconds; the server's answer."""
        with _quiet():
            return self.api.kernels_push(str(folder), timeout=str(timeout))

    def save_only(self, folder: Path) -> Any:
        """Save the kernel in a folder without starting a session."""
        with _quiet():
            return self.api.kernels_push(str(folder), no_run=True)

    def session(self, ref: str, version: int | None = None) -> Session | None:
        """How a kernel's session is doing; None where there is no such kernel, or none that this user may see."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        def ask() -> Session:
            request = _of_kernel(ApiGetKernelSessionStatusRequest(), ref, version)
            with self.api.build_kaggle_client() as client:
                answer = client.kernels.kernels_api_client.get_kernel_session_status(request)
            return Session(answer.status.name, str(answer.failure_message or ""))

        return self._unless_absent(f"ask how {ref} is doing", ask)

    def saved(self, ref: str, version: int | None = None) -> Saved | None:
        """A kernel as it is saved; None where there is none."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        def ask() -> Saved:
            request = _of_kernel(ApiGetKernelRequest(), ref, version)
            with self.api.build_kaggle_client() as client:
                answer = client.kernels.kernels_api_client.get_kernel(request)
            number = int(answer.metadata.current_version_number or 0)
            return Saved(ref, version or number, str(answer.blob.source or ""))

        return self._unless_absent(f"look up {ref}", ask)

    def output(self, ref: str, version: int | None = None, *, newest: bool = True) -> Output:
        """What a session left; nothing where there is no such kernel. Where Kaggle does not know a version that is the
        `newest`, what it gives without a number."""
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        def ask() -> Output:
            request = _of_kernel(ApiListKernelSessionOutputRequest(), ref, version)
            request.page_size = PAGE
            files, log = dict[str, str](), ""
            with self.api.build_kaggle_client() as client:
                while True:
                    answer = client.kernels.kernels_api_client.list_kernel_session_output(request)
                    files |= {item.file_name: item.url for item in answer.files or []}
                    log = log or str(answer.log or "")
                    if not answer.next_page_token or answer.next_page_token == request.page_token:
                        return Output(files, log)
                    request.page_token = answer.next_page_token

        found = self._unless_absent(f"list the output of {ref}", ask)
        if found is None and version is not None and newest:
            return self.output(ref)
        return found or Output()

    def events(self, ref: str) -> Iterator[tuple[float, str]]:
        """The log of a session (OWNER/SLUG, or OWNER/SLUG/VERSION), line by line, as it is written, each with the
        seconds since the session began, 0 where that is not told; the server sends it from its beginning each time.

        Raises KaggleError where the connection breaks.
        """
        with _explained(f"follow the log of {ref}"):
            for event in self.api.kernels_logs_stream(ref):
                if (data := event.get("data")) is not None:
                    when = event.get("time")
                    yield float(when) if isinstance(when, int | float) else 0.0, str(data)

    def quota(self) -> Quota | None:
        """The week's GPU hours; None where Kaggle does not tell."""
        answer = self.tried("ask for the quota", lambda: self.api.quota_view())
        if answer.gpu_quota is None or answer.gpu_quota.total_time_allowed is None:
            return None
        used, refresh = answer.gpu_quota.time_used, answer.quota_refresh_time
        if refresh is not None and refresh.tzinfo is None:
            refresh = refresh.replace(tzinfo=UTC)
        return Quota(
            used=used.total_seconds() / 3600 if used else 0.0,
            total=answer.gpu_quota.total_time_allowed.total_seconds() / 3600,
            refresh=refresh,
        )

    # --- datasets ---

    def dataset(self, ref: str) -> Dataset | None:
        """A dataset as it is on Kaggle; None where there is none."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        def ask() -> Dataset:
            request = ApiGetDatasetRequest()
            request.owner_slug, _, request.dataset_slug = ref.partition("/")
            with self.api.build_kaggle_client() as client:
                found = client.datasets.dataset_api_client.get_dataset(request)
            number = int(found.current_version_number or 0)
            notes = next((v.version_notes for v in found.versions or [] if v.version_number == number), "")
            older = sum(version.version_number != number for version in found.versions or [])
            return Dataset(ref, bool(found.is_private), number, str(notes or ""), older)

        return self._unless_absent(f"look up the dataset {ref}", ask)

    def dataset_status(self, ref: str) -> str:
        """`ready`, or what Kaggle does with the newest version now. Raises KaggleError where it may not be seen."""
        return str(self.tried(f"ask for the dataset {ref}", lambda: self.api.dataset_status(ref)))

    def dataset_file(self, ref: str, name: str) -> bytes | None:
        """A small file of a dataset's newest version; None where there is none."""
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        def ask() -> bytes:
            request = ApiDownloadDatasetRequest()
            request.owner_slug, _, request.dataset_slug = ref.partition("/")
            request.file_name = name
            with self.api.build_kaggle_client() as client:
                return bytes(client.datasets.dataset_api_client.download_dataset(request).content)

        return self._unless_absent(f"read {name} of the dataset {ref}", ask)

    def upload(self, folder: Path, notes: str, *, new: bool, only: bool = False) -> Any:
        """Send the files of a folder as a private dataset, or as its next version, with `only` in place of all before;
        the server's answer."""
        with _quiet():
            if new:
                return self.api.dataset_create_new(str(folder), public=False, quiet=True)
            return self.api.dataset_create_version(str(folder), notes, quiet=True, delete_old_versions=only)

    def delete_dataset(self, ref: str) -> None:
        """Delete a dataset."""
        owner, _, slug = ref.partition("/")
        self.tried(f"delete the dataset {ref}", lambda: self.api.dataset_delete(owner, slug, no_confirm=True))

    # --- tries ---

    def fetch(self, address: str, local: Path) -> None:
        """Download a file from a signed address; after a break it goes on where it stopped."""
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            with local.open("w+b") as sink:
                self.tried(f"download {local.name}", lambda: download(address, sink))
        except OSError as error:
            raise cannot_write(f"write {local}", error) from error

    def read(self, address: str) -> bytes:
        """The content of a small file behind a signed address."""
        sink = io.BytesIO()
        self.tried("read a file of the output", lambda: download(address, sink))
        return sink.getvalue()

    def tried(self, doing: str, call: Callable[[], Result], *, arrived: Callable[[], bool] | None = None) -> Result:
        """What `call` returns, tried again where that may help.

        `arrived` tells before every further try whether a change was made although its answer was lost; it raises
        KaggleError by itself where that cannot be told. Raises KaggleError.
        """
        for number in itertools.count():
            try:
                with _explained(doing):
                    return call()
            except KaggleError as failure:
                if not failure.passing:
                    raise
                if number >= len(WAITS):
                    line = f"{failure} (given up after {number + 1} tries)"
                    raise KaggleError(line, status=failure.status, passing=True) from None
                wait = max(WAITS[number] * random.uniform(1.0, 1.2), failure.wait)
                self.say(f"{failure}; trying again in {wait:.0f} s")
                self.sleep(wait)
            if arrived is not None and arrived():
                raise Arrived
        raise AssertionError("the last try returns or raises")

    def _unless_absent(self, doing: str, call: Callable[[], Result]) -> Result | None:
        """None where Kaggle says 403 or 404, which is its answer for what does not exist."""
        try:
            return self.tried(doing, call)
        except KaggleError as error:
            if error.status in (403, 404):
                return None
            raise


class Arrived(Exception):
    """The change was made, and the answer that said so was lost."""


def _of_kernel(request: Any, ref: str, version: int | None) -> Any:
    """A request about a kernel, or about one version of it."""
    request.user_name, _, request.kernel_slug = ref.partition("/")
    if version is not None:
        request.version_label = f"v{version}"  # the bare number is not found
    return request


def _impatient(client: Any) -> Any:
    """The package sends its requests without a timeout: one that a server never answers would hang for ever."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
            return super().send(request, **{**options, "timeout": options.get("timeout") or TIMEOUTS})

    http = client._http_client
    http._init_session()
    for scheme in ("http://", "https://"):
        http._session.mount(scheme, Adapter())
    return client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the package's own words, which go to stdout, out of ours."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turns what the package and requests raise into KaggleError, without addresses or secrets."""
    requests = requests_library()
    try:
        yield
    except Passing as error:  # the storage does not take a signed address any more: a new listing has new ones
        raise KaggleError(f"cannot {doing}: {error}; do it again") from None
    except requests.HTTPError as error:
        raise _answer(doing, error) from None
    except requests.RequestException as error:
        clock = ", is this machine's clock right?" if isinstance(error, requests.exceptions.SSLError) else ""
        line = f"cannot {doing}: Kaggle cannot be reached or broke off ({type(error).__name__}{clock})"
        raise KaggleError(line, passing=True) from None
    except ValueError as error:  # how the package says what it found wrong
        raise KaggleError(f"cannot {doing}: {scrub(str(error))}") from None


def _answer(doing: str, error: Any) -> KaggleError:
    response = error.response
    status = response.status_code if response is not None else 0
    words = scrub(str(error))
    advice = {
        401: "Kaggle does not accept the credentials: make new ones at kaggle.com/settings",
        403: "it does not exist, or your account may not see or change it",
        404: "it does not exist",
        409: "something with this name exists or is being saved at this moment: wait a minute and try again; if it "
        "stays so, another page or program changes it",
    }.get(status, "")
    line = f"cannot {doing}: Kaggle answered {status} ({words})" + (f": {advice}" if advice else "")
    wait = asked_wait(response) if status in PASSING else 0.0
    return KaggleError(line, status=status, wait=wait, passing=status in PASSING)
