"""A receiver of results on a port of its own."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hub_environment import free_port


class Receiver:
    """A webhook on a port of its own, which can end and begin again.

    Attributes:
        statuses: of the next answers; then 200.
        messages: confirmed ones; `tried` counts all.
    """

    def __init__(self):
        self.port, self.statuses, self.delay = free_port(), [], 0.0
        self.messages, self.headers, self.bodies, self.tried = [], [], [], 0
        self.url = f"http://127.0.0.1:{self.port}/results?line=1"

    def start(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body, status = self.rfile.read(int(self.headers["content-length"])), 200
                time.sleep(receiver.delay)
                receiver.tried += 1
                if receiver.statuses:
                    status = receiver.statuses.pop(0)
                if status == 200:
                    receiver.messages.append(json.loads(body))
                    receiver.bodies.append(body)
                    receiver.headers.append(self.headers)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()

    @property
    def pictures(self):
        return [message["picture"] for message in self.messages]
