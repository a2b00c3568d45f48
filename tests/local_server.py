"""An HTTP server on 127.0.0.1, in threads of this process, for as long as a block lasts."""

import threading
from http.server import ThreadingHTTPServer


class LocalServer:
    """`bound` is what the handler's class gets as attributes: the way by which a request reaches the stand-in."""

    def __init__(self, handler, port=0, **bound):
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("BoundHandler", (handler,), bound))
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
