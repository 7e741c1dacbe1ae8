"""The pages in a real Chromium, opened from disk; left out, and said so, where there is none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixture_run import change, put, write_run

from fasttrain.report.compare import write_page
from fasttrain.report.html import write
from fasttrain.report.words import percent, rate

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)
HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1">'

# Ratios of text to what is painted behind it, as WCAG 2 defines them; what is below 4.5.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (css) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = css;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = (colour) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = colour.map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const found = rgba(getComputedStyle(e).backgroundColor);
    if (found[3] > 200) return found;
  }
};
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let count = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest("script, noscript")) continue;
  if (!element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
  const [a, b] = [luminance(ink), luminance(behind(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  count += 1;
  if (ratio < 4.5) poor.push([ratio, element.tagName, walker.currentNode.data.trim()]);
}
return [count, poor];
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not service:
        pytest.skip("Chromium is not installed: the browser tests were left out")
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: the browser tests were left out"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=service)
    )
    yield started
    started.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "whole", mistakes=6)
    write(folder)
    return folder


@pytest.fixture(scope="module")
def compared(folder: Path) -> Path:
    other = write_run(folder.parent / "other", epochs=30, seed=1, pace=9, batch_size=512)
    return write_page([folder, other], folder.parent / "compare.html")


class Shown:
    """A page in the browser: set up anew for each test."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = 1200, dark: bool = False, script: bool = True):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        # A page that scrolls smoothly moves away under the driver's clicks.
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        for command, arguments in (
            ("Emulation.setDeviceMetricsOverride", metrics),
            ("Emulation.setEmulatedMedia", {"features": [scheme, still]}),
            ("Emulation.setScriptExecutionDisabled", {"value": not script}),
        ):
            self.driver.execute_cdp_cmd(command, arguments)
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(path.as_uri())
        return self

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def requests(self) -> list[str]:
        """The addresses asked for since the page was opened."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [found["request"]["url"] for found in sent]

    def press(self, key: str) -> None:
        keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
        self.driver.switch_to.active_element.send_keys(getattr(keys, key))

    def point(self, element: Any, x: int, y: int) -> None:
        chains = pytest.importorskip("selenium.webdriver").ActionChains(self.driver, duration=0)
        chains.move_to_element_with_offset(element, x, y).perform()

    def overflow(self) -> int:
        return self.run("return document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def shown(driver: Any) -> Shown:
    return Shown(driver)


def readouts(shown: Shown) -> list[str]:
    return [" ".join(text.split()) for text in shown.texts(".readout")]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_opens_from_disk_without_an_error_or_a_request(shown, folder, compared):
    for path in (folder / "report.html", compared):
        shown.open(path)
        assert shown.driver.get_log("browser") == []
        asked = [url for url in shown.requests() if not url.startswith("data:")]
        assert asked == [path.as_uri()]
        assert len(shown.all(".plot svg path")) >= 6
    # The same logs see what a page may not do: the control.
    shown.run("fetch('https://example.invalid/x').catch(() => 0); new Image().src = '/y.png'")
    time.sleep(0.2)
    refused = " ".join(entry["message"] for entry in shown.driver.get_log("browser"))
    assert "Content Security Policy" in refused


def test_pointing_at_a_curve_reads_it(shown, folder):
    shown.open(folder / "report.html")
    rows, plot = metrics(folder), shown.all(".plot")[0]
    last = f"epoch 50 train {100 * rows[-1]['train_accuracy']:.2f} % test"
    assert readouts(shown)[0].startswith(last)
    shown.point(plot, 0, 0)
    epoch = int(readouts(shown)[0].split()[1])
    wide = plot.size["width"]  # the axis reaches from 62 pixels to 18 before the end
    assert abs(epoch - (1 + 49 * (wide / 2 - 62) / (wide - 80))) <= 1
    row = rows[epoch - 1]
    assert readouts(shown)[0] == (
        f"epoch {epoch} train {100 * row['train_accuracy']:.2f} % "
        f"test {100 * row['test_accuracy']:.2f} %"
    )
    assert len(shown.all(".cursor line")) == 1
    shown.point(shown.all("h1")[0], 0, 0)
    assert readouts(shown)[0].startswith(last)
    assert shown.all(".cursor line") == []


def test_the_script_writes_numbers_as_python_does(shown, folder):
    shown.open(folder / "report.html")
    shares = [k / 800 for k in range(0, 801, 7)] + [k / 64 for k in range(65)] + [0.925345]
    lrs = [0.0534, 0.00534, 0.000534, 5.34e-5, 1e-5, 0.1, 1.0, 0.0999, 1e-4]
    assert shown.run("return arguments[0].map(FORMATS.percent)", shares) == list(
        map(percent, shares)
    )
    assert shown.run("return arguments[0].map(FORMATS.rate)", lrs) == list(map(rate, lrs))


def test_a_curve_is_read_with_the_arrow_keys(shown, folder):
    shown.open(folder / "report.html")
    rows, plot = metrics(folder), shown.all(".plot")[1]
    shown.run("arguments[0].focus()", plot)
    for key, epoch in (("HOME", 1), ("ARROW_RIGHT", 2), ("PAGE_UP", 12), ("ARROW_LEFT", 11)):
        shown.press(key)
        assert plot.get_attribute("aria-valuetext").startswith(f"epoch {epoch}: train ")
        loss = float(plot.get_attribute("aria-valuetext").split()[-1])
        assert loss == pytest.approx(rows[epoch - 1]["test_loss"], rel=1e-3)


def test_the_gallery_switches_all_tiles_and_each(shown, folder):
    shown.open(folder / "report.html")
    buttons, tiles = shown.all(".views button"), shown.all(".gallery .tile")

    def visible(tile) -> list[str]:
        images = tile.find_elements("css selector", "img")
        return [image.get_attribute("data-view") for image in images if image.is_displayed()]

    assert visible(tiles[0]) == visible(tiles[5]) == ["image"]
    for button, view in zip(buttons, ("image", "predicted", "true"), strict=True):
        button.click()
        assert visible(tiles[0]) == visible(tiles[5]) == [view]
        assert [b.get_attribute("aria-pressed") == "true" for b in buttons] == [
            b == button for b in buttons
        ]
    tiles[1].find_element("css selector", "button").click()
    assert visible(tiles[1]) == ["image"]
    assert visible(tiles[0]) == ["true"]
    assert all(b.get_attribute("aria-pressed") == "false" for b in buttons)
    shown.press("ENTER")
    assert visible(tiles[1]) == ["predicted"]
    found = json.loads((folder / "misclassified.json").read_text())["images"][1]
    label = tiles[1].find_element("css selector", ".showing").text
    assert label == f"map: {found['predicted']}"


def test_the_class_table_sorts_by_numbers_and_by_names(shown, tmp_path):
    folder = write_run(tmp_path / "run", epochs=2, mistakes=1)
    rows = json.loads((folder / "class_accuracy.json").read_text())["classes"]
    rows[3]["accuracy"], rows[5]["accuracy"] = 1.0, 0.095  # as text, 100.00 would come first
    change(folder, "class_accuracy.json", classes=rows)
    shown.open(write(folder))
    heads = shown.all("#classes .sortable th[aria-sort]")
    column = [head.text for head in heads].index("accuracy")

    def names() -> list[str]:
        return shown.texts("#classes .sortable tbody th")

    assert names() == [row["name"] for row in rows]
    by_accuracy = [row["name"] for row in sorted(rows, key=lambda row: row["accuracy"])]
    heads[column].find_element("css selector", "button").click()
    assert names() == by_accuracy
    assert heads[column].get_attribute("aria-sort") == "ascending"
    shown.press("ENTER")
    assert names() == by_accuracy[::-1]
    assert heads[column].get_attribute("aria-sort") == "descending"
    heads[0].find_element("css selector", "button").click()
    assert names() == sorted(by_accuracy)
    assert heads[column].get_attribute("aria-sort") == "none"


def test_nothing_overflows_at_400_pixels(shown, folder, compared):
    for path in (folder / "report.html", compared):
        for width in (400, 1200):
            shown.open(path, width=width)
            shown.run("for (const d of document.querySelectorAll('details')) d.open = true")
            assert shown.overflow() <= 0, (path.name, width)
        plots = shown.run("return [...document.querySelectorAll('.plot')].map(p => p.scrollWidth)")
        assert max(plots) > 400, "the charts use the room there is"
    shown.open(folder / "report.html", width=400)
    assert shown.run("return document.querySelector('.plot svg').clientWidth") > 320
    shown.run(
        "const p = document.createElement('p'); p.textContent = 'x'.repeat(500);"
        "document.body.append(p)"
    )
    assert shown.overflow() > 0, "the control"


def test_wide_tables_scroll_in_their_own_box(shown, folder):
    shown.open(folder / "report.html", width=400)
    boxes = shown.all("#classes .scroll")
    for box in boxes:
        assert box.get_property("scrollWidth") > box.get_property("clientWidth")
        assert box.get_property("tabIndex") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_every_word_has_enough_contrast_in_both_themes(shown, folder, compared, dark):
    for path in (folder / "report.html", compared):
        shown.open(path, dark=dark)
        shown.run("for (const d of document.querySelectorAll('details')) d.open = true")
        for button in shown.all(".views button")[1:2]:
            button.click()
        count, poor = shown.run(CONTRAST)
        assert count > 50
        assert poor == []
        paper = shown.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(int(v) for v in paper[4:-1].split(",")) < 200) == dark
    shown.run("document.querySelector('h1').style.color = '#777'")
    assert shown.run(CONTRAST)[1][0][1] == "H1", "the control"


def test_the_keyboard_reaches_everything_and_shows_where_it_is(shown, folder):
    shown.open(folder / "report.html")
    wanted = "a, button, summary, .plot, .scroll"
    there = shown.run(
        "const all = [...document.querySelectorAll(arguments[0])];"
        "return all.filter((element) => element.checkVisibility()).length",
        wanted,
    )
    seen = 0
    for _ in range(there + 1):
        shown.press("TAB")
        tag, style, width = shown.run(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.tagName, s.outlineStyle, s.outlineWidth]"
        )
        if tag == "BODY":
            break
        seen += 1
        assert (style, width) == ("solid", "3px")
    assert seen == there


def test_without_javascript_the_numbers_and_all_images_are_there(shown, folder):
    shown.open(folder / "report.html", script=False, width=400)
    # Scripts of the page are off; the driver's own still run.
    assert "is drawn; every epoch is below" in shown.all("noscript")[0].text
    assert all(image.is_displayed() for image in shown.all(".gallery img"))
    assert shown.all(".views")[0].is_displayed() is False
    shown.all("#curves summary")[0].click()
    best = max(row["test_accuracy"] for row in metrics(folder))
    assert f"{100 * best:.2f} %" in shown.texts("#curves td")
    assert shown.overflow() <= 0


def test_half_a_run_and_a_hostile_one_open_without_an_error(shown, tmp_path):
    put(tmp_path, "recipe.json", {"recipe": "resnet18", "epochs": 50})
    young = write_run(tmp_path / "young", epochs=1)
    hostile = write_run(tmp_path / "hostile", epochs=2, mistakes=2, recipe=HOSTILE)
    mistake = {"index": 1, "true": HOSTILE, "predicted": HOSTILE, "confidence": 1.0}
    change(hostile, "misclassified.json", images=[mistake] * 2)
    change(hostile, "lr_finder.json", rule=HOSTILE)
    change(hostile, "environment.json", command=HOSTILE)
    named = tmp_path / "<b>'\"&"
    hostile.rename(named)
    for path in (tmp_path, young, named):
        shown.open(write(path), width=400)
        assert shown.driver.get_log("browser") == []
        assert shown.run("return window.broken") is None
        assert shown.overflow() <= 0
    shown.all(".views button")[1].click()
    assert shown.texts(".showing")[0].startswith("map: </script>")
    shown.open(write_page([young, named], tmp_path / "compare.html"))
    assert shown.run("return window.broken") is None
    assert any("<b>'" in text for text in shown.texts(".key"))
