"use strict";

const source = JSON.parse(document.getElementById("chart-data").textContent);
const { specs, themes } = source;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const pick = (id) => document.getElementById(id);
const views = {}; // of the charts that are drawn, by name
const drawing = {};
const MANY = 1500; // points that are drawn on a canvas

// Many points come as a table whose columns are named once.
const unpacked = {};
function data(name) {
  const found = source.data[name];
  if (!found?.columns) return found ?? [];
  unpacked[name] ??= found.rows.map((row) =>
    Object.fromEntries(found.columns.map((column, i) => [column, row[i]])));
  return unpacked[name];
}

function used(spec) {
  const names = [...JSON.stringify(spec).matchAll(/"data":\{"name":"([\w-]+)"\}/g)];
  return Object.fromEntries(names.map(([, name]) => [name, data(name)]));
}

// ---- the front: any two of its measures

const kept = (name, value) => {
  try {
    if (value !== undefined) sessionStorage.setItem(name, value);
    return sessionStorage.getItem(name);
  } catch { return null; } // where the browser keeps nothing for files
};

function chosenAxes() {
  const [score, ...costs] = source.data.axes;
  const named = (id) => source.data.axes.find((axis) => axis.field === pick(id)?.value);
  return [named("axis-x") ?? costs[0], named("axis-y") ?? score];
}

function line(x, y) {
  const { axes, lines } = source.data;
  const corners = data("corners");
  const [first, second] = axes.indexOf(x) < axes.indexOf(y) ? [x, y] : [y, x];
  const members = lines[`${first.field} ${second.field}`] ?? [];
  return members.map((i) => corners[i]).sort((a, b) => a[x.field] - b[x.field]);
}

function limit(axis) {
  const value = source.data["limits-of"][axis.field];
  return value === undefined ? [] : [{ [axis.field]: value, text: "budget" }];
}

function frontSpec() {
  const [x, y] = chosenAxes();
  let text = JSON.stringify(specs.front);
  for (const [letter, axis] of [["x", x], ["y", y]]) {
    for (const key of ["title", "format", "words"]) {
      text = text.replaceAll(`{${letter} ${key}}`, JSON.stringify(axis[key]).slice(1, -1));
    }
    text = text.replaceAll(`{${letter}}`, axis.field);
  }
  const datasets = {
    candidates: data("candidates"), line: line(x, y), "limit-x": limit(x), "limit-y": limit(y),
  };
  const spec = JSON.parse(text);
  const there = (layer) => datasets[layer.data.name]?.length !== 0;
  return { ...spec, layer: spec.layer.filter(there), datasets };
}

function switchAxes() {
  const [x, y] = chosenAxes();
  for (const [own, other] of [["axis-x", y], ["axis-y", x]]) {
    for (const option of pick(own).options) option.disabled = option.value === other.field;
  }
  const count = line(x, y).length;
  const plural = count === 1 ? "" : "s";
  pick("front-said").textContent =
    `the front of ${y.words} and ${x.words}, ${count} network${plural}`;
  pick("chart-front").setAttribute(
    "aria-label", `Chart: ${y.words} against ${x.words} of every candidate; the table below lists the front`);
  kept("axes", `${x.field} ${y.field}`);
  return draw("front", true);
}

function offerAxes() {
  if (!pick("axes")) return;
  const [x, y] = (kept("axes") ?? "").split(" ");
  for (const [id, field] of [["axis-x", x], ["axis-y", y]]) {
    const select = pick(id);
    const known = [...select.options].some((option) => option.value === field);
    if (known && x !== y) select.value = field;
    select.addEventListener("change", switchAxes);
  }
  pick("axes").hidden = false;
  switchAxes();
}

// ---- three measures in space

