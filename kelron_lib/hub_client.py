"""How Kelron talks to the Hugging Face Hub: bounded tries, a look before sending again, errors that say what to do.

The hub client retries by itself, sleeps as long as a server asks it to, and waits for an answer without limit, so no
deadline could hold. Requests of Kelron's are therefore sent once each, with time-outs, and tried again here; requests
of other libraries in the same process are left as they are. What an error says is stripped of secrets.
"""

from __future__ import annotations

import itertools
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar, cast

from kelron_lib import __version__
from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write

AGENT = "kelron"
"""What Kelron's requests call themselves, which is how they are told from those of other libraries."""
CONNECT_SECONDS = 20.0
ANSWER_SECONDS = 120.0
"""Longest silence of a server; a commit of many files takes it a while."""
TRANSIENT = (408, 409, 412, 429, 500, 502, 503, 504)
"""Answers after which another try may go well; 409 and 412: somebody else changed the repo meanwhile."""
SENT_ONCE = (408, 429, 500, 502, 503, 504)
"""Those after which the hub client would sleep and send again by itself."""
NO_SPACE = re.compile(r"quota|storage limit|storage space|out of (disk )?space|payment required", re.IGNORECASE)
ADDRESS = re.compile(r"\w+://\S+")
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{16,}"
    r"|(?<=bearer )\S+"
    r"|(?<=//)[^/@\s]+(?=@)"  # user:password@host
    r"|(?<=\?)[^\s'\"]+",  # the query of a signed address
    re.IGNORECASE,
)
TOKENS_PAGE = "https://huggingface.co/settings/tokens"

Result = TypeVar("Result")


class Sink(Protocol):
    """Where a download goes: a file, or anything that takes bytes and can start anew."""

    def write(self, data: bytes, /) -> int: ...

    def tell(self) -> int: ...

    def seek(self, start: int, /) -> Any: ...

    def truncate(self) -> Any: ...


@dataclass(frozen=True)
class Backoff:
    """How long a failing operation is tried."""

    attempts: int = 6
    """Tries in all."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled each time, and shortened by up to a half at random."""
    longest_wait: float = 60.0
    deadline: float = 600.0
    """Seconds after which no further try of an operation begins. A try that is under way is not cut off."""


class HubError(KelronError):
    """What the Hub, or the way to it, did."""

    def __init__(self, line: str, *, transient: bool = False, wait: float = 0.0, absent: str = "") -> None:
        super().__init__(line)
        self.transient = transient
        """Another try may go well."""
        self.wait = wait
        """Seconds that the server asks to wait."""
        self.absent = absent
        """`repo` or `file`, where that is not there; empty for every other error."""


