"""The codec in JavaScript: its own tests, what Python makes of the same, Chromium."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

import tfcodec
from tests import browser
from tfcodec import litert_files, registry, web_files

ROOT = pathlib.Path(__file__).parents[1]
WEB, GOLDEN = ROOT / "web", ROOT / "tests" / "golden"
ROWS = json.loads((GOLDEN / "golden.json").read_text())
OURS = [name for name, row in ROWS.items() if row["model"] == "model"]
DONE = "['done', 'failed'].includes(document.body.dataset.state)"

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and (WEB / "node_modules").is_dir()),
    reason="Node is not installed, or `npm install` was not run in web/",
)
needs_chromium = pytest.mark.skipif(
    not (browser.path() and (WEB / "node_modules").is_dir() and shutil.which("node")),
    reason="Chromium or Node is not installed, or `npm install` was not run in web/",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A directory of directories as a page has them: `model` and `shipped`."""
    folder = tmp_path_factory.mktemp("models")
    web_files.write(registry.Model.at(GOLDEN / "model"), folder / "model")
    for model in registry.models()[:1]:
        web_files.write(model, folder / "shipped", encode=False, realism=False)
    return folder


def of_page(directory):
    """The one model in a directory."""
    (found,) = (path.parent for path in directory.glob(f"*/{web_files.CARD}"))
    return found


def test_a_page_gets_the_files_that_litert_reads(models):
    directory = of_page(models / "model")
    card = json.loads((directory / web_files.CARD).read_text())
    model = registry.Model.at(GOLDEN / "model")
    assert directory.name == card["fingerprint"] == model.fingerprint.hex()
    source = litert_files.Files(model.litert, model.path)
    for name, about in card["files"].items():
        packed = (directory / about["path"]).read_bytes()
        assert hashlib.sha256(packed).hexdigest() == about["sha256"]
        whole = gzip.decompress(packed)
        assert (len(packed), len(whole)) == (about["size"], about["whole"])
        assert name == "coder" or whole == source.network(name)


def test_a_page_that_only_decodes_gets_no_more(tmp_path):
    web_files.main([str(GOLDEN / "model"), str(tmp_path), "--decode_only"])
    card = json.loads((of_page(tmp_path) / web_files.CARD).read_text())
    assert sorted(card["files"]) == ["coder", "synthesis"]
    listed = json.loads((tmp_path / web_files.LIST).read_text())
    assert listed == {"models": [card["fingerprint"]]}


def test_the_model_written_last_is_what_a_page_encodes_with(tmp_path):
    other = tmp_path / "aa" / web_files.CARD
    other.parent.mkdir()
    other.write_text("{}")
    made = web_files.write(registry.Model.at(GOLDEN / "model"), tmp_path)
    listed = json.loads((tmp_path / web_files.LIST).read_text())
    assert listed == {"models": [made.name, "aa"]}


def test_a_model_that_only_decodes_is_not_what_a_page_encodes_with(tmp_path):
    model = registry.Model.at(GOLDEN / "model")
    made = web_files.write(model, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(model.path, other)
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps({**card, "fingerprint": "00" * 32}))
    decoding = web_files.write(registry.Model.at(other), tmp_path, encode=False)
    listed = json.loads((tmp_path / web_files.LIST).read_text())
    assert listed == {"models": [made.name, decoding.name]}
    (made / web_files.CARD).write_text("{")  # as if damaged
    assert web_files.listed(tmp_path, decoding.name)[0] == decoding.name


def test_a_model_without_litert_files_is_refused(tmp_path, capsys):
    shutil.copytree(GOLDEN / "model", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "litert")
    with pytest.raises(SystemExit):
        web_files.main([str(tmp_path / "model"), str(tmp_path / "out")])
    assert "has no LiteRT files" in capsys.readouterr().err


@needs_node
@pytest.mark.skipif(not registry.models(), reason="no shipped model in this checkout")
def test_the_tests_in_javascript_pass(models):
    environment = {
        **os.environ, "TFCODEC_WEB_MODELS": str(models), "PYTHON": sys.executable,
    }  # fmt: skip
    done = subprocess.run(
        ["node", "--test"], cwd=WEB, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]


def convert(models, orders):
    """Has Node decode and encode files with the golden model."""
    subprocess.run(
        ["node", "testing/convert.js", of_page(models / "model")], cwd=WEB,
        input=json.dumps(orders), text=True, check=True,
    )  # fmt: skip


def as_rgba(image):
    """Pixels of any layout as a browser has them."""
    image = image[..., None] if image.ndim == 2 else image
    colours, alpha = image, np.full(image.shape[:2] + (1,), 255, np.uint8)
    if image.shape[2] in (2, 4):
        colours, alpha = image[..., :-1], image[..., -1:]
    colours = np.broadcast_to(colours, image.shape[:2] + (3,))
    return np.concatenate([colours, alpha], -1)


