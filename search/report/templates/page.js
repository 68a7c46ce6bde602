// Sorting keeps blanks last whichever way it goes; figures sort by value, the rest as text with its numbers in order.
"use strict";
const collator = new Intl.Collator("en", { numeric: true });
function sortBy(head) {
  const rows = head.closest("table").tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending", figure = head.classList.contains("figure");
  const key = row => {
    const cell = row.cells[column];  // missing where a reason fills the columns of figures
    return cell?.dataset.sort ?? (figure ? "" : cell?.textContent ?? "");
  };
  const order = (a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    return (down ? -1 : 1) * (figure ? x - y : collator.compare(x, y));
  };
  rows.append(...[...rows.rows].sort(order));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}
async function copy(button) {
  const code = button.parentNode.querySelector("code");
  try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(code); button.textContent = "Selected"; }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
document.addEventListener("click", event => {
  const head = event.target.closest("table.sortable th"), button = event.target.closest("button.copy");
  if (head) sortBy(head);
  if (button) copy(button);
});
