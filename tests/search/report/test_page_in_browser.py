"""The page of a run in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_run import hostile_sites
from page_reader import Reader

from models.errors import printable_text
from search.report.page import RunView, report_html

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
Browse = Callable[..., tuple[str, str]]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Opens a run's page, lets a script act on it, and gives the document as it then is, and the browser's log."""
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")

    def open_page(run: RunView, act: str = "", width: int = 1280) -> tuple[str, str]:
        page = tmp_path / "report.html"
        page.write_text(report_html(run).replace("</body>", f"<script>{act}</script></body>"))
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
                   "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
                   f"--window-size={width},1000", "--virtual-time-budget=5000", "--enable-logging=stderr"]  # fmt: skip
        done = subprocess.run(
            [CHROMIUM, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
        )
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return open_page


@pytest.mark.browser
def test_a_browser_draws_every_point_and_asks_for_nothing(hostile: RunView, browse: Browse) -> None:
    probe = """
      document.body.dataset.requests = performance.getEntriesByType('resource').length;
      const options = [...document.querySelectorAll(".plot")].map(plot => plot._context);
      document.body.dataset.uploads = options.filter(of => of.showSendToCloud || of.plotlyServerURL).length;
    """
    dom, log = browse(hostile, f"setTimeout(() => {{ {probe} }}, 1000);")
    page = Reader(dom)
    judged = int(hostile.tables.candidates["score"].notna().sum())
    assert page.points["front-plot"] == judged + len(hostile.tables.front) + 1  # the dense network is one
    assert page.points["finals-plot"] == len(hostile.tables.finals) + 1
    assert hostile.sensitivity is not None
    assert page.points["sensitivity-plot-0"] >= len(hostile.sensitivity)
    assert log == ""
    assert 'data-requests="0"' in dom
    assert 'data-uploads="0"' in dom
    assert "<title>owned</title>" not in dom
    for site in hostile_sites():
        assert printable_text(site) in page.text  # beside its bars, letter by letter


@pytest.mark.browser
def test_a_click_on_a_heading_sorts_the_table(run: RunView, browse: Browse) -> None:
    clicks = """
      const heads = [...document.querySelectorAll("#candidates-table th button")];
      const head = heads.find(button => button.textContent.startsWith("search,"));
      const rows = () => [...document.querySelectorAll("#candidates-table tbody tr")];
      const read = () => rows().map(row => row.cells[1].textContent);
      head.click(); document.body.dataset.up = read(); head.click(); document.body.dataset.down = read();
    """
    dom, log = browse(run, clicks)
    body = {name: value for tag, name, value in Reader(dom).attributes if tag == "body"}
    for name, ascending in (("data-up", True), ("data-down", False)):
        expected = run.tables.candidates.sort_values("score", ascending=ascending, kind="stable", na_position="last")
        known = int(expected["score"].notna().sum())
        shown = (body[name] or "").split(",")
        assert shown[:known] == expected["candidate"].to_list()[:known]
        assert sorted(shown[known:]) == sorted(expected["candidate"].to_list()[known:])
    assert log == ""


@pytest.mark.browser
def test_bars_show_the_candidates_that_are_chosen(run: RunView, browse: Browse) -> None:
    first, *_ = shown = json.loads(Reader(report_html(run)).data["ratio-data"])["shown"]
    other = next(candidate for candidate in run.allocations if candidate not in shown)
    clicks = f"""
      const chips = [...document.querySelectorAll("#ratio-choice button")];
      chips.filter(chip => chip.ariaPressed === "true").forEach(chip => chip.click());
      chips.find(chip => chip.dataset.id === "{other}").click();
      const read = site => [...site.querySelectorAll(".fill")].map(fill => fill.style.width);
      document.body.dataset.widths = JSON.stringify([...document.querySelectorAll("#ratio-bars .site")].map(
        site => [site.children[0].textContent, ...read(site)]));
      document.getElementById("front-plot").emit("plotly_click", {{ points: [{{ customdata: ["{first}"] }}] }});
      document.body.dataset.chosen = chips.filter(chip => chip.ariaPressed === "true").map(chip => chip.dataset.id);
    """
    dom, log = browse(run, clicks)
    body = {name: value for tag, name, value in Reader(dom).attributes if tag == "body"}
    bars = [
        (site, float(width.removesuffix("%"))) for site, width in json.loads(body["data-widths"] or "")
    ]  # one bar a site
    expected = [(site, pytest.approx(100 * ratio)) for site, (ratio, _) in run.allocations[other].items()]
    assert bars == expected
    assert set((body["data-chosen"] or "").split(",")) == {first, other}  # a click on a point of the front adds it
    assert log == ""


@pytest.mark.browser
def test_a_page_is_no_wider_than_a_narrow_window(hostile: RunView, browse: Browse) -> None:
    probe = "document.body.dataset.over = document.documentElement.scrollWidth - innerWidth;"
    dom, _ = browse(hostile, f"setTimeout(() => {{ {probe} }}, 1000);", width=500)  # the least that Chromium opens
    (over,) = (value for tag, name, value in Reader(dom).attributes if (tag, name) == ("body", "data-over"))
    assert int(over or 1) <= 0
