// Plots, in the page's own colours. Plotly is loaded before; without it the tables still work.
import { el } from "./ui.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// What is shown here stays here: plotly.js comes with a button that uploads a plot to its maker's servers.
const CONFIG = { displaylogo: false, responsive: true, plotlyServerURL: "", modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"] };
// What all blocks of a fixed architecture take, and the width of its convolutions if not full.
export function fixedName(architecture) {
  const places = architecture.split("|").flatMap((stage) => stage.split(":")[1].split(","));
  const name = places.find((place) => place !== "full" && place !== "half") ?? "no blocks";
  return places.includes("half") ? `${name} half` : name;
}

const COLOURS = { front: "#d55e00", fixed: "#0072b2", random: "#999999" };

const SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#f0e442"]; // Okabe and Ito's

function layout(x, y, more = {}) {
  const axis = (title) => ({ title: { text: title, standoff: 8 }, gridcolor: css("--line"), zeroline: false, automargin: true });
  const narrow = innerWidth < 600; // there the legend takes several lines, and goes below
  return {
    margin: { l: 56, r: 12, t: 10, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 12 },
    xaxis: axis(x), yaxis: axis(y), legend: narrow ? { orientation: "h", y: -0.3 } : { orientation: "h", y: 1.12 }, hovermode: "closest", ...more,
  };
}

function draw(node, data, spec) {
  if (!window.Plotly) node.textContent = "Plots need plotly.js, which could not be loaded.";
  else {
    if (node.firstChild?.className === "soft") node.replaceChildren();
    window.Plotly.react(node, data, spec, CONFIG);
  }
}

// In place of axes without anything between them.
function blank(node, text) {
  if (node.dataset.bound) window.Plotly.purge(node);
  delete node.dataset.bound;
  node.replaceChildren(el("p", { className: "soft" }, text));
}

export const named = ({ title: name, unit }) => `${name}${unit && !["0…1", "count"].includes(unit) ? ` (${unit})` : ""}`;
export const title = (objective) => `${named(objective)} ${objective.direction === "maximize" ? "↑" : "↓"}`;

// Ends of the audit's 95 % intervals over images, as lengths from the value; none where it has none.
function bars(list, objective, intervals) {
  const found = list.map((t) => intervals[t.number]?.[objective.name]);
  if (!found.some((i) => i?.low != null)) return undefined;
  const length = (t, i, end) => (i?.low == null ? 0 : Math.abs(i[end] - t.metrics[objective.name]));
  return { type: "data", symmetric: false, thickness: 1, width: 3, color: COLOURS.front,
    array: list.map((t, k) => length(t, found[k], "high")), arrayminus: list.map((t, k) => length(t, found[k], "low")) };
}

export function pareto(node, { x, y, trials, front, random, intervals }, onClick) {
  const usable = (list) => list.filter((t) => t.state === "COMPLETED" && t.metrics[x.name] != null && t.metrics[y.name] != null);
  const points = (list, name, marker, more = {}) => ({
    x: list.map((t) => t.metrics[x.name]), y: list.map((t) => t.metrics[y.name]), customdata: list.map((t) => t.number), name, mode: "markers", type: "scatter", marker,
    hovertext: list.map((t) => `trial ${t.number}<br>${t.architecture.replaceAll("|", "<br>")}`), hovertemplate: "%{hovertext}<br>%{x:.5g}, %{y:.5g}<extra></extra>", ...more,
  });
  if (!usable([...trials, ...random]).length) return blank(node, "No completed trial yet.");
  const onFront = new Set(front.map((t) => t.number));
  const fixed = usable(trials).filter((t) => t.origin === "fixed");
  const others = usable(trials).filter((t) => t.origin !== "fixed" && !onFront.has(t.number) && !t.violation);
  const outside = usable([...trials, ...random]).filter((t) => t.violation);
  const stairs = [...usable(front)].sort((a, b) => a.metrics[x.name] - b.metrics[x.name]);
  const data = [
    points(usable(random).filter((t) => !t.violation), "random search", { color: COLOURS.random, symbol: "x-thin", size: 7, line: { width: 1, color: COLOURS.random } }, { hoverinfo: "skip" }),
    points(others, "search", { color: css("--accent"), size: 7, opacity: 0.55 }),
    ...outside.length ? [points(outside, "outside the constraints", { color: COLOURS.random, symbol: "triangle-down-open", size: 7 }, { hoverinfo: "skip" })] : [],
    points(fixed, "fixed slicing", { color: COLOURS.fixed, symbol: "square", size: 10 }, { mode: "markers+text", textposition: "top right", text: fixed.map((t) => fixedName(t.architecture)) }),
    points(stairs, "Pareto-optimal", { color: "rgba(0,0,0,0)", size: 11, line: { color: COLOURS.front, width: 2 } }, { mode: "lines+markers", line: { color: COLOURS.front, width: 1, dash: "dot" }, error_x: bars(stairs, x, intervals), error_y: bars(stairs, y, intervals) }),
  ];
  draw(node, data, layout(title(x), title(y)));
  if (window.Plotly && !node.dataset.bound) {
    node.dataset.bound = "yes";
    node.on("plotly_click", (event) => onClick(event.points[0].customdata));
  }
  return undefined;
}

// The frontiers of several searches over two objectives.
export function fronts(node, x, y, series) {
  const known = series.map(({ name, trials }) => ({ name, trials: trials.filter((t) => t.metrics[x.name] != null && t.metrics[y.name] != null).sort((a, b) => a.metrics[x.name] - b.metrics[x.name]) }));
  if (!known.some(({ trials }) => trials.length)) return blank(node, "No completed trial yet.");
  const data = known.map(({ name, trials }, i) => ({
    x: trials.map((t) => t.metrics[x.name]), y: trials.map((t) => t.metrics[y.name]), name, mode: "lines+markers", type: "scatter",
    marker: { size: 9, symbol: i, color: SERIES[i % SERIES.length] }, line: { width: 1, dash: "dot", color: SERIES[i % SERIES.length] },
    hovertext: trials.map((t) => `trial ${t.number}`), hovertemplate: "%{hovertext}: %{x:.5g}, %{y:.5g}<extra></extra>",
  }));
  return draw(node, data, layout(title(x), title(y)));
}

export function hypervolume(node, curves) {
  if (!curves.length) return blank(node, "No completed trial yet.");
  const data = curves.map(({ name, points }, i) => ({
    x: points.map((p) => p.evaluations), y: points.map((p) => p.hypervolume), name, mode: "lines", type: "scatter",
    line: { shape: "hv", width: 2, color: i ? COLOURS.random : css("--accent"), dash: i ? "dash" : "solid" },
  }));
  const spec = layout("evaluations", "hypervolume");
  spec.yaxis.rangemode = "nonnegative"; // of a first trial alone it is 0
  return draw(node, data, spec);
}

export function slicing(node, front) {
  if (!front.length) return blank(node, "No slicing has been completed yet.");
  const rows = front.map((t) => t.architecture.split("|").flatMap((stage) => stage.split(":")[1].split(",")));
  const choices = [...new Set(rows.flat())].sort();
  const blocks = rows[0].length;
  const share = choices.map((choice) => Array.from({ length: blocks }, (_, i) => rows.filter((row) => row[i] === choice).length / rows.length));
  const frames = rows[0].map((choice, i) => ({ type: "rect", x0: i + 0.5, x1: i + 1.5, y0: choices.indexOf(choice) - 0.5, y1: choices.indexOf(choice) + 0.5, line: { color: COLOURS.front, width: 2 } }));
  const data = [{
    type: "heatmap", z: share, x: Array.from({ length: blocks }, (_, i) => i + 1), y: choices.map((_, i) => i), zmin: 0, zmax: 1, xgap: 1, ygap: 1,
    colorscale: [[0, css("--paper")], [1, css("--accent")]], colorbar: { title: { text: "share" }, thickness: 10 }, hovertemplate: "block %{x}: %{z:.0%}<extra></extra>",
  }];
  // Where stages meet, and what they are called.
  const depths = front[0].architecture.split("|").map((stage) => stage.split(",").length);
  const ends = depths.map((_, i) => depths.slice(0, i + 1).reduce((sum, depth) => sum + depth, 0));
  const lines = ends.slice(0, -1).map((end) => ({ type: "line", x0: end + 0.5, x1: end + 0.5, yref: "paper", y0: 0, y1: 1.04, line: { color: css("--ink"), width: 1 } }));
  const half = Math.ceil(depths.length / 2);
  const names = depths.map((depth, i) => ({ text: i < half ? `E${i + 1}` : `D${i + 1 - half}`, x: ends[i] - depth / 2 + 0.5, yref: "paper", y: 1.02, yanchor: "bottom", showarrow: false, font: { color: css("--soft"), size: 11 } }));
  const spec = layout("block", "", { shapes: [...frames, ...lines], annotations: names });
  spec.margin.t = 24;
  spec.yaxis = { ...spec.yaxis, tickvals: choices.map((_, i) => i), ticktext: choices, showgrid: false };
  spec.xaxis = { ...spec.xaxis, dtick: blocks > 12 ? 2 : 1, showgrid: false };
  return draw(node, data, spec);
}

// One of the report's figures, whose neutral colours are those of a light page.
export function reported(node, { data, layout: spec }) {
  const own = { "#1a1a1b": "--ink", "#e4e4e7": "--line", "#fffffe": "--paper" };
  const text = Object.entries(own).reduce((found, [colour, name]) => found.replaceAll(colour, css(name)), JSON.stringify({ data, spec }));
  const found = JSON.parse(text);
  if (innerWidth < 600) {
    found.spec.font.size = 11;
    for (const note of found.spec.annotations ?? []) note.text = note.text.replace("enc ", "E").replace("dec ", "D");
    for (const trace of found.data) if (trace.colorbar) trace.showscale = false;
  }
  draw(node, found.data, found.spec);
}
