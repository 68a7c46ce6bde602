"""Bars of how hard each site is compressed, for up to four candidates side by side; drawn by the page itself.

Not a plotly figure: a network has up to hundreds of sites with long names, which must wrap on a phone and break over
printed pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.errors import printable_text
from search.report.html import Markup, data_script

Ratios = Mapping[str, tuple[float, str]]  # site -> how hard it is compressed (0..1), and its setting in words
SHOWN = 4  # at once; as many as the page has colours for bars


def ratio_bars(names: Mapping[str, str], sites: Mapping[str, Ratios], shown: Sequence[str]) -> Markup:
    """A choice of candidates, (id -> name), and the bars of those that are `shown` at first."""
    # Pairs, because an object would put names that look like numbers first.
    bars = {
        candidate: [(printable_text(site), share, printable_text(label)) for site, (share, label) in given.items()]
        for candidate, given in sites.items()
    }
    data = {
        "names": [(candidate, printable_text(name)) for candidate, name in names.items()],
        "sites": bars,
        "shown": list(shown)[:SHOWN],
        "most": SHOWN,
    }
    places = '<div class="chips" id="ratio-choice"></div><div id="ratio-bars"></div>'
    return Markup(places + data_script("ratio-data", data))


CSS = """
.chips { display: flex; flex-wrap: wrap; gap: .4rem; margin: .6rem 0; max-height: 9.5rem; overflow-y: auto; }
.chips button { text-align: left; padding: .2rem .6rem; }
.chips button::before { content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .5em;
  border: 1px solid var(--soft); border-radius: 2px; background: var(--slot, transparent); }
.chips button[aria-pressed=true] { border-color: var(--fg); }
#ratio-bars { border-top: 1px solid var(--line); }
#ratio-bars.many { max-height: 36rem; overflow-y: auto; border-bottom: 1px solid var(--line); }
.site { display: grid; grid-template-columns: minmax(8rem, 17rem) 1fr; gap: 0 1rem; padding: .3rem 0;
  align-items: center; border-bottom: 1px solid var(--line); break-inside: avoid; }
.site .mono { overflow-wrap: anywhere; line-height: 1.3; font-size: .8rem; }
.bar { display: grid; grid-template-columns: 1fr 8rem; gap: .6rem; align-items: center; font-size: .78rem;
  line-height: 1.25; }
.bar .track { background: var(--tint); height: .62rem; border-radius: 2px; }
.bar .fill { height: 100%; border-radius: 2px; background: var(--slot); print-color-adjust: exact; }
.bar .label { color: var(--soft); overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media (max-width: 600px) { .site { grid-template-columns: 1fr; } .bar { grid-template-columns: 1fr 6.5rem; } }
@media print { #ratio-bars.many { max-height: none; overflow: visible; } .chips { max-height: none; }
  .chips button[aria-pressed=false] { display: none; } .chips button::before,
  .bar .track { print-color-adjust: exact; } }
"""

# A candidate keeps its colour while it is shown; a fifth one takes the place of the one chosen longest ago.
SCRIPT = """
const ratios = document.getElementById("ratio-data") && JSON.parse(document.getElementById("ratio-data").textContent);
const sites = {};
for (const [id, bars] of Object.entries(ratios?.sites ?? {}))
  sites[id] = new Map(bars.map(([site, ...bar]) => [site, bar]));
const slots = [];
function element(tag, className, text, parent) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}
function drawSite(site, shown, parent) {
  const row = element("div", "site", null, parent);
  element("div", "mono", site, row);
  const bars = element("div", "", null, row);
  for (const [id, slot] of shown) {
    const given = sites[id].get(site), bar = element("div", "bar", null, bars);
    const fill = element("div", "fill", null, element("div", "track", null, bar));
    fill.style.setProperty("--slot", `var(--c${slot})`);
    fill.style.width = `${100 * Math.min(1, Math.max(0, given ? given[0] : 0))}%`;
    element("div", "label", given ? given[1] : "dense", bar);
  }
}
function drawRatios() {
  const shown = [...slots.entries()].filter(([, id]) => id).map(([slot, id]) => [id, slot]);
  const names = new Set(shown.flatMap(([id]) => [...sites[id].keys()]));
  const place = document.getElementById("ratio-bars");
  place.replaceChildren();
  place.classList.toggle("many", names.size > 24);
  for (const site of names) drawSite(site, shown, place);
  for (const chip of document.querySelectorAll("#ratio-choice button")) {
    const slot = slots.indexOf(chip.dataset.id);
    chip.setAttribute("aria-pressed", slot >= 0);
    chip.style.setProperty("--slot", slot < 0 ? "transparent" : `var(--c${slot})`);
  }
}
const turns = [];
function toggleRatios(id, on) {
  const slot = slots.indexOf(id);
  if (slot >= 0 && !on) { slots[slot] = null; turns.splice(turns.indexOf(id), 1); }
  if (slot >= 0) return;
  if (turns.length === ratios.most) slots[slots.indexOf(turns.shift())] = null;
  const free = slots.findIndex(held => !held);
  slots[free < 0 ? slots.length : free] = id;
  turns.push(id);
}
if (ratios) {
  for (const [id, name] of ratios.names) {
    const chip = element("button", "", name, document.getElementById("ratio-choice"));
    chip.type = "button";
    chip.dataset.id = id;
    chip.addEventListener("click", () => { toggleRatios(id, false); drawRatios(); });
  }
  for (const id of ratios.shown) toggleRatios(id, true);
  drawRatios();
  document.getElementById("front-plot")?.on?.("plotly_click", event => {
    const id = event.points[0]?.customdata?.[0];
    if (Object.hasOwn(sites, id)) { toggleRatios(id, true); drawRatios(); }
  });
}
"""
