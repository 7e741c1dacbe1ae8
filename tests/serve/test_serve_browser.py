"""The page in a real Chromium: a dropped image gets classes and maps, a broken file a sentence."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest
from PIL import Image

import fasttrain
from fasttrain.serve import server

pytestmark = pytest.mark.slow

# Drops a file of these bytes on the page, as a person does.
DROP = """
const [name, type, bytes] = arguments;
const data = new DataTransfer();
data.items.add(new File([new Uint8Array(bytes)], name, { type }));
document.body.dispatchEvent(
  new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""


@pytest.fixture(scope="module")
def driver(trained):
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not service:
        pytest.skip("Chromium is not installed: the browser tests were left out")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    with server.bound(fasttrain.load(trained, device="cpu"), about=None, port=0) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        made.get(server.address(page))
        yield made
        page.shutdown()
    made.quit()


def wait_for(driver, script: str):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, 60).until(lambda _: driver.execute_script(script))


def drop(driver, name: str, kind: str, content: bytes) -> None:
    driver.execute_script(DROP, name, kind, list(content))


def test_a_person_drops_an_image_and_then_a_broken_file(driver, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    drop(driver, "a.png", "image/png", (tmp_path / "a.png").read_bytes())
    rows = wait_for(driver, "return document.querySelectorAll('#result tr').length")
    assert rows == 5
    shown = driver.execute_script("return [...document.images].map((i) => i.naturalWidth)")
    assert len(shown) > 2
    assert all(width == 224 for width in shown)
    assert driver.execute_script("return document.getElementById('said').textContent") == "a.png"
    driver.set_window_size(400, 800)
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert driver.execute_script(wide), "the page is wider than a phone"
    drop(driver, "a.png", "image/png", b"broken")
    said = wait_for(driver, "return document.querySelector('#said.bad')?.textContent")
    assert said.startswith("This file cannot be used: not an image")
    assert driver.execute_script("return document.getElementById('result').children.length") == 0
    severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("415" in entry["message"] for entry in severe), severe
