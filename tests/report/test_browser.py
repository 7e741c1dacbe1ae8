"""The pages in a real Chromium, opened from disk; skipped where there is none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from itertools import combinations
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
    """A page in the browser, set up again for each test."""

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
        """The addresses requested since the page was opened."""
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


def extent(shown: Shown, plot: Any) -> tuple[float, float]:
    """Return where on the screen the first curve of a plot begins and ends."""
    box = shown.run(
        "const b = arguments[0].querySelector('path').getBoundingClientRect();"
        "return [b.left, b.right]",
        plot,
    )
    return box[0], box[1]


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
    box = plot.rect["x"]
    middle = shown.run("return arguments[0].getBoundingClientRect().width / 2", plot)
    left, right = (x - box for x in extent(shown, plot))
    assert abs(epoch - (1 + 49 * (middle - left) / (right - left))) <= 1
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
    assert "All epochs are below" in shown.all("noscript")[0].text
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


# Texts of charts that stand across each other, a curve, or the edge of their chart.
CLASHES = """
const clashes = [];
const inside = (box, x, y) => x > box.left && x < box.right && y > box.top && y < box.bottom;
for (const svg of document.querySelectorAll(".plot svg")) {
  const frame = svg.getBoundingClientRect();
  const boxOf = (text) => [text.textContent, text.getBoundingClientRect()];
  const texts = [...svg.querySelectorAll("text")].map(boxOf);
  for (const [text, box] of texts) {
    if (box.left < frame.left - 1 || box.right > frame.right + 1) clashes.push([text, "edge"]);
    for (const [other, b] of texts) {
      const apart = b.left >= box.right || b.right <= box.left;
      if (b === box || apart || b.top >= box.bottom || b.bottom <= box.top) continue;
      clashes.push([text, other]);
    }
    for (const path of svg.querySelectorAll("path")) {
      const length = path.getTotalLength();
      for (let at = 0; at <= length; at += 2) {
        const point = path.getPointAtLength(at);
        if (inside(box, frame.left + point.x, frame.top + point.y)) {
          clashes.push([text, "a curve"]);
          break;
        }
      }
    }
  }
}
return [document.querySelectorAll(".plot text").length, clashes];
"""


def changed(folder: Path, **changes: Any) -> Path:
    """Apply `changes`, functions of a row and its number, to every row of the run."""
    rows = metrics(folder)
    for i, row in enumerate(rows):
        row.update({name: value(row, i) for name, value in changes.items()})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write runs with other curves: short, long, with many steps, with large values."""
    root = tmp_path_factory.mktemp("shapes")
    onecycle = write_run(
        root / "onecycle", epochs=60, scheduler="onecycle", mistakes=1, label_smoothing=0.2
    )
    halved = write_run(root / "halved", epochs=40, mistakes=1)
    worse = write_run(root / "worse", epochs=5, mistakes=1)
    return [
        write_run(root / "one", epochs=1, mistakes=1),
        write_run(root / "two", epochs=2, seed=3, mistakes=1),
        write_run(root / "long", epochs=200, mistakes=1),
        changed(onecycle, lr=lambda _, i: 0.4 * min(i + 1, 60 - i) ** 4 / 30**4),
        changed(halved, lr=lambda _, i: 0.1 * 0.5 ** (i // 2)),
        changed(
            worse,
            test_accuracy=lambda _, i: 0.08 + 0.002 * (i % 3),
            train_accuracy=lambda _, i: 0.04,
            test_loss=lambda _, i: 10.0**i,
        ),
    ]


@pytest.mark.parametrize("width", [400, 1200])
def test_no_text_of_a_chart_crosses_a_curve_another_text_or_the_edge(shown, folder, shapes, width):
    for run in [folder, *shapes]:
        count, clashes = shown.open(write(run), width=width).run(CLASHES)
        assert count > 30
        assert clashes == [], run.name
    shown.run(
        "const [a, b, c] = document.querySelectorAll('.plot .tick');"
        "a.setAttribute('y', b.getAttribute('y')); c.setAttribute('x', -20);"
        "const path = document.querySelector('.plot path'), name = document.querySelector('.name');"
        "const middle = path.getPointAtLength(path.getTotalLength() / 2);"
        "name.setAttribute('x', middle.x - 20); name.setAttribute('y', middle.y + 5);"
    )
    control = [other for _, other in shown.run(CLASHES)[1]]
    assert "edge" in control
    assert "a curve" in control
    assert set(control) - {"edge", "a curve"}


def test_the_difference_has_its_zero_line_and_a_true_minus(shown, tmp_path):
    for name, share in (("negative", -0.03), ("positive", 0.03), ("none", 0.0)):
        folder = write_run(tmp_path / name, epochs=4, mistakes=1)
        changed(folder, test_accuracy=lambda _, i: 0.5, train_accuracy=lambda _, i: 0.5)
        changed(folder, train_accuracy=lambda row, i, s=share: row["test_accuracy"] + s * (1 + i))
        shown.open(write(folder))
        gap = shown.all(".plot")[2]
        assert len(gap.find_elements("css selector", ".grid.zero")) == 1
        ticks = [e.text for e in gap.find_elements("css selector", ".tick")]
        assert "0" in ticks
        assert max(abs(float(tick.replace("−", "-"))) for tick in ticks) < 20
        said = readouts(shown)[2] + " ".join(ticks)
        assert ("−" in said.replace("train − test", "")) == (share <= 0)
        assert "-" not in said


@pytest.mark.parametrize("width", [400, 700, 1200])
def test_a_command_breaks_before_its_flags_and_no_fact_is_alone(shown, tmp_path, width):
    flags = ["--recipe sprint", "--widths 64,256,256", "--label-smoothing 0.2", "--test-flips"]
    flags += ["--target-accuracy 0.9253", "--crop-padding 4", "--out 'runs/my run'"]
    for more in (0, 1, 2):
        folder = write_run(tmp_path / str(more), epochs=2, mistakes=1)
        change(folder, "environment.json", command=f"python -m fasttrain {' '.join(flags)}")
        for name in ("seconds_to_target", "final_test_accuracy_with_flips")[:more]:
            change(folder, "summary.json", **{name: 0.5})
        shown.open(write(folder), width=width)
        lines = shown.run(
            "return [...document.querySelectorAll('.command > span')].map("
            "(s) => [s.textContent, s.getClientRects().length, s.offsetHeight])"
        )
        assert [text for text, *_ in lines][2:] == flags
        assert {boxes for _, boxes, _ in lines} == {1}
        assert max(height for *_, height in lines) < 30, "each stands in one line"
        tops = shown.run(
            "return [...document.querySelectorAll('.facts div')].map("
            "(d) => d.getBoundingClientRect().top)"
        )
        rows = [tops.count(top) for top in dict.fromkeys(tops)]
        assert rows[-1] > 1 or set(rows) == {1}


def test_at_400_pixels_the_accuracies_of_the_classes_and_all_captions_are_seen(shown, folder):
    shown.open(folder / "report.html", width=400)
    right = shown.run(
        "const cells = [...document.querySelectorAll('#classes .sortable tr > :nth-child(2)')];"
        "return Math.max(...cells.map((c) => c.getBoundingClientRect().right))"
    )
    assert right <= 400 - 16
    shown.run("document.querySelectorAll('.scroll').forEach((s) => { s.scrollLeft = 500; })")
    first = shown.all("#classes .sortable tbody th")[0]
    assert 0 <= first.rect["x"] < 400, "the names stay while the numbers scroll"
    captions = shown.all("#classes .caption")
    assert [c.text.split()[0] for c in captions] == ["Test", "Confusion"]
    assert captions[1].text.endswith("were taken for the column's")
    for caption in captions:
        assert caption.rect["x"] + caption.rect["width"] <= 400
        assert caption.get_property("scrollWidth") <= caption.get_property("clientWidth")


def test_a_page_of_many_runs_opens_sorts_and_can_be_read(shown, tmp_path):
    runs = [
        write_run(
            tmp_path / f"run-{i}",
            epochs=4 + i,
            seed=i,
            pace=2 + i % 4,
            mistakes=1,
            batch_size=64 << (i % 4),
            lr=("auto", 0.1, 0.03)[i % 3],
            dataset=("cifar10", "/a/long/path/of/photographs")[i % 2],
        )
        for i in range(9)
    ]
    page = write_page(runs, tmp_path / "compare.html")
    for dark, width in ((False, 400), (True, 1200)):
        shown.open(page, width=width, dark=dark)
        assert shown.driver.get_log("browser") == []
        assert shown.overflow() <= 0
        assert shown.run(CONTRAST)[1] == []
    heads = shown.all("#table .sortable th[aria-sort]")
    head = next(head for head in heads if head.text.startswith("epochs done"))
    head.find_element("css selector", "button").click()
    assert shown.texts("#table tbody th") == [f"run-{i}" for i in range(9)]
    boxes = shown.run(
        "return [...document.querySelectorAll('.parallel text')].map(t => {"
        "const b = t.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]})"
    )
    assert len(boxes) > 20
    assert [pair for pair in combinations(boxes, 2) if overlap(*pair)] == []
    left, right = shown.run(
        "const b = document.querySelector('.parallel').getBoundingClientRect();"
        "return [b.left, b.right]"
    )
    assert all(left <= box[0] and box[2] <= right for box in boxes)


def overlap(one: list[float], two: list[float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] + 2 < two[3] and two[1] + 2 < one[3]
