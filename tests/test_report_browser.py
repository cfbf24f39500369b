"""Reports in a real browser: nothing goes wrong, all is drawn, a pointer over a curve tells its value."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run
from PIL import Image
from test_health_words import curve

from densessl.backbones import Backbone
from densessl.commands.report import main
from densessl.config import load_config
from densessl.data.pictures import open_pictures
from densessl.data.scenes import Scenes
from densessl.visual import watched

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed here")

# A page around the report, as wide as a phone or a screen, that looks into it and writes what it finds.
AROUND = """<!doctype html><body style="margin:0"><iframe style="width:%dpx;height:3000px;border:0"></iframe>
<pre id="found"></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow, found = {charts: [], pictures: [], hover: []};
  for (const each of page.querySelectorAll("details")) each.open = true;
  const svg = [...page.querySelectorAll("svg[data-curves]")];
  for (const each of svg) {
    const box = each.getBoundingClientRect(), lines = [...each.querySelectorAll(".curve")];
    found.charts.push([box.width, box.height, Math.max(...lines.map(line => line.getTotalLength()))]);
    const said = each.parentNode.querySelector("output"), before = said.textContent;
    const at = {clientX: box.left + box.width / 2, clientY: box.top + 20, bubbles: true, pointerType: "mouse"};
    each.dispatchEvent(new view.PointerEvent("pointermove", at));
    const over = said.textContent, mark = each.querySelector(".at").getTotalLength();
    each.dispatchEvent(new view.PointerEvent("pointerleave", at));
    const left = said.textContent;
    each.dispatchEvent(new view.KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
    each.dispatchEvent(new view.KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
    found.hover.push([before, over, left, said.textContent, mark, each.dataset.curves]);
  }
  for (const image of page.images) {
    const box = image.getBoundingClientRect();
    found.pictures.push([image.complete, image.naturalWidth, box.width, box.height]);
  }
  found.wide = page.documentElement.scrollWidth;
  const script = page.createElement("script");
  script.textContent = "document.title = 'foreign'";
  page.body.append(script);
  found.title = page.title;
  document.querySelector("#found").textContent = JSON.stringify(found);
};
frame.src = "report.html";
</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs, one with gaps, with pictures."""
    path = tmp_path_factory.mktemp("reports")
    (path / "pictures").mkdir()
    for i in range(2):
        Image.fromarray(Scenes(size=96).read(i)).save(path / "pictures" / f"{i}.png")
    losses: list[float | None] = [None if i % 9 == 5 else 10.0 - 0.2 * i for i in range(30)]
    runs = [made_run(path / name, curve(values)) for name, values in (("<one>", losses), ("two", losses[:20]))]
    collection, views = open_pictures(str(path / "pictures")), load_config("demo").views
    inputs = watched.take(collection, views, 2, seed=0, step=32)
    watched.write_inputs(runs[0] / "watched", inputs)
    for step in (0, 300):
        watched.write_maps(runs[0] / "watched", step, watched.maps(Backbone("test_convnext"), inputs))
    words = ["--data", str(path / "pictures"), "--size", "64", "--device", "cpu", "--out", str(path / "report.html")]
    assert main([*map(str, runs), *words]) == 0
    return path


def looked(folder: Path, width: int, *options: str) -> tuple[dict[str, Any], list[str]]:
    """What the page around finds, and what the console says."""
    (folder / "around.html").write_text(AROUND % width)
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    words += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}"]
    words += ["--allow-file-access-from-files", "--enable-logging=stderr", "--v=0", "--dump-dom", *options]
    done = subprocess.run(
        [str(BROWSER), *words, (folder / "around.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [390, 1200])
def test_all_is_drawn_and_curves_tell_their_values(folder: Path, width: int) -> None:
    found, said = looked(folder, width)
    text = (folder / "report.html").read_text()
    assert found["wide"] <= width
    assert len(found["charts"]) == text.count("data-curves=") > 20
    for wide, high, length in found["charts"]:
        assert min(wide, high) > 100
        assert length > 50
    assert len(found["pictures"]) == text.count("<img") > 20
    assert "How its features formed, &lt;one&gt;: main components" in text
    for complete, natural, wide, high in found["pictures"]:
        assert complete
        assert natural > 0
        assert min(wide, high) > 20
    for before, over, left, key, mark, curves in found["hover"]:
        assert before.startswith("at the end: ")
        assert left == before
        assert mark > 100
        step = int(re.fullmatch(r"step (\d+): .*", over)[1])  # type: ignore[index]
        assert 10 <= step <= 20
        for one in json.loads(curves):
            value = dict(zip(one["s"], one["v"], strict=True))[step]
            number = re.search(re.escape(one["n"]) + r" (not finite|[-\d.e]+)", over)[1]  # type: ignore[index]
            assert number == "not finite" if value is None else float(number) == pytest.approx(value, rel=1e-3)
        assert key.startswith("step 29: ")  # the last but one, which the second run no longer has
        assert "two" not in key
    # The only complaint is that of the foreign script, which the page refuses.
    assert found["title"] == "<one> and two side by side"
    assert len(said) == 1
    assert "Content Security Policy" in said[0]
