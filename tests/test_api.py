"""data/api.py: an OpenAI-compatible server as the teacher, played by a server of the test's own."""

import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from conftest import ROOT
from data import api as chat
from data.splits import DataError, Example, read_pseudolabels
from test_teacher import PENN, TREE, labels, make_data
from teacher import APITeacher, Label, label_with_cache, make_teacher, read_answer

KEY = "sk-test-0123456789"


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers as `script` says: a list of (status, body) for the first requests, then what `answer(question)` gives."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen, self.lock = [], [], threading.Lock()
        self.answer = lambda asked: f"( {asked} )"
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with self.server.lock:
            self.server.seen.append((self.path, dict(self.headers), None))
        self.send_error(404)

    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.path, dict(self.headers), payload))
            status, body = self.server.script.pop(0) if self.server.script else (200, None)
        headers = {}
        if body is None:
            asked = payload["messages"][-1]["content"].rsplit("Sentence: ", 1)[1].split("\n")[0]
            try:
                body = json.dumps({"choices": [{"message": {"role": "assistant", "content": self.server.answer(asked)}}]})
            except PermissionError as refusal:
                status, body = int(str(refusal)), ""
        if isinstance(body, dict):
            body, headers = "", body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        with suppress(ConnectionError):             # of who has not waited
            self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def naps(monkeypatch):
    """Nobody waits before asking again; how long they would have."""
    found = []

    class Impatient(threading.Event):
        def wait(self, timeout=None):
            found.append(timeout)
            return self.is_set()
    monkeypatch.setattr(chat, "Event", Impatient)
    return found


def api(server, **more):
    return APITeacher("some-model", TREE, [Example("The cat sat", PENN)], server.url, **more)


def test_api_gets_the_prompt_and_the_question_and_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert labels(api(server), ["A dog ran"]) == [Label("A dog ran", "( A dog ran )")]
    (path, headers, payload), = server.seen
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert payload == {"model": "some-model", "temperature": 0, "messages": [{"role": "user", "content":
                       "Bracket each sentence.\n\nSentence: The cat sat\nParse: ( ( The cat ) sat )\n\nSentence: A dog ran\nParse:"}]}


def test_api_without_a_key_sends_none(server):
    labels(api(server), ["A dog ran"])
    assert "Authorization" not in server.seen[0][1]


def test_api_answers_are_matched_to_their_inputs(server, tmp_path):
    inputs = [f"word {i} end" for i in range(30)]
    server.answer = lambda asked: "( {} ( {} {} ) )".format(*asked.split(" "))
    found = label_with_cache(api(server), inputs, tmp_path / "cache.jsonl", quiet=True)
    assert [x.output for x in found] == [f"( word ( {i} end ) )" for i in range(30)]
    assert len(server.seen) == 30
    label_with_cache(api(server), inputs, tmp_path / "cache.jsonl", quiet=True)
    assert len(server.seen) == 30


def test_api_base_url_of_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    labels(APITeacher("m", TREE, []), ["a b"])
    assert server.seen[0][0] == "/v1/chat/completions"


@pytest.mark.parametrize("trouble", [(500, "oops"), (429, "slow down"), (503, ""), (408, ""), (200, "not JSON"), (200, "[]"), (200, "{}"),
                                     (200, '{"choices": []}'), (200, '{"choices": [{"message": {"content": 7}}]}'), (200, "[" * 100_000),
                                     (200, {"Content-Length": "500"})],
                         ids=["500", "429", "503", "408", "no JSON", "list", "no choices", "empty choices", "number", "deep", "cut off"])
def test_api_is_asked_again_after_trouble_that_may_pass(server, naps, trouble):
    server.script = [trouble, trouble]
    made = api(server)
    assert labels(made, ["A dog ran"]) == [Label("A dog ran", "( A dog ran )")]
    assert len(server.seen) == 3 and len(naps) == 2 and min(naps) > 0


@pytest.mark.parametrize("at", ["word 1", "word 4"])
def test_api_gives_up_in_one_line_and_keeps_what_it_has(at, server, naps, tmp_path):
    inputs = [f"word {i}" for i in range(6)]
    cache = tmp_path / "cache.jsonl"
    broken = api(server, at_once=1, tries=3)
    real_answer = server.answer

    def answer(asked):
        if asked == at:
            server.script = [(500, "")] * 10
        return real_answer(asked)
    server.answer = answer
    with pytest.raises(DataError, match="500") as error:
        label_with_cache(broken, inputs, cache, quiet=True)
    assert "\n" not in str(error.value)
    kept = {x.input for x in read_pseudolabels(cache)}
    assert kept and kept < set(inputs)
    server.script, server.answer, before = [], real_answer, len(server.seen)
    found = label_with_cache(api(server), inputs, cache, quiet=True)
    assert [x.input for x in found] == inputs and len(server.seen) - before == len(set(inputs) - kept)