class Hub:
    """The Hub as one user sees it. Creating it reaches nothing and imports nothing."""

    def __init__(
        self,
        *,
        token: str | None = None,
        endpoint: str | None = None,
        backoff: Backoff | None = None,
        say: Callable[[str], None] = print,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`token` and `endpoint`: the client's own (HF_TOKEN or a login, HF_ENDPOINT) where not given.

        `say` gets one line for every try that failed and is followed by another.
        """
        self._token, self._endpoint = token, endpoint
        self.backoff = backoff or Backoff()
        self.say, self.sleep, self.clock = say, sleep, clock
        self._account: dict[str, Any] | None = None

    @property
    def api(self) -> Any:
        """The hub client, ready for calls within `once` or `run`."""
        from huggingface_hub import HfApi

        send_once_with_timeouts()
        return HfApi(endpoint=self._endpoint, token=self.token, library_name=AGENT, library_version=__version__)

    @property
    def token(self) -> str | None:
        """The secret itself: for requests, never for messages."""
        from huggingface_hub import get_token

        return self._token or get_token()

    def account(self) -> dict[str, Any]:
        """Who the token belongs to: `name`, and `auth.accessToken.role`. Asked for once."""
        if self._account is None:
            if self.token is None:
                raise HubError(_login("no token was found"))
            self._account = self.ask("ask who is logged in", lambda: self.api.whoami())
        return self._account

    def once(self, call: Callable[[], Result]) -> Result:
        """One try. Raises HubError for whatever the hub client raises."""
        http = _http_library()
        try:
            return call()
        except (http.HTTPError, OSError, RuntimeError, ValueError) as error:
            # The hub client's errors hold the request with its headers: nothing of them is passed on.
            raise explain(error, self.token or "") from None

    def ask(self, doing: str, call: Callable[[], Result]) -> Result:
        """What `call` reads from the Hub, tried as in `run`."""
        return cast(Result, self.run(doing, call))

    def run(
        self, doing: str, call: Callable[[], Result], *, arrived: Callable[[], bool] | None = None
    ) -> Result | None:
        """Try until it goes well, and return what `call` does.

        `arrived` reads the Hub and tells whether the change that `call` makes is there. It is asked before every
        further try and after the last, since an answer may be lost after a change was made; if so, None is returned.
        Raises HubError when tries or time are used up, or another try would be pointless.
        """
        began = self.clock()
        for attempt in itertools.count(1):
            try:
                if attempt > 1 and arrived is not None and self.once(arrived):
                    return None
                return self.once(call)
            except HubError as error:
                failure = error
            if not failure.transient:
                raise HubError(f"cannot {doing}: {failure}", absent=failure.absent) from None
            wait = max(self._pause(attempt), failure.wait)
            left = self.backoff.deadline - (self.clock() - began)
            if attempt >= self.backoff.attempts or wait > left:
                break
            self.say(f"cannot {doing}: {failure}; trying again in {wait:.0f} s (try {attempt} failed)")
            self.sleep(wait)
        if arrived is not None:
            with suppress(HubError):
                if self.once(arrived):
                    return None
        asked = f"; it asks to wait {failure.wait:.0f} s" if failure.wait > left else ""
        raise HubError(f"cannot {doing}: {failure} (given up after {attempt} tries{asked})", transient=True)

    def _pause(self, attempt: int) -> float:
        longest = min(self.backoff.longest_wait, self.backoff.first_wait * 2 ** (attempt - 1))
        return longest * random.uniform(0.5, 1.0)

    def fetch(self, doing: str, url: str, sink: Sink, size: int | None = None) -> None:
        """Download into an empty `sink`; after a break it goes on where it stopped.

        `size`: bytes that it must be. Raises HubError, with `absent` for a file that is not there, and KelronError
        where the sink takes no more.
        """
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        def load() -> None:
            send_once_with_timeouts()
            headers = build_hf_headers(token=self.token, library_name=AGENT, library_version=__version__)
            headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={sink.tell()}-"} if sink.tell() else {})
            if size is not None and sink.tell() == size:
                return
            with get_session().stream("GET", url, headers=headers) as response:
                hf_raise_for_status(response)
                if response.status_code != 206 and sink.tell():
                    _restart(sink)
                for chunk in response.iter_bytes():
                    _write(sink, chunk)
            if size is not None and sink.tell() != size:
                got = sink.tell()
                _restart(sink)
                raise HubError(f"{got} bytes came instead of {size}", transient=True)

        self.run(doing, load)


def _write(sink: Any, chunk: bytes) -> None:
    try:
        sink.write(chunk)
    except OSError as error:
        where = getattr(sink, "name", "memory")
        raise cannot_write(f"write {where}", error) from error


def _restart(sink: Sink) -> None:
    sink.seek(0)
    sink.truncate()


def scrub(text: str, token: str = "") -> str:
    """A server's or a library's words in one short line without secrets."""
    if token:
        text = text.replace(token, "<secret>")
    return SECRETS.sub("<secret>", " ".join(text.split()))[:300]


def explain(error: Exception, token: str) -> HubError:
    """What went wrong, in a line that says what to do."""
    chain = list(_causes(error))
    said = next((str(e.server_message) for e in chain if getattr(e, "server_message", None)), str(error))
    text = scrub(said, token)
    names = {type(e).__name__ for e in chain}
    if "OfflineModeIsEnabled" in names:
        return HubError("HF_HUB_OFFLINE is set: unset it, or name a folder as the store")
    if "LocalTokenNotFoundError" in names:
        return HubError(_login("no token was found"))
    if "no space left on device" in text.lower():
        return HubError(f"the disk here is full ({text}): free space on it")
    response = next((e.response for e in chain if getattr(e, "response", None) is not None), None)
    words = ADDRESS.sub("", text)  # a repo may be called what it likes
    if NO_SPACE.search(words) and getattr(response, "status_code", 0) != 429:
        return HubError(f"the Hub has no space left for it ({text}): delete what you need not keep, or buy storage")
    if "BucketBatchError" in names:
        return HubError(f"only a part was done ({text})", transient=True)
    if response is not None:
        return _explain_answer(response, text)
    if "XetAuthenticationError" in names:
        return HubError(f"the Hub refuses the token for its storage: make one with write access at {TOKENS_PAGE}")
    if isinstance(error, ValueError) and type(error).__name__ != "JSONDecodeError":
        return HubError(f"the Hub client reports: {text}")
    return HubError(f"the Hub cannot be reached or broke off ({text}): check the connection", transient=True)


def _explain_answer(response: Any, text: str) -> HubError:
    status, headers = response.status_code, response.headers
    if status == 401:
        return HubError(_login(f"the Hub refused the token ({text})"))
    if status == 402 or status == 507:
        return HubError(f"the Hub has no space left for it ({text}): delete what you need not keep, or buy storage")
    if status == 403:
        return HubError(f"the token may not do this ({text}): make one with write access at {TOKENS_PAGE}")
    if status == 404:
        of_a_file = "file" if "/resolve/" in response.request.url.path else ""
        absent = {"RepoNotFound": "repo", "EntryNotFound": "file"}.get(headers.get("X-Error-Code", ""), of_a_file)
        return HubError(f"not found on the Hub ({text}): check the name, and that the token may see it", absent=absent)
    wait = _asked_wait(headers) if status in (429, 503) else 0.0
    return HubError(f"the Hub answered {status} ({text})", transient=status in TRANSIENT, wait=wait)


def _login(problem: str) -> str:
    return f"{problem}: run `hf auth login`, or set HF_TOKEN to a token with write access from {TOKENS_PAGE}"


def _asked_wait(headers: Any) -> float:
    """Seconds that Retry-After (seconds or a date) or the rate limit's header asks to wait; 0 where they do not."""
    if (value := headers.get("Retry-After")) is not None:
        with suppress(ValueError):
            return max(0.0, float(value))
        with suppress(ValueError, TypeError):
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    match = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return float(match[1]) if match else 0.0


def _causes(error: BaseException | None) -> Iterator[Any]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _http_library() -> Any:
    """httpx, or httpx2, whichever this version of the hub client is built on."""
    from huggingface_hub.utils import get_session

    return sys.modules[type(get_session()).__module__.partition(".")[0]]


def send_once_with_timeouts() -> None:
    """Have the hub client send Kelron's requests once and never wait for ever; all others go as before."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import get_session, hf_raise_for_status

    present = get_session()
    base, http, hooks = type(present), _http_library(), present.event_hooks
    if hasattr(base, "sends_once"):
        return

    def send(self: Any, request: Any, **options: Any) -> Any:
        if not request.headers.get("user-agent", "").startswith(f"{AGENT}/"):
            return base.send(self, request, **options)
        limits = http.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        request.extensions = {**request.extensions, "timeout": limits.as_dict()}
        try:
            response = base.send(self, request, **options)
        except http.TransportError as error:  # which the hub client would wait for and try again
            raise ConnectionError(f"{type(error).__name__} {error}") from error
        if response.status_code in SENT_ONCE:
            hf_raise_for_status(response)
        return response

    once = type("OnceClient", (base,), {"send": send, "sends_once": True, "__module__": base.__module__})
    set_client_factory(lambda: once(event_hooks=hooks, follow_redirects=True, timeout=present.timeout))


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep the hub client's bars out of the run's own output."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
