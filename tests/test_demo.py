"""The demo: its server by HTTP, and its page in Chromium."""

import http.client
import io
import json
import pathlib
import re
import socket
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageCms

pytest.importorskip("tensorflow")
pytest.importorskip("starlette", reason="Starlette is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="Uvicorn is not installed")

import tfcodec
from tests import browser
from tfcodec import (
    cli,
    codec,
    demo,
    images,
    metrics,
    photographs,
    registry,
    ssimulacra2,
)

if not registry.models():
    pytest.skip("no shipped model in this checkout", allow_module_level=True)

PHOTOGRAPH = pathlib.Path(__file__).parent / "photograph.png"
LIMITS = demo.Limits(upload=500_000, photographs=2)
OURS = {demo.HEADER: "1"}


@pytest.fixture(scope="module")
def port():
    """Serves the demo; gives its port."""
    with demo.listening(0) as sock:
        server = uvicorn.Server(
            uvicorn.Config(demo.application(LIMITS), log_level="warning")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        yield sock.getsockname()[1]
        server.should_exit = True
        thread.join()


def ask(port, method, path, body=None, headers=OURS):
    """Returns status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def get(port, path):
    status, headers, body = ask(port, "GET", path)
    assert status == 200, body
    assert headers["Cache-Control"] == "no-store"
    return body


def post(port, path, body):
    """Returns the JSON of an answer."""
    body = body if isinstance(body, bytes) else json.dumps(body)
    status, _, answer = ask(port, "POST", path, body)
    assert status == 200, answer
    return json.loads(answer)


def refused(port, path, body, status):
    """Returns the words of an answer that refuses."""
    body = body if isinstance(body, bytes) else json.dumps(body)
    found, headers, answer = ask(port, "POST", path, body)
    assert found == status, answer
    assert headers["Content-Type"] == "application/json"
    return json.loads(answer)["error"]


@pytest.fixture
def at(port):
    """Uploads the photograph; gives its path on the server."""
    found = post(port, "/photographs?name=cup.png", PHOTOGRAPH.read_bytes())
    assert (found["name"], found["width"], found["height"]) == ("cup.png", 600, 400)
    return f"/photographs/{found['id']}"


def png(port, path):
    return np.asarray(Image.open(io.BytesIO(get(port, path))))


def encoded(pixels, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def test_what_is_offered_is_what_the_codecs_make(port, at):
    pixels = images.read_rgb(PHOTOGRAPH)
    assert np.array_equal(png(port, f"{at}/original.png"), pixels)
    mine = post(port, f"{at}/tfcodec", {"quality": 40})
    data = get(port, f"{at}/{mine['file']}")
    assert data == tfcodec.compress(pixels, 40)
    assert (mine["file"], mine["quality"]) == ("tfcodec-40.tfc", 40)
    assert mine["bytes"] == len(data)
    assert mine["bpp"] == len(data) * 8 / 240_000
    decoded = png(port, f"{at}/{mine['png']}")
    assert np.array_equal(decoded, tfcodec.decompress(data))
    assert mine["psnr"] == metrics.psnr(pixels, decoded)
    assert mine["ssimulacra2"] == ssimulacra2.score(pixels, decoded)
    for name in demo.OTHERS:
        other = post(port, f"{at}/{name}", {"max_bytes": mine["bytes"]})
        assert 0.85 * mine["bytes"] < other["bytes"] <= mine["bytes"]
        file = get(port, f"{at}/{other['file']}")
        assert len(file) == other["bytes"]
        shown = png(port, f"{at}/{other['png']}")
        with Image.open(io.BytesIO(file)) as image:
            assert np.array_equal(image.convert("RGB"), shown)
        assert other["psnr"] == metrics.psnr(pixels, shown)


def test_a_size_in_bytes(port, at):
    found = post(port, f"{at}/tfcodec", {"max_bytes": 10_000})
    assert 9_900 < found["bytes"] <= 10_000
    assert found["file"] == f"tfcodec-{found['quality']:g}.tfc"
    # JPEG has none as small as this, and gives its smallest.
    assert post(port, f"{at}/jpeg", {"max_bytes": 100})["quality"] == 1


def test_bad_requests_are_answered_in_words(port, at):
    new = "/photographs?name=my.png"
    whole = PHOTOGRAPH.read_bytes()
    assert "my.png: not an image" in refused(port, new, b"no image", 400)
    assert "my.png: damaged" in refused(port, new, whole[:9999], 400)
    assert "not an image" in refused(port, new, b"", 400)
    assert "0.5 MB" in refused(port, new, bytes(500_001), 413)
    for body, words in (
        (b"{", "Expecting"),
        (b"[]", "no JSON object"),
        ({}, "wanted"),
        ({"quality": 5, "max_bytes": 5}, "wanted"),
        ({"quality": "high"}, "a number"),
        ({"quality": 101}, "0 to 100"),
        ({"quality": float("nan")}, "0 to 100"),
        ({"max_bytes": -1}, "above 0"),
        ({"max_bytes": 9}, "no quality gives 9 bytes; the nearest"),
    ):
        assert words in refused(port, f"{at}/tfcodec", body, 400)
    assert "no codec 'png'" in refused(port, f"{at}/png", {"max_bytes": 5}, 400)
    assert "no codec" in refused(port, f"{at}/jpeg", {"quality": 5}, 400)
    assert "no longer" in refused(port, "/photographs/x/jpeg", {"max_bytes": 5}, 404)
    assert ask(port, "GET", f"{at}/nothing.png")[0] == 404
    assert ask(port, "GET", f"{at}/..%2f..%2fetc%2fpasswd")[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OURS, "Host": "evil.example"},
        {**OURS, "Host": "127.0.0.1.evil.example:80"},
        {**OURS, "Host": ""},
        {**OURS, "Origin": "http://evil.example"},
        {**OURS, "Origin": "null"},
        {**OURS, "Origin": "http://127.0.0.1:1"},
    ],
)
def test_other_pages_are_refused(port, headers):
    path, body = "/photographs", PHOTOGRAPH.read_bytes()
    assert ask(port, "POST", path, body, headers)[0] == 403
    if headers:
        assert ask(port, "GET", "/", None, headers)[0] == 403
    # What a browser asks before it sends our header from another page.
    assert ask(port, "OPTIONS", path, None, headers)[0] == 403


def test_localhost_is_as_good_a_name(port):
    host = f"localhost:{port}"
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert ask(port, "GET", "/", None, headers)[0] == 200
    assert ask(port, "POST", "/photographs", b"", {**headers, **OURS})[0] == 400


def test_old_photographs_are_forgotten(port, at):
    assert get(port, f"{at}/original.png")
    for _ in range(LIMITS.photographs):
        post(port, "/photographs", encoded(np.zeros([8, 8, 3], np.uint8)))
    assert ask(port, "GET", f"{at}/original.png")[0] == 404


def test_one_at_a_time_and_none_for_those_who_left(port, at, monkeypatch):
    began, go, calls = threading.Event(), threading.Event(), []

    def slow(self, level, max_bytes, realism):
        calls.append(level)
        began.set()
        assert go.wait(20)
        return {}

    monkeypatch.setattr(demo.Photograph, "ours", slow)

    def start(level):
        arguments = port, f"{at}/tfcodec", {"quality": level}
        thread = threading.Thread(target=post, args=arguments)
        thread.start()
        return thread

    first = start(1)
    assert began.wait(20)
    with socket.create_connection(("127.0.0.1", port)) as leaving:
        body = b'{"quality": 2}'
        leaving.sendall(
            f"POST {at}/tfcodec HTTP/1.1\r\nHost: 127.0.0.1\r\n{demo.HEADER}: 1\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        time.sleep(0.3)
    last = start(3)
    assert get(port, "/")  # the server is not blocked meanwhile
    time.sleep(0.3)
    assert calls == [1]
    go.set()
    first.join()
    last.join()
    assert calls == [1, 3]


def test_large_images_are_reduced_and_colours_are_srgb():
    def shown(pixels, **options):
        picture = images.read(io.BytesIO(encoded(pixels, **options)), "it")
        return photographs.for_page(picture, demo.Limits(megapixels=0.01))

    pixels, notes = shown(np.full([200, 300, 3], 9, np.uint8))
    assert pixels.shape == (81, 122, 3)
    assert "reduced from 300x200 to 122x81" in notes[0]
    pixels, notes = shown(np.dstack([np.zeros([9, 9], np.uint8)] * 2))
    assert np.array_equal(pixels, np.full([9, 9, 3], 255))
    assert "alpha" in notes[0]
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels, notes = shown(np.full([9, 9, 3], 77, np.uint8), icc_profile=lab)
    assert np.abs(pixels.astype(int) - 77).max() <= 1
    assert "sRGB" in notes[0]
    pixels, notes = shown(np.full([9, 9], 77, np.uint8))
    assert (pixels.shape, notes) == ((9, 9, 3), [])


class Missing:
    """Among the finders in `sys.meta_path`: has it that a package is not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("package", ["uvicorn", "starlette"])
def test_what_to_install_is_said(package, monkeypatch, capsys):
    monkeypatch.delattr(tfcodec, "demo")
    for name in [*sys.modules]:
        if name == "tfcodec.demo" or name.split(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])
    assert cli.main(cli.parse(["tfcodec", "demo", "--no_browser"])) == 1
    words = f"this needs {package.title()}: pip install 'tfcodec[demo]'"
    assert words in capsys.readouterr().err


def test_what_cannot_be_served_is_said_at_once(port, capsys, tmp_path):
    (tmp_path / "text").write_text("no image")
    for argv, words in (
        (["--port", f"{port}"], f"127.0.0.1:{port}: Address already in use"),
        ([f"{tmp_path}/none"], "No such file"),
        ([f"{tmp_path}/text"], "text: not an image"),
    ):
        assert cli.main(cli.parse(["tfcodec", "demo", "--no_browser", *argv])) == 1
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--port", "99999"], "argument --port: a port is from 0 to 65535, not 99999"),
        (["--megapixels", "0"], "argument --megapixels: must be above 0, not 0"),
        (["--megapixels", "nan"], "argument --megapixels: must be above 0, not nan"),
    ],
)
def test_numbers_that_cannot_be_are_wrong_usage(capsys, argv, words):
    with pytest.raises(SystemExit) as ended:
        cli.parse(["tfcodec", "demo", "--no_browser", *argv])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_the_page_names_no_other_server(port):
    text = get(port, "/").decode()
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert "@@" not in text


