// The page's plots, drawn by BokehJS from the data in the page, and its switches.
const specs = JSON.parse(document.getElementById("plots").textContent);
const shown = { log: false, seeds: false, smoothing: 0, hidden: new Set() }; // hidden: "plot name" of a group
const GREY = "#8a8f98"; // readable on white and on black

const figures = new Map(); // of each place on the page: its view, and how to bring it up to date

function makeFigure(x, y, options) {
  const plot = Bokeh.Plotting.figure({
    height: 300, sizing_mode: "stretch_width", x_axis_label: x, y_axis_label: y, tools: "", toolbar_location: "above",
    background_fill_color: null, border_fill_color: null, outline_line_color: null, ...options,
  });
  plot.add_tools(new Bokeh.BoxZoomTool(), new Bokeh.PanTool(), new Bokeh.ResetTool());
  plot.toolbar.logo = null;
  plot.toolbar.autohide = true;
  plot.toolbar.active_drag = null; // a finger on a plot scrolls the page
  for (const axis of [...plot.xaxes, ...plot.yaxes]) {
    Object.assign(axis, {
      axis_line_color: GREY, major_tick_line_color: GREY, minor_tick_line_color: null, axis_label_text_font_style: "normal",
      major_label_text_color: GREY, axis_label_text_color: GREY,
    });
  }
  for (const grid of [...plot.xgrids, ...plot.ygrids]) Object.assign(grid, { grid_line_color: GREY, grid_line_alpha: 0.25 });
  if (plot.title instanceof Bokeh.Title) plot.title.text_color = GREY;
  return plot;
}

function addHover(plot, renderers, tooltips) {
  plot.add_tools(new Bokeh.HoverTool({ renderers, tooltips, line_policy: "nearest", visible: false }));
}

// Exponential smoothing, as TensorBoard's.
function smooth(values) {
  let last = null;
  return values.map((value) => {
    if (value !== null) last = last === null ? value : shown.smoothing * last + (1 - shown.smoothing) * value;
    return value === null ? NaN : last;
  });
}

const mean = (curves) => curves[0].map((_, index) => {
  const values = curves.map((curve) => curve[index]);
  return values.includes(null) ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
});

function eachSeed(line) {
  return line.seeds.length > 1 ? line.seeds.map((seed, index) => ({ ...line, seed, y: line.ys[index] })) : [];
}

function curveColumns(key, spec, seeds) {
  const visible = spec.lines.filter((line) => !shown.hidden.has(`${key} ${line.name}`));
  const lines = seeds ? visible.flatMap(eachSeed) : visible.map((line) => ({ ...line, y: mean(line.ys) }));
  const drawable = (value) => (shown.log && value <= 0 ? NaN : value);
  return {
    xs: lines.map((line) => spec.steps[line.x]),
    ys: lines.map((line) => smooth(line.y).map(drawable)),
    label: lines.map((line) => `${line.name}${seeds ? `, seed ${line.seed}` : ""}, ${line.split} error`),
    colour: lines.map((line) => spec.colours[line.name]),
    dash: lines.map((line) => (line.split === "train" ? [5, 4] : [])),
    width: lines.map((line) => (line.split === "train" ? 1.1 : 2.4)),
  };
}

function drawCurves(key, spec) {
  const plot = makeFigure("steps", "error (%)", { y_axis_type: shown.log ? "log" : "linear" });
  for (const location of spec.drops) {
    plot.add_layout(new Bokeh.Span({ location, dimension: "height", line_color: GREY, line_alpha: 0.5, line_width: 1 }));
  }
  const sources = [false, true].map(() => new Bokeh.ColumnDataSource({ data: {} }));
  const update = () => sources.forEach((source, index) => {
    const seeds = index === 1;
    source.data = curveColumns(key, seeds && !shown.seeds ? { ...spec, lines: [] } : spec, seeds);
  });
  update();
  const renderers = sources.map((source, index) => plot.multi_line({ field: "xs" }, { field: "ys" }, {
    source, line_color: { field: "colour" }, line_dash: { field: "dash" },
    line_width: index ? 0.7 : { field: "width" }, line_alpha: index ? 0.6 : 1,
  }));
  addHover(plot, renderers, [["", "@label"], ["step", "$snap_x{0,0}"], ["error", "$snap_y{0.00} %"]]);
  return [plot, update];
}

