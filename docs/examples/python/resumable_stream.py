"""A stream that outlives its router: `for event in ResumableStream([...], "/v1/chat/completions", body): ...`

When the connection is lost, or a router says that it goes, the helper comes back by itself, to the next of its addresses,
with the request's id and the id of the last event that it gave out; the rest of the stream follows, and nothing is lost or
doubled. It gives up when nothing came for 120 s. Needs nothing but Python.

    python resumable_stream.py http://127.0.0.1:8000 http://127.0.0.1:8002 "Tell me a story"
"""
import http.client
import json
import sys
import time
import urllib.parse
import uuid

RETRIED = {408, 425, 429, 500, 502, 503, 504}


class StreamFailed(Exception):
    """The server refused the request, or it failed; what the server said is in the text."""


class ResumableStream:
    def __init__(self, urls, path, body, headers=None, give_up_s=120, read_timeout_s=30):
        self.urls = [urllib.parse.urlsplit(url) for url in urls]
        self.path = path
        self.body = json.dumps({**body, "stream": True})
        self.request_id = uuid.uuid4().hex  # nobody guesses it: whoever knows it can read the stream
        self.headers = {"Content-Type": "application/json", "Pagoda-Resumable": "1", "X-Request-Id": self.request_id,
                        **(headers or {})}
        self.give_up_s = give_up_s
        self.read_timeout_s = read_timeout_s
        self.queue_timeout_s = max(read_timeout_s, 90)  # until the first event: a request may wait in a queue for 60 s
        self.last_event_id = None
        self.reconnects = -1  # the first connection is none
        self.at = 0           # which of the addresses

    def __iter__(self):
        """The events, as parsed JSON, until [DONE]."""
        deadline = time.monotonic() + self.give_up_s
        pause = 0.02
        while True:
            self.reconnects += 1
            why = "the connection was closed"
            try:
                for event in self._one_connection():
                    if event is None:
                        return
                    yield event
                    deadline, pause = time.monotonic() + self.give_up_s, 0.02
            except (OSError, http.client.HTTPException) as error:
                why = repr(error)
            except _TryAgain as error:
                why = str(error)
                pause = max(pause, error.after_s)
            if time.monotonic() + pause > deadline:
                raise StreamFailed(f"gave up after {self.give_up_s} s without an event; last: {why}")
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
            self.at = (self.at + 1) % len(self.urls)

    def _one_connection(self):
        """Events of one connection; None at the stream's end. Ends, or raises OSError, when the connection is lost."""
        url = self.urls[self.at]
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname, url.port, timeout=self.read_timeout_s)
        try:
            connection.connect()
            socket = connection.sock
            if self.last_event_id is None:
                socket.settimeout(self.queue_timeout_s)
            headers = dict(self.headers)
            if self.last_event_id is not None:
                headers["Last-Event-ID"] = self.last_event_id
            connection.request("POST", self.path, self.body, headers)
            response = connection.getresponse()
            if response.status != 200:
                text = response.read().decode("utf-8", "replace")
                if response.status in RETRIED and response.getheader("x-should-retry") != "false":
                    raise _TryAgain(f"{response.status}: {text}", float(response.getheader("retry-after-ms") or 100) / 1000)
                raise StreamFailed(f"{response.status}: {text}")
            data, event_id = [], None
            while True:
                line = response.readline()
                if not line.endswith(b"\n"):
                    return  # cut, maybe in the middle of an event: that one comes again
                line = line.rstrip(b"\r\n").decode()
                if line.startswith("data: "):
                    data.append(line[6:])
                elif line.startswith("id: "):
                    event_id = line[4:]
                elif not line and data:
                    if data == ["[DONE]"]:
                        yield None
                        return
                    event = json.loads("\n".join(data))
                    if "error" in event:
                        raise StreamFailed(str(event["error"]))
                    self.last_event_id = event_id or self.last_event_id
                    socket.settimeout(self.read_timeout_s)
                    data, event_id = [], None
                    yield event
        finally:
            connection.close()


class _TryAgain(Exception):
    def __init__(self, text, after_s):
        super().__init__(text)
        self.after_s = min(after_s, 5.0)


def main():
    *urls, question = sys.argv[1:]
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 200}
    stream = ResumableStream(urls, "/v1/chat/completions", body)
    for event in stream:
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
    print(f"\n[{stream.reconnects} reconnects]")


if __name__ == "__main__":
    main()