@needs_node
def test_pixels_in_javascript_are_within_a_level(models, tmp_path):
    convert(models, [
        {"from": str(GOLDEN / f"{name}.tfc"), "to": str(tmp_path / name)}
        for name in OURS
    ])  # fmt: skip
    for name in OURS:
        data = (GOLDEN / f"{name}.tfc").read_bytes()
        image = tfcodec.decompress(data, GOLDEN / "model", realism=0, engine="litert")
        expected = as_rgba(image)
        found = np.fromfile(tmp_path / name, np.uint8).reshape(expected.shape)
        assert np.abs(found.astype(int) - expected).max() <= 1, name


@needs_node
def test_files_made_in_javascript_open_in_python(models, tmp_path):
    data = (GOLDEN / "face_100.tfc").read_bytes()
    image = tfcodec.decompress(data, GOLDEN / "model", realism=0)
    alpha = np.arange(image[..., 0].size, dtype=np.uint32) // 90 % 256
    see_through = np.dstack([image, alpha.reshape(image.shape[:2]).astype(np.uint8)])
    large = np.tile(image, [8, 8, 1])  # in tiles
    orders = []
    for name, pixels in ("face", image), ("alpha", see_through), ("large", large):
        as_rgba(pixels).tofile(tmp_path / f"{name}.rgba")
        height, width = pixels.shape[:2]
        orders.append({
            "from": str(tmp_path / f"{name}.rgba"), "to": str(tmp_path / f"{name}.tfc"),
            "width": width, "height": height, "quality": 80,
        })  # fmt: skip
    convert(models, orders)
    for name, pixels in ("face", image), ("alpha", see_through), ("large", large):
        made = (tmp_path / f"{name}.tfc").read_bytes()
        found = tfcodec.decompress(made, GOLDEN / "model", realism=0)
        ours = tfcodec.compress(pixels, 80, GOLDEN / "model", engine="litert")
        expected = tfcodec.decompress(ours, GOLDEN / "model", realism=0)
        # The analysis rounds a little otherwise, so a few latents differ.
        assert abs(len(made) - len(ours)) < 0.02 * len(ours) + 20, name
        assert np.abs(found.astype(int) - expected)[..., :3].mean() < 0.5, name
        if name == "alpha":
            assert np.array_equal(found[..., 3], pixels[..., 3])


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory, under a policy as strict as the page's own."""

    def end_headers(self):
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
            "worker-src 'self'; connect-src 'self'; style-src 'self'; "
            "img-src 'self' blob:; base-uri 'none'; form-action 'none'",
        )
        super().end_headers()

    def log_message(self, *_):
        pass


ELEMENT = """<!doctype html><title>Two pictures</title>
<link rel="icon" href="page/icon.svg">
<script type="module" src="src/element.js"></script>
<tfc-image id="good" src="face_50.tfc" alt="a face"></tfc-image>
<tfc-image id="bad" src="bad.tfc" alt="a torn one" width="99"></tfc-image>
<tfc-image id="far" src="tiles_64.tfc" loading="lazy" width="50"></tfc-image>
"""


@pytest.fixture(scope="module")
def site(models, tmp_path_factory):
    """Serves the page with the golden model beside it; gives its address and folder."""
    folder = tmp_path_factory.mktemp("site")
    for name in "index.html", "page", "src", "sw.js":
        (folder / name).symlink_to(WEB / name)
    (folder / "beside").mkdir()
    (folder / "beside" / "models").symlink_to(models / "model")
    subprocess.run(["node", "tools/beside.js", folder / "beside"], cwd=WEB, check=True)
    for name in "face_50", "tiles_64":
        shutil.copy(GOLDEN / f"{name}.tfc", folder)
    (folder / "bad.tfc").write_bytes((GOLDEN / "face_50.tfc").read_bytes()[:900])
    (folder / "element.html").write_text(ELEMENT)
    with served(folder) as server:
        yield f"http://127.0.0.1:{server.server_port}/", folder


@contextlib.contextmanager
def served(folder):
    """Serves a folder from a thread; gives the server."""
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def complaints(page):
    """What the browser said, but for advice about how this test reads pixels."""
    return [words for words in page.errors if not words.startswith("Canvas2D")]


def pixels_of(page, canvas="#picture", root="document"):
    """The pixels of a canvas, [height, width, 4]."""
    found = page.run(
        f"(() => {{ const c = {root}.querySelector('{canvas}');"
        "return [c.height, c.width, ...c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data] })()"
    )
    return np.array(found[2:], np.uint8).reshape(found[0], found[1], 4)