function drawPanel(spec) {
  const plot = makeFigure(spec.x, spec.y, {
    title: spec.title, x_axis_type: spec.log_x ? "log" : "linear", y_axis_type: spec.log_y ? "log" : "linear",
  });
  const items = [];
  const renderers = spec.series.map((series) => {
    const color = series.colour;
    const data = Object.fromEntries(["x", "y", "low", "high"].filter((name) => series[name])
      .map((name) => [name, series[name].map((value) => value ?? NaN)]));
    data.label = series.x.map(() => series.label || spec.title);
    const source = new Bokeh.ColumnDataSource({ data });
    if (series.low) plot.varea({ field: "x" }, { field: "low" }, { field: "high" }, { source, fill_color: color, fill_alpha: 0.15 });
    const thin = series.style === "thin";
    const drawn = series.style === "dots"
      ? plot.scatter({ field: "x" }, { field: "y" }, { source, size: 5, color })
      : plot.line({ field: "x" }, { field: "y" }, { source, color, line_width: thin ? 1 : 2, line_dash: thin ? "dashed" : "solid" });
    if (series.label) items.push(new Bokeh.LegendItem({ label: { value: series.label }, renderers: [drawn] }));
    return drawn;
  });
  const digits = spec.log_y ? "@y" : "@y{0.000 a}";
  addHover(plot, renderers, [["", "@label"], [spec.x || "x", "@x{0.[000]}"], [spec.y || "y", digits]]);
  if (items.length) {
    plot.add_layout(new Bokeh.Legend({
      items, background_fill_alpha: 0, border_line_color: null, label_text_color: GREY, label_text_font_size: "11px",
      spacing: 0, padding: 2, location: "left", ncols: items.length > 4 ? 2 : 1,
    }), "below");
  }
  return [plot, () => {}];
}

function drawSurface(spec) {
  const what = spec.image ? "correlation" : "log10 of the loss";
  const plot = makeFigure(spec.x, spec.y, { title: spec.image ? spec.title : `${spec.title} (${what})` });
  const size = spec.side[1] - spec.side[0];
  const cells = spec.grid.flatMap((row, j) => row.map((value, i) => [spec.side[i], spec.side[j], value]))
    .filter(([, , value]) => value !== null).map(([x, y, value]) => [x, y, spec.image ? value : Math.log10(Math.max(value, 1e-9))]);
  const [x, y, v] = [0, 1, 2].map((index) => cells.map((cell) => cell[index]));
  const palette = spec.image
    ? ["#053061", "#2166ac", "#4393c3", "#92c5de", "#f7f7f7", "#f4a582", "#d6604d", "#b2182b", "#67001f"]
    : ["#440154", "#472c7a", "#3b518b", "#2c718e", "#21908d", "#27ad81", "#5cc863", "#aadc32", "#fde725"];
  const [low, high] = spec.image ? [-1, 1] : [Math.min(...v), Math.max(...v)];
  const color = { field: "v", transform: new Bokeh.LinearColorMapper({ palette, low, high }) };
  const drawn = plot.rect({ field: "x" }, { field: "y" }, size, size,
    { source: new Bokeh.ColumnDataSource({ data: { x, y, v } }), fill_color: color, line_color: color });
  addHover(plot, [drawn], [[what, "@v{0.00}"]]);
  return [plot, () => {}];
}

let queue = Promise.resolve(); // one plot after another, or a switch thrown meanwhile would leave two in one place
const draw = (place) => (queue = queue.then(() => drawNow(place)));

async function drawNow(place) {
  const key = place.dataset.plot;
  const spec = specs[key];
  figures.get(place)?.view.remove();
  place.replaceChildren();
  const draws = { curves: () => drawCurves(key, spec), panel: () => drawPanel(spec), surface: () => drawSurface(spec) };
  const [plot, update] = draws[spec.kind]();
  figures.set(place, { view: await Bokeh.Plotting.show(plot, place), update });
}

const places = [...document.querySelectorAll("[data-plot]")];
const curvePlaces = () => places.filter((place) => specs[place.dataset.plot].kind === "curves");
const update = () => curvePlaces().forEach((place) => figures.get(place)?.update());

const on = (id, event, act) => document.getElementById(id).addEventListener(event, (happened) => act(happened.target));
on("log", "change", async (box) => {
  shown.log = box.checked;
  for (const place of curvePlaces()) await draw(place);
});
on("seeds", "change", (box) => { shown.seeds = box.checked; update(); });
on("smooth", "input", (slider) => {
  shown.smoothing = Number(slider.value);
  document.getElementById("amount").textContent = slider.value;
  update();
});
on("theme", "click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("resexp-theme", next); } catch { /* a page opened from a file may have no storage */ }
});
document.querySelectorAll(".key button").forEach((button) => button.addEventListener("click", () => {
  const group = `${button.closest(".key").dataset.of} ${button.dataset.name}`;
  const hide = !shown.hidden.delete(group);
  if (hide) shown.hidden.add(group);
  button.setAttribute("aria-pressed", String(!hide));
  update();
}));

document.getElementById("contents").open = innerWidth > 640;
(async () => { // from the top, so that the page can be read meanwhile
  for (const place of places) await draw(place);
  document.documentElement.dataset.drawn = "all";
})();
