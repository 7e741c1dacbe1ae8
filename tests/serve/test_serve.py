"""The page answers about images of this machine's browser, and about nothing else."""

import http.client
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.data.pictures import Unusable
from fasttrain.errors import EnvironmentProblem
from fasttrain.serve import server
from fasttrain.serve.answer import answer


@pytest.fixture(scope="module")
def classifier(trained):
    return fasttrain.load(trained, device="cpu")


@pytest.fixture(scope="module")
def page(classifier):
    with server.bound(classifier, about={"name": "</script>pictures"}, port=0) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        yield page
        page.shutdown()


def png(height=40, width=60) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ask(page, body=b"", *, path="/predict", method="POST", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", page.server_address[1], timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_an_uploaded_image_gets_the_answer_that_predict_gives(page, classifier):
    response, content = ask(page, png())
    assert response.status == 200
    found = json.loads(content)
    (expected,) = classifier.predict(png(), top=5, batch_size=1)
    assert [each["name"] for each in found["classes"]] == [name for name, _ in expected.top]
    for each, (_, probability) in zip(found["classes"], expected.top, strict=True):
        assert each["probability"] == pytest.approx(probability, abs=1e-6)
    assert [each["class"] for each in found["maps"]] == [name for name, _ in expected.top[:2]]
    assert found["image"].startswith("data:image/png;base64,")
    for each in found["maps"]:
        assert all(layer["image"].startswith("data:image/png") for layer in each["layers"])


@pytest.mark.parametrize("body", [b"", b"no image", png()[:-200]], ids=["empty", "text", "cut"])
def test_what_is_no_image_is_refused_with_a_sentence(page, body):
    response, content = ask(page, body)
    assert response.status == 415
    assert json.loads(content)["error"].startswith("This file cannot be used: ")


def test_a_bomb_is_refused_before_it_is_decoded(classifier):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    with pytest.raises(Unusable, match="100 megapixels"):
        answer(classifier, bomb.getvalue())


def test_a_file_that_is_too_large_is_refused_unread(page):
    response, content = ask(page, headers={"Content-Length": str(server.MOST_BYTES + 1)})
    assert response.status == 413
    assert json.loads(content)["error"] == "The file is larger than 32 MB."


def test_a_sender_that_pauses_is_not_waited_for(page, monkeypatch):
    monkeypatch.setattr(server.Request, "timeout", 0.2)
    response, content = ask(page, b"abc", headers={"Content-Length": "9"})
    assert response.status == 408
    assert json.loads(content)["error"] == "The file did not arrive in time."


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_page_of_another_site_gets_nothing(page, method, headers):
    response, content = ask(page, png(), path="/", method=method, headers=headers)
    assert response.status == 403
    assert b"airplane" not in content


def test_the_page_names_no_path_and_its_facts_are_data(page, trained):
    response, content = ask(page, path="/", method="GET")
    assert response.status == 200
    assert "script-src" in response.headers["Content-Security-Policy"]
    assert b"</script>pictures" not in content
    assert b"\\u003c/script>pictures" in content
    for each in (content, *(ask(page, body)[1] for body in (png(), b"text"))):
        assert str(trained).encode() not in each
        assert trained.name.encode() not in each.replace(b" trained on ", b"")


@pytest.mark.parametrize("path", ["/../recipe.json", "/predict", "/favicon.ico"])
def test_there_is_one_page(page, path):
    response, content = ask(page, path=path, method="GET")
    assert response.status == 404
    assert json.loads(content)["error"] == "There is nothing at this address."


def test_it_listens_to_this_machine_only_and_a_taken_port_is_one_line(page, classifier):
    host, port = page.server_address
    assert host == "127.0.0.1"
    with pytest.raises(EnvironmentProblem, match=rf"--port \({port}\)"):
        server.bound(classifier, about=None, port=port)


def test_a_run_without_a_checkpoint_is_exit_5(tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path)]) == 5
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("port", ["-1", "x", "65536"])
def test_a_port_that_is_none_is_exit_2(tmp_path, port, capsys):
    assert cli.main(["serve", str(tmp_path), "--port", port]) == 2
    assert "--port" in capsys.readouterr().err
