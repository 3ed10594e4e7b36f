# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A real HTTP server on 127.0.0.1 that speaks OpenAI's chat completions, well or badly, and remembers what it was asked.

It judges by a rule that tests can compute themselves ([`preference`]). A *script* `(question, number) -> behaviour`
decides how the n-th request for a question is answered; behaviours are the functions below that take a handler.

    python tests/judges/loopback.py --port 8000 --latency 0.1
"""

import argparse
import hashlib
import json
import math
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


KEY = "sk-loopback-secret-0123456789"
PAIR = re.compile(r"<response_a>\n(.*)\n</response_a>\n\n<response_b>\n(.*)\n</response_b>", re.DOTALL)
GROUP = re.compile(r'<response id="(\d+)">')
PROBE = ("2 + 2 is 4.", "2 + 2 is 5.")


def preference(first: str, second: str) -> float:
    """The server's P(A) for two responses in this order: some number in (.05, .95), with a position bias."""
    return 0.05 + 0.9 * hashlib.sha256(f"{first}|{second}".encode()).digest()[0] / 255


def fair(first: str, second: str) -> float:
    """What a judge must make of it."""
    return (preference(first, second) + 1 - preference(second, first)) / 2


@dataclass
class Asked:
    """A request that the server got."""

    question: tuple[str, str]
    body: dict[str, Any]
    authorization: str | None
    time: float
    answered: bool = False  # with a verdict


class Loopback:
    """The server. A context manager; `url` is what a judge takes as `base_url`."""

    def __init__(self, script=None, latency: float = 0.0, port: int = 0):
        self.script = script or (lambda question, number: ok)
        self.latency = latency
        self.log: list[Asked] = []
        self.lock = threading.Lock()
        self.released = threading.Event()  # ends every hang
        self.under_way = self.most_under_way = 0

        class Handler(_Handler):
            server_of_tests = self

        class Server(ThreadingHTTPServer):
            request_queue_size = 512
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # the client went away, which some tests make it do

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def requests(self) -> list[Asked]:
        """What was asked, without the one question that finds out what the server can."""
        return [asked for asked in list(self.log) if asked.question != PROBE]

    @property
    def asked(self) -> Counter:
        """Requests for each question."""
        return Counter(asked.question for asked in self.requests)

    @property
    def answered(self) -> Counter:
        """Verdicts for each question: what had to be paid for."""
        return Counter(asked.question for asked in self.requests if asked.answered)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of_tests: Loopback

    def do_POST(self):
        server = self.server_of_tests
        self.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        match = PAIR.search(self.body["messages"][-1]["content"])
        self.question = match.groups() if match else ("", "")
        self.asked = Asked(self.question, self.body, self.headers.get("authorization"), time.monotonic())
        with server.lock:
            number = sum(asked.question == self.question for asked in server.log) if server.latency == 0 else 0
            server.log.append(self.asked)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        self.is_under_way = True
        if server.latency:
            time.sleep(server.latency)
        try:
            server.script(self.question, number)(self)
        finally:
            self.leave()

    def leave(self):
        """Counts the request as under way no more: before its reply, whose reader may send the next one at once."""
        with self.server_of_tests.lock:
            self.server_of_tests.under_way -= self.is_under_way
        self.is_under_way = False

    def send(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None, length: int | None = None
    ):
        self.leave()
        self.send_response(status)
        headers = {"content-type": "application/json", "content-length": str(length or len(content))} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self._headers_buffer.append(b"\r\n" + content)  # one packet
        self.flush_headers()

    def hang_up(self):
        self.close_connection = True

    def log_message(self, *arguments):
        pass


def reply(message: dict[str, Any], logprobs: Any = None, finish_reason: str = "stop"):
    """Behaviour: a chat completion with this message and these logprobs."""

    def behave(handler):
        choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish_reason}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        completion = {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny", "usage": usage}
        handler.send(json.dumps(completion | {"choices": [choice]}).encode())

    return behave


def tokens(**logprobs: float) -> dict[str, Any]:
    """The logprobs of one answer token, in OpenAI's shape."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
    best = max(top, key=lambda entry: entry["logprob"])
    return {"content": [best | {"top_logprobs": top}]}


def ok(handler):
    """Behaviour: the verdict, with logprobs or as JSON or as text, as the request asks; the same score for all."""
    if ids := GROUP.findall(handler.body["messages"][-1]["content"]):
        reply({"content": json.dumps({"scores": dict.fromkeys(ids, 5)})})(handler)
        return
    p = preference(*handler.question)
    label = "A" if p > 0.5 else "B"
    logprobs = None
    if handler.body.get("logprobs"):
        logprobs = tokens(A=math.log(0.8 * p), B=math.log(0.8 * (1 - p)), The=math.log(0.2))
    handler.asked.answered = True
    content = json.dumps({"better": label}) if "response_format" in handler.body else label
    reply({"content": content}, logprobs)(handler)


def says(text: str):
    """Behaviour: these words, whatever was asked."""
    return reply({"content": text})


def status(code: int, message: str = "no", error_code: str | None = None, **headers: str):
    """Behaviour: an error; `retry_after="2"` is a header."""

    def behave(handler):
        error = {"error": {"message": message, "type": "error", "code": error_code}}
        handler.send(json.dumps(error).encode(), code, {k.replace("_", "-"): v for k, v in headers.items()})

    return behave


def hang(handler):
    """Behaviour: no word until the server is shut down."""
    handler.server_of_tests.released.wait()
    handler.hang_up()


def close(handler):
    """Behaviour: the connection is closed without a reply."""
    handler.hang_up()


def malformed(handler):
    """Behaviour: JSON that stops in the middle, as if it were complete."""
    handler.send(b'{"choices": [{"message": {"content": "A"')


def page(handler):
    """Behaviour: some proxy's web page, with status 200."""
    handler.send(b"<html>Welcome</html>", headers={"content-type": "text/html"})


def truncated(handler):
    """Behaviour: half of a reply whose length was announced."""
    handler.send(b'{"choices": [{"message"', length=500)
    handler.hang_up()


def truncated_stream(handler):
    """Behaviour: a chunked reply that breaks off."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'10\r\n{"choices": [{"m\r\n')
    handler.hang_up()


def no_choices(handler):
    """Behaviour: a reply without a choice."""
    handler.send(b'{"id": "x", "choices": []}')


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    options = parser.parse_args()
    with Loopback(latency=options.latency, port=options.port) as loopback:
        print(loopback.url, flush=True)
        threading.Event().wait()