def expected_of(name):
    data = (GOLDEN / f"{name}.tfc").read_bytes()
    image = tfcodec.decompress(data, GOLDEN / "model", realism=0, engine="litert")
    return as_rgba(image)


@needs_chromium
def test_the_page_shows_a_file_and_makes_one(site, tmp_path):
    url, _ = site
    source = expected_of("face_100")[..., :3]
    Image.fromarray(source).save(tmp_path / "face.png")
    with browser.opened(url) as page:
        page.wait("document.readyState == 'complete'")
        page.choose("#file", GOLDEN / "alpha_tiles.tfc")
        page.wait(DONE, 240)
        assert page.run("document.querySelector('#problem').innerText") == ""
        found, expected = pixels_of(page), expected_of("alpha_tiles")
        assert found.shape == expected.shape
        seen = expected[..., 3] == 255  # A canvas multiplies alpha in.
        assert np.abs(found[seen].astype(int) - expected[seen]).max() <= 1
        page.choose("#another input", tmp_path / "face.png")
        page.wait("document.querySelector('#save').download == 'face.tfc'", 240)
        page.wait(DONE, 240)
        made = saved(page, tmp_path, "face.tfc")
        image = tfcodec.decompress(made, GOLDEN / "model", realism=0, engine="litert")
        assert image.shape == source.shape
        assert np.abs(pixels_of(page)[..., :3].astype(int) - image).max() <= 1
        assert all(request.startswith((url, "blob:")) for request in page.requests)
        assert complaints(page) == []


def saved(page, folder, name):
    """Saves the file that the page offers; returns its bytes."""
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.run("document.querySelector('#save').click()")
    end = time.monotonic() + 60
    while not (folder / name).is_file():
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.05)
    return (folder / name).read_bytes()


@needs_chromium
def test_the_page_says_what_is_wrong_with_a_file(site, tmp_path):
    (tmp_path / "torn.tfc").write_bytes((GOLDEN / "face_50.tfc").read_bytes()[:900])
    with browser.opened(site[0]) as page:
        page.wait("document.readyState == 'complete'")
        page.choose("#file", tmp_path / "torn.tfc")
        page.wait(DONE, 240)
        assert "truncated" in page.run("document.querySelector('#problem').innerText")
        assert complaints(page) == []


@needs_chromium
def test_a_model_is_fetched_once(site):
    url, _ = site
    decode = (
        "(async () => { const {decode} = await import('./src/index.js');"
        "const data = await (await fetch('face_50.tfc')).blob();"
        "const told = []; await decode(data, {onProgress: p => told.push(p.what)});"
        "return [...new Set(told)].sort() })()"
    )
    with browser.opened(url) as page:
        page.wait("document.readyState == 'complete'")
        assert page.run(decode) == ["decode", "fetch"]
        page.call("Page.reload")
        page.wait("document.readyState == 'complete'")
        assert page.run(decode) == ["decode"]


@needs_chromium
def test_an_element_reserves_its_size_and_says_what_is_wrong(site):
    with browser.opened(site[0] + "element.html") as page:
        page.wait("customElements.get('tfc-image') !== undefined", 60)
        size = "[good.offsetWidth, good.offsetHeight, good.complete]"
        page.wait("good.offsetWidth == 200", 60)
        assert page.run(size)[:2] == [200, 200]
        page.wait(
            "good.complete && !bad.shadowRoot.querySelector('#words').hidden",
            240,
        )
        assert page.run(size) == [200, 200, True]
        words = page.run("bad.shadowRoot.querySelector('#words').textContent")
        assert words.startswith("a torn one: truncated")
        found = pixels_of(page, "canvas", "good.shadowRoot")
        assert np.abs(found.astype(int) - expected_of("face_50")).max() <= 1
        page.wait("far.complete", 240)
        assert page.run("[far.offsetWidth, far.offsetHeight]") == [50, 50]
        assert complaints(page) == []


@needs_chromium
def test_the_page_works_without_a_network_once_it_was_seen(site):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served(site[1]))
        url = f"http://127.0.0.1:{server.server_port}/"
        page = stack.enter_context(browser.opened(url))
        page.wait("document.body?.dataset.kept == 'yes'", 100)
        page.choose("#file", GOLDEN / "face_50.tfc")
        page.wait(DONE, 240)
        server.shutdown()
        server.server_close()
        page.call("Page.reload", ignoreCache=False)
        page.wait("document.readyState == 'complete' && !document.body.dataset.state")
        page.choose("#file", GOLDEN / "prime_30.tfc")
        page.wait(DONE, 240)
        assert page.run("document.querySelector('#problem').innerText") == ""
        found = pixels_of(page).astype(int)
        assert np.abs(found - expected_of("prime_30")).max() <= 1
