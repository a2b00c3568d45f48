"""A stand-in for Kaggle on 127.0.0.1: the output of one kernel, listed page by page and downloaded by signed addresses.

Like the real one, a signed address answers GET only, and takes no credentials. `faults` says what goes wrong with the
next requests of a route, in order: an HTTP status; `cut` (half an answer); `expired` (the addresses given out so far
are no longer good). What this cannot show: Kaggle's own limits and outages.
"""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, quote, unquote, urlsplit

from local_server import LocalServer

USER, KEY = "me", "canary-key-4711"
LISTING = "/api/v1/kernels.KernelsApiService/ListKernelSessionOutput"


class StandIn(LocalServer):
    """The server, in threads of this process. `files`: the output, by path."""

    def __init__(self, files, *, kernel="me/train", most=7):
        self.files, self.kernel, self.most = dict(files), kernel, most
        self.faults = {"list": [], "file": []}
        self.requests = []
        self.signature = 1
        self.ignores_ranges = False
        super().__init__(_Handler, hub=self)

    def fault(self, route):
        return self.faults[route].pop(0) if self.faults[route] else None


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def log_message(self, *_):
        pass

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def _json(self, status, value, **headers):
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        self.hub.requests.append(("list", asked.get("pageToken") or ""))
        fault = self.hub.fault("list")
        login = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if isinstance(fault, int):
            self._json(fault, {"code": fault, "message": "told to fail"}, Retry_After=7)
        elif self.path != LISTING:
            self._json(404, {"code": 404, "message": f"no such method {self.path}"})
        elif self.headers.get("Authorization") != f"Basic {login}":
            self._json(401, {"code": 401, "message": "Unauthenticated"})
        elif f"{asked['userName']}/{asked['kernelSlug']}" != self.hub.kernel:
            self._json(403, {"code": 403, "message": "Permission 'kernels.get' was denied"})
        else:
            self._json(200, self._page(int(asked.get("pageToken") or 0), int(asked.get("pageSize") or 20)))

    def _page(self, first, size):
        names, last = sorted(self.hub.files), first + min(size, self.hub.most)
        address = f"{self.hub.url}/files/%s?signature={self.hub.signature}"
        files = [{"fileName": name, "url": address % quote(name)} for name in names[first:last]]
        return {"files": files, "log": "", "nextPageToken": str(last) if last < len(names) else ""}

    def do_GET(self):
        url = urlsplit(self.path)
        name = unquote(url.path.removeprefix("/files/"))
        self.hub.requests.append(("file", name, self.headers.get("Range", "")))
        fault = self.hub.fault("file")
        if fault == "expired":
            self.hub.signature += 1
        signed = parse_qs(url.query).get("signature") == [str(self.hub.signature)]
        if isinstance(fault, int):
            self._answer(fault, b"<html>an error page</html>")
        elif not signed or self.headers.get("Authorization"):
            self._answer(403, b"<Error>SignatureDoesNotMatch</Error>")
        elif name not in self.hub.files:
            self._answer(404, b"<Error>NoSuchKey</Error>")
        else:
            self._content(self.hub.files[name], fault)

    def _content(self, content, fault):
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        if self.hub.ignores_ranges or "Range" not in self.headers:
            status, part, headers = 200, content, {}
        elif int(first) >= len(content):
            self._answer(416, b"", Content_Range=f"bytes */{len(content)}")
            return
        else:
            part = content[int(first) : int(last) + 1 if last else None]
            status, headers = 206, {"Content_Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"}
        if fault == "cut":
            self._answer(status, part[: len(part) // 2], **headers, Content_Length=len(part))
            self.close_connection = True
        else:
            self._answer(status, part, **headers)


def use_client(monkeypatch, hub):
    """Have the `kaggle` package sign in as USER, and talk to the stand-in."""
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, hub.url)
