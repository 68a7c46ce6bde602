// Unless told not to, plotly offers to send a figure to its makers' server. Paper is narrower than most windows, and
// plotly draws at a fixed width: figures are redrawn for it and back.
function draw(place) {
  const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
  if (place.clientWidth < 560 && figure.narrow) figure.layout = Object.assign(figure.layout, figure.narrow);
  return Plotly.newPlot(place, figure.data, figure.layout,
    { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
      displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
}
document.querySelectorAll(".plot").forEach(draw);
addEventListener("beforeprint", () => document.querySelectorAll(".js-plotly-plot").forEach(
  place => Plotly.relayout(place, { autosize: false, width: 680 })));
addEventListener("afterprint", () => document.querySelectorAll(".js-plotly-plot").forEach(
  place => Plotly.relayout(place, { autosize: true, width: null })));