@pytest.mark.skipif(not browser.path(), reason="Chromium is not installed")
def test_the_page_in_a_browser(port, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    small = tmp_path / "small.png"
    small.write_bytes(encoded(images.read_rgb(PHOTOGRAPH)[100:300, 100:340]))
    done = "document.querySelector('#status').textContent.startsWith('tfcodec took')"
    with browser.opened(f"http://127.0.0.1:{port}/") as page:
        page.resize(1000, 700)
        page.wait("document.readyState === 'complete'")
        page.choose("#one", text)
        page.wait("document.querySelector('#error').textContent.includes('not an im')")
        # Chromium notes every answer of 4xx on its console.
        assert [e for e in page.errors if "400" not in e] == []
        page.errors.clear()

        page.choose("#one", small)
        page.wait(f"{done} && document.querySelectorAll('#stage img').length == 2")
        sizes = page.run("[...'tfcodec jpeg webp avif'.split(' ')]"
                         ".map(name => figures[name].bytes)")  # fmt: skip
        assert max(sizes) == sizes[0]
        assert page.run("document.querySelector('#error').hidden")
        assert f"{sizes[0]:,} B" in page.run("document.querySelector('#tfc').innerText")

        page.run("document.querySelector('#quality').focus()")
        for _ in range(3):
            page.press("ArrowRight", 39)
        quality = codec.DEFAULT_QUALITY + 3
        page.wait(f"{done} && figures.tfcodec.quality === {quality}")
        assert page.run("figures.tfcodec.bytes") > sizes[0]
        kilobytes = page.run("+document.querySelector('#size').value")
        assert kilobytes == pytest.approx(
            page.run("figures.tfcodec.bytes / 1000"), abs=0.01
        )

        page.run("size = document.querySelector('#size'); size.value = 2;"
                 "size.dispatchEvent(new Event('change'))")  # fmt: skip
        page.wait(f"{done} && figures.tfcodec.bytes <= 2000")
        assert page.run("+document.querySelector('#quality').value") < quality

        page.run("document.querySelector('#row-avif').click()")
        page.wait("document.querySelector('.name.right').textContent.includes('AVIF')")
        box = page.run(
            "document.querySelector('.divider').getBoundingClientRect().toJSON()"
        )
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind, right in (("Pressed", 0), ("Moved", -100), ("Released", -100)):
            page.mouse(f"mouse{kind}", x + right, y)
        split = "+document.querySelector('.divider').getAttribute('aria-valuenow')"
        assert page.run(split) < 40
        assert page.run("document.documentElement.scrollWidth") == 1000
        page.resize(390, 844, 2, dark=True)
        assert page.run("document.documentElement.scrollWidth") == 390

        assert page.errors == []
        asked = [url for url in page.requests if not url.startswith("data:")]
        assert asked
        assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in asked)