def test_reason_that_a_server_gives_is_said(server, monkeypatch):
    for key in ("", KEY):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        server.script = [(404, json.dumps({"error": {"message": "no model\nsome-model here"}}))]
        with pytest.raises(DataError, match=r"HTTP 404 Not Found \(no model some-model here\) \(model some-model\)"):
            labels(api(server), ["A dog ran"])
    for said in (f"Incorrect key {KEY}", f"Incorrect key sk-…{KEY[-4:]}", 7, None):
        server.script = [(404, json.dumps({"error": {"message": said}}))]
        with pytest.raises(DataError, match=r"HTTP 404 Not Found \(model some-model\)"):
            labels(api(server), ["A dog ran"])


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_api_refusal_is_said_at_once_in_one_line(server, naps, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script = [(status, json.dumps({"error": {"message": f"Incorrect key {KEY}"}}))] * 9
    with pytest.raises(DataError, match=str(status)) as error:
        labels(api(server), ["A dog ran"])
    assert "\n" not in str(error.value) and KEY not in str(error.value) and "some-model" in str(error.value)
    assert len(server.seen) == 1 + (status == 400) and naps == []          # a 400 may be this input's fault, so another is tried


def test_api_answers_stay_as_they_were_given_and_are_read_by_the_task(server):
    answers = {"a b": "I cannot do that.", "c d": "", "e f": None, "g h": "( g h", "i j": "( i k )"}
    server.answer = {**answers, "The cat sat": "yes"}.__getitem__           # that one is asked where an answer has no text
    found = labels(api(server), list(answers))
    assert [x.output for x in found] == ["I cannot do that.", "", "", "( g h", "( i k )"]
    assert [read_answer(TREE, x) for x in found] == [None, None, None, Label("g h", "( g h )"), None]


def test_key_is_neither_shown_nor_written(server, naps, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = api(server, tries=2)
    label_with_cache(made, ["A dog ran"], tmp_path / "labels.jsonl")
    errors = []
    for trouble in ((500, KEY), (200, KEY), (403, KEY)):
        server.script = [trouble] * 9
        with pytest.raises(DataError) as error:
            labels(made, ["A cat ran"])
        errors.append(str(error.value))
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")                # no header can hold a line break
    with pytest.raises(DataError) as error:
        labels(made, ["A cat ran"])
    shown = "".join(capsys.readouterr()) + "".join(errors) + str(error.value) + made.name + made.key
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert "A dog ran" in written.decode() and KEY not in shown and KEY not in written.decode()


def test_key_in_a_servers_reason_is_not_shown(server, naps, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(Handler, "send_response",
                        lambda self, status: self.send_response_only(status, f"bad {self.headers['Authorization']}"))
    server.script = [(401, "")]
    with pytest.raises(DataError, match="HTTP 401 Unauthorized") as error:
        labels(api(server), ["A dog ran"])
    assert KEY not in str(error.value) and "OPENAI_API_KEY" not in str(error.value)


@pytest.mark.parametrize("part", [KEY[:4], KEY[-4:], KEY[4:12]])
def test_reason_that_shows_a_part_of_the_key_is_not_said(part, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script = [(403, json.dumps({"error": {"message": f"the key ..{part}.. may not do that"}}))]
    with pytest.raises(DataError, match="HTTP 403") as error:
        labels(api(server), ["A dog ran"])
    assert "may not do that" not in str(error.value)


def test_an_answer_without_end_is_not_read_to_its_end(server, naps, monkeypatch):
    monkeypatch.setattr(chat, "MOST_BYTES", 100)
    server.script = [(200, '{"choices": [{"message": {"content": "' + "x" * 200 + '"}}]}')] * 9
    with pytest.raises(DataError, match="expected a chat completion"):
        labels(api(server), ["A dog ran"])


def test_key_that_a_server_repeats_is_not_kept(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.answer = lambda asked: f"( {asked} {KEY} )"
    assert labels(api(server), ["A dog ran"]) == [Label("A dog ran", "( A dog ran [key] )")]
    monkeypatch.setenv("OPENAI_API_KEY", "dog")                     # a local server takes any: what was in the question is no secret
    server.answer = lambda asked: f"( {asked} )"
    assert labels(api(server), ["A dog ran"]) == [Label("A dog ran", "( A dog ran )")]


def test_what_no_request_could_carry_is_refused_before_any(server, monkeypatch):
    for url in ("http://a b/v1", "http://localhost:abc", "http://", "localhost:8000", "http://my..server/v1", "http://localhost/v1\n"):
        with pytest.raises(DataError, match="(?s)^--base-url .*: expected http"):
            APITeacher("some-model", TREE, [], url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    with pytest.raises(DataError, match="^OPENAI_API_KEY: expected printable ASCII") as error:
        api(server)
    assert KEY not in str(error.value)


def test_answer_that_is_no_completion_is_said_in_words(server, naps):
    bodies = ["<html>", '{"choices": [{"message": null}]}', '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}', "{}"]
    server.script = [(200, body) for body in bodies]
    with pytest.raises(DataError, match="expected a chat completion in JSON, found something else"):
        labels(api(server), ["A dog ran"])


def test_server_whose_answers_have_no_text_is_said_and_nothing_is_kept_of_that(server, tmp_path):
    """As of a model whose text goes elsewhere, into what it thinks."""
    server.answer = lambda asked: None
    with pytest.raises(DataError, match="expected text in its answer, found none"):
        label_with_cache(api(server), ["A dog ran", "a b"], tmp_path / "cache.jsonl", quiet=True)
    assert (tmp_path / "cache.jsonl").read_text() == ""


def test_key_that_is_any_word_changes_no_answer(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")                    # what local servers are given
    server.answer = lambda asked: "none of them"
    assert [x.output for x in labels(api(server), ["A dog ran"])] == ["none of them"]


def test_missing_key_is_said(server, naps):
    server.script = [(401, "")]
    with pytest.raises(DataError, match="HTTP 401 Unauthorized; OPENAI_API_KEY is not set"):
        labels(api(server), ["A dog ran"])


@pytest.mark.parametrize("url", [f"http://user:{KEY}@127.0.0.1:1/v1", f"user:{KEY}@127.0.0.1/v1", f"https://127.0.0.1/v1?key={KEY}",
                                 f"http://127.0.0.1:1/v1#{KEY}"])
@pytest.mark.parametrize("given", ["--base-url", "OPENAI_BASE_URL"])
def test_key_in_the_address_is_refused_and_not_shown(url, given, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(DataError, match="--base-url: expected") as error:
        make_teacher("openai:m", TREE, make_data(tmp_path / "data"), base_url=url if given == "--base-url" else None)
    assert KEY not in str(error.value) and "\n" not in str(error.value)


def test_half_a_character_in_an_answer_is_replaced(server, tmp_path):
    """Python's JSON reads "\\ud83d" as a lone surrogate, which no file takes."""
    server.script = [(200, '{"choices": [{"message": {"content": "( A \\ud83d ran )"}}]}')]
    assert label_with_cache(api(server), ["A dog ran"], tmp_path / "cache.jsonl", quiet=True) == [Label("A dog ran", "( A ? ran )")]
    assert [x.output for x in read_pseudolabels(tmp_path / "cache.jsonl")] == ["( A ? ran )"]


@pytest.mark.parametrize("status", [400, 422])
def test_input_that_an_api_refuses_has_an_empty_answer(server, status):
    """A content filter, for example. What cannot be read then becomes the fallback, and is counted."""
    inputs = [f"word {i}" for i in range(12)]

    def answer(asked):
        if asked in ("word 1", "word 7"):
            raise PermissionError(status)
        return f"( {asked} )"
    server.answer = answer
    found = labels(api(server, at_once=2), inputs)
    assert [i for i, x in enumerate(found) if x.output == ""] == [1, 7] and len(server.seen) == 12
    assert read_answer(TREE, found[7]) is None and found[8].output == "( word 8 )"


def test_api_that_refuses_all_is_said_before_all_are_asked(server):
    server.script = [(400, "no such model")] * 1000
    with pytest.raises(DataError, match="HTTP 400 Bad Request .model some-model."):
        labels(api(server, at_once=4), [f"word {i}" for i in range(500)])
    assert len(server.seen) < 200


def test_refused_inputs_are_kept_at_once_and_do_not_stop_who_goes_on(server, tmp_path, monkeypatch):
    """The run is interrupted when all but two inputs have their answers, and those two are refused."""
    monkeypatch.chdir(tmp_path)
    inputs = [f"word {i}" for i in range(6)]

    def answer(asked):
        if asked in ("word 1", "word 4", "word 5"):
            raise PermissionError(400)
        return f"( {asked} )"
    server.answer = answer
    made = api(server, at_once=2)
    labelling = made.label(inputs)
    assert {next(labelling)[0] for _ in range(4)} >= {0, 1, 2}              # input 1 is not put off until the end
    labelling.close()
    label_with_cache(made, inputs[:4], tmp_path / "cache.jsonl", quiet=True)
    found = label_with_cache(made, inputs, tmp_path / "cache.jsonl", quiet=True)
    assert [x.output for x in found] == ["( word 0 )", "", "( word 2 )", "( word 3 )", "", ""]


def test_server_that_comes_to_refuse_everything_is_said_and_nothing_is_kept_of_that(server, tmp_path):
    inputs = [f"word {i}" for i in range(40)]

    def answer(asked):
        if len(server.seen) > 5:
            raise PermissionError(400)
        return f"( {asked} )"
    server.answer = answer
    for _ in range(2):                                                      # with labels of before, too
        with pytest.raises(DataError, match="HTTP 400"):
            label_with_cache(api(server, at_once=3), inputs, tmp_path / "cache.jsonl", quiet=True)
    assert {x.output for x in read_pseudolabels(tmp_path / "cache.jsonl")} <= {f"( {x} )" for x in inputs} and len(server.seen) < 40


def test_server_says_how_long_to_wait(server, naps, monkeypatch):
    def end_headers(self):
        self.send_header("Retry-After", "50")
        http.server.BaseHTTPRequestHandler.end_headers(self)
    monkeypatch.setattr(Handler, "end_headers", end_headers)
    server.script = [(429, "slow down")]
    labels(api(server), ["A dog ran"])
    assert naps == [50]


def test_who_stops_an_api_does_not_wait_until_it_would_ask_again(server, monkeypatch):
    class Patient(threading.Event):
        def wait(self, timeout=None):
            asked_in_vain.set()
            return super().wait(60)
    asked_in_vain = threading.Event()
    monkeypatch.setattr(chat, "Event", Patient)

    def answer(asked):
        if asked == "c d":
            raise PermissionError(500)
        return "( a b )"
    server.answer = answer
    labelling = api(server, at_once=1).label(["a b", "c d"])
    next(labelling)
    assert asked_in_vain.wait(60)
    labelling.close()
    assert len(server.seen) == 2


def test_key_does_not_follow_a_redirection_to_another_server(server, naps, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.script = [(302, {"Location": f"{other.url}/chat/completions"})] * 9
        with pytest.raises(DataError):
            labels(api(server, tries=2), ["A dog ran"])
        other.shutdown()
        thread.join()
    assert KEY in str(server.seen) and KEY not in str(other.seen)


def test_unreachable_server_is_one_line(naps):
    with Server() as gone:
        url = gone.url
    with pytest.raises(DataError, match="refused") as error:
        labels(APITeacher("m", TREE, [], url, tries=2), ["a b"])
    assert "\n" not in str(error.value) and len(naps) == 1


def test_interrupted_while_a_server_thinks_it_ends_and_keeps_what_it_has(server, tmp_path):
    """The server answers once, and then not before the test is over."""
    data, slow, over = make_data(tmp_path / "data"), threading.Event(), threading.Event()

    def answer(asked):
        if len(server.seen) > 1:
            slow.set()
            over.wait(60)
        return f"( {asked} )"
    server.answer = answer
    command = [sys.executable, str(ROOT / "teacher.py"), "--data", "data", "--teacher", "openai:m", "--base-url", server.url,
               "--out", "out.jsonl"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               env=dict(os.environ, OPENAI_API_KEY=""),            # (a shell's background jobs ignore SIGINT)
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        assert slow.wait(120)
        while not (caches := list((tmp_path / "runs" / "teacher").glob("*.jsonl"))) or not caches[0].read_text().endswith("\n"):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=30)[1]
        assert running.returncode == 130 and "interrupted" in said and "Traceback" not in said
    finally:
        over.set()
        running.kill()
    assert len(list(read_pseudolabels(caches[0]))) == 1 and len(data.unlabeled) > 1
