// A candidate keeps its colour while it is shown; a fifth one takes the place of the one chosen longest ago.
const ratios = document.getElementById("ratio-data") && JSON.parse(document.getElementById("ratio-data").textContent);
const sites = {};
for (const [id, bars] of Object.entries(ratios?.sites ?? {}))
  sites[id] = new Map(bars.map(([site, ...bar]) => [site, bar]));
const slots = [];
function element(tag, className, text, parent) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}
function drawSite(site, shown, parent) {
  const row = element("div", "site", null, parent);
  element("div", "mono", site, row);
  const bars = element("div", "", null, row);
  for (const [id, slot] of shown) {
    const [strength, setting] = sites[id].get(site) ?? [0, "dense"], bar = element("div", "bar", null, bars);
    const fill = element("div", "fill", null, element("div", "track", null, bar));
    fill.style.setProperty("--slot", `var(--c${slot})`);
    fill.style.width = `${100 * Math.min(1, Math.max(0, strength))}%`;
    element("div", "label", setting, bar);
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