function offerAngles() {
  if (!pick("angles")) return;
  pick("angles").hidden = false;
  const turned = async () => {
    const view = views.space;
    if (!view) return;
    for (const name of ["turn", "tilt"]) view.signal(name, Number(pick(name).value));
    await view.runAsync();
  };
  for (const name of ["turn", "tilt"]) pick(name).addEventListener("input", turned);
  const place = pick("chart-space");
  let from = null;
  place.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; });
  window.addEventListener("pointerup", () => { from = null; });
  window.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
    from = [event.clientX, event.clientY];
    const turn = Number(pick("turn").value) + x / 2;
    pick("turn").value = ((turn + 540) % 360) - 180;
    pick("tilt").value = Number(pick("tilt").value) + y / 2;
    turned();
  });
}

// ---- drawing, each chart when it is about to be seen

function show(digest) {
  const network = pick(`net-${digest}`);
  if (!network) return;
  network.open = true;
  network.scrollIntoView({ block: "start" });
}

function draw(name, again = false) {
  if (drawing[name] && !again) return drawing[name];
  const spec = name === "front" ? frontSpec() : { ...specs[name], datasets: used(specs[name]) };
  const points = Math.max(0, ...Object.values(spec.datasets).map((found) => found.length ?? 0));
  views[name]?.finalize();
  drawing[name] = vegaEmbed(`#chart-${name}`, spec, {
    mode: "vega-lite",
    actions: { export: true, source: false, compiled: false, editor: false },
    ast: true, // without it Vega compiles expressions, which the page's policy forbids
    config: themes[dark.matches ? "dark" : "light"],
    downloadFileName: name,
    logLevel: 1, // errors; layers without points, such as no failures, are none
    renderer: points > MANY ? "canvas" : "svg",
    tooltip: { theme: dark.matches ? "dark" : "light" },
  }).then(({ view }) => {
    views[name] = view;
    view.addEventListener("click", (event, item) => {
      if (item?.datum?.digest) show(item.datum.digest);
    });
    if (name === "space") pick("turn").dispatchEvent(new Event("input"));
  });
  return drawing[name];
}

const drawAll = () => Promise.all(Object.keys(specs).map((name) => draw(name)));
const drawAgain = () => Promise.all(Object.keys(drawing).map((name) => draw(name, true)));

function watch() {
  const near = (place) => place.getBoundingClientRect().top < 1.5 * window.innerHeight;
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target.id.slice("chart-".length));
    }
  }, { rootMargin: "800px" });
  const first = [];
  for (const name of Object.keys(specs)) {
    const place = pick(`chart-${name}`);
    if (near(place)) first.push(draw(name));
    else seen.observe(place);
  }
  return Promise.all(first);
}

// ---- tables

function sortable(table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
      const number = (a, b) => value(a) - value(b);
      const body = table.tBodies[0];
      const rows = [...body.rows].sort(body.rows[0]?.cells[column].dataset.value ? number : order);
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}

// ---- a search that is still under way

// Only where a reader asks for it: a page that loads itself again takes a screen reader back to its
// beginning (WCAG 2.2, 2.2.1 and failure F41).
function offerAgain() {
  if (!pick("live")) return;
  pick("live").hidden = false;
  const box = pick("again");
  box.checked = kept("again") === "yes";
  box.addEventListener("change", () => kept("again", box.checked ? "yes" : "no"));
  pick("now").addEventListener("click", () => location.reload());
  setInterval(() => {
    if (box.checked && document.visibilityState === "visible") location.reload();
  }, 30000);
}

document.querySelectorAll("table.sortable").forEach(sortable);
offerAgain();
offerAxes();
offerAngles();
window.addEventListener("hashchange", () => show(location.hash.replace("#net-", "")));
if (location.hash.startsWith("#net-")) show(location.hash.slice(5));
dark.addEventListener("change", drawAgain);
window.addEventListener("beforeprint", drawAll);
window.report = { data, views, drawAll, line };
watch().then(() => { document.documentElement.dataset.ready = Math.round(performance.now()); });
