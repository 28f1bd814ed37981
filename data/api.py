"""A chat model behind an OpenAI-compatible server, asked several questions at a time."""
import http.client
import json
import os
import queue
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from threading import Event, Thread

from data.splits import DataError

MOST_BYTES = 2 ** 24        # of an answer; one that is longer is no chat completion


class Refused(DataError):
    """The server does not take this one request, or has no text for it: a content filter, or a name or an option that it does not know."""


class ChatServer:
    """`model` on the server at `base_url`, of which `at_once` questions are asked at a time, each up to `tries` times. The key comes from
    OPENAI_API_KEY and goes nowhere but into the requests. Raises DataError for an address or a key that no request could carry."""

    def __init__(self, model, base_url=None, at_once=8, tries=5):
        self.model, self.at_once, self.tries = model, at_once, tries
        self.url = (base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1").rstrip("/")
        check_address(self.url)
        try:
            parts = urllib.parse.urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.hostname.encode("idna") and parts.port != 0
            sound = sound and self.url.isascii() and self.url.isprintable() and " " not in self.url
        except ValueError:                                          # its port is no number, or its host no name
            sound = False
        if not sound:
            raise DataError(f"--base-url {self.url}: expected http://… or https://…")
        if not (key := os.environ.get("OPENAI_API_KEY", "")).isascii() or not key.isprintable():
            raise DataError("OPENAI_API_KEY: expected printable ASCII characters alone")                # it is not shown

    def ask_all(self, inputs, question, control):
        """Yields (index, answer) as the answers to question(input) come. An input that the server refuses has an empty answer, but only
        once the server has answered a later one: so the refusal was about that input. Where it refuses as many in a row as are asked at
        once, and at the end, it is asked question(control), which it ought to answer. Raises DataError where it refuses that, too, or
        fails, once the pending answers have been yielded."""
        waiting, answered, stopped = queue.SimpleQueue(), queue.SimpleQueue(), Event()
        for i in range(len(inputs)):
            waiting.put(i)

        def work():
            try:
                while not stopped.is_set():
                    i, began = waiting.get_nowait(), time.monotonic()
                    try:
                        answered.put((i, self.ask(question(inputs[i]), stopped), began))
                    except Exception as error:
                        answered.put((i, error, time.monotonic()))
            except queue.Empty:
                pass
            finally:
                answered.put(None)                                  # no more from this one

        workers = min(self.at_once, len(inputs))
        failure, refused, told, working = None, [], 0, workers          # refused: (index, when) of what nobody has been told yet
        for _ in range(workers):
            Thread(target=work, daemon=True).start()      # who interrupts does not wait for answers that are on their way
        try:
            while working:
                found, asked = answered.get(), None                 # asked: when, what the server has just answered
                if found is None:
                    working -= 1
                elif isinstance(found[1], Refused):
                    refused.append((found[0], found[2]))
                elif isinstance(found[1], Exception):
                    failure = failure or found[1]
                    stopped.set()                                   # nothing new is asked
                else:
                    asked = found[2]
                    yield found[:2]
                if refused and not (asked or failure) and (len(refused) >= workers or not working):
                    began = time.monotonic()
                    try:
                        self.ask(question(control), stopped)
                        asked = began
                    except DataError as error:                      # so it is not these questions that it does not take
                        failure = error
                        stopped.set()
                while asked and refused and refused[0][1] <= asked:
                    told += 1
                    yield refused.pop(0)[0], ""
        finally:
            stopped.set()
            if told:
                print(f"{self.url}: {told:,} inputs are refused; their answers are empty", file=sys.stderr)
        if failure:
            raise failure

    def ask(self, question, stopped):
        """The answer to one question (strings). After trouble that may pass it asks again, later each time, until `stopped` is set."""
        body = json.dumps({"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": question}]})
        key, kind = os.environ.get("OPENAI_API_KEY"), DataError
        for attempt in range(self.tries):
            wait = min(30, 2 ** attempt * (0.5 + random.random()))          # seconds
            try:
                request = urllib.request.Request(f"{self.url}/chat/completions", body.encode(), {"Content-Type": "application/json"})
                if key:                                             # "unredirected": it must not follow to another server
                    request.add_unredirected_header("Authorization", f"Bearer {key}")
                with urllib.request.urlopen(request, timeout=120) as answer:
                    content = json.loads(answer.read(MOST_BYTES))["choices"][0]["message"].get("content")
                if content is None:                                 # a filter, or a model whose text goes elsewhere
                    problem, kind = "expected text in its answer, found none", Refused
                    break
                if isinstance(content, str):
                    content = content.encode("utf-8", "replace").decode()               # JSON may hold half of a character
                    # What a server repeats is kept in files. (Of a local one the key may be a word, `none`, and no secret.)
                    told = key and len(key) >= 6 and key not in question
                    return content.replace(key, "[key]") if told else content
                problem = "expected text in its answer, found something else"
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {http.client.responses.get(error.code, '')}{reason(error, key)}"
                problem += "; OPENAI_API_KEY is not set" if error.code == 401 and not key else ""
                kind = Refused if error.code in (400, 422) else DataError
                if error.code not in (408, 409, 429) and error.code < 500:
                    break
                with suppress(ValueError):                                                      # such as a limit of requests a minute
                    wait = max(wait, min(120, float(error.headers.get("Retry-After", ""))))
            except (OSError, http.client.HTTPException) as error:
                problem = type(error).__name__ if not isinstance(error, urllib.error.URLError) else str(error.reason)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                problem = "expected a chat completion in JSON, found something else"
            if attempt + 1 < self.tries and stopped.wait(wait):
                break
        raise kind(f"{self.url}: {problem} (model {self.model}); labels so far are kept, the same command goes on from there")


def reason(error, key):
    """What a server says, in OpenAI's form, of a request that it does not take; nothing where it may show a part of the key."""
    if error.code not in (400, 403, 404, 422, 429):
        return ""
    try:
        said = json.loads(error.read(100_000))["error"]["message"]
        shown = key and any(part in said for part in (key[:4], key[-4:], *(key[i:i + 8] for i in range(len(key) - 7))))
        return "" if shown else f" ({' '.join(said.split())[:200]})"
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def check_address(url):
    """DataError for an address that may hold a secret, which would end up in files and errors."""
    if set("@?#").intersection(url):
        raise DataError("--base-url: expected an address alone, found a user name or a query; a key goes into OPENAI_API_KEY")
