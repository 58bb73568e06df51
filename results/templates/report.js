"use strict";

const { data, specs } = JSON.parse(document.getElementById("chart-data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

// Specifications name styles; their colours are those of the page.
function theme() {
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(`--${name}`).trim();
  const axis = {
    labelColor: colour("soft"), titleColor: colour("ink"), gridColor: colour("line"),
    domainColor: colour("line"), tickColor: colour("line"), labelFontSize: 12, titleFontSize: 12,
    titleFontWeight: 500, titlePadding: 10, labelFlush: false, labelOverlap: true,
  };
  return {
    background: "transparent",
    font: css.getPropertyValue("--sans").trim(),
    view: { stroke: null },
    axis,
    axisX: { tickCount: { expr: "ceil(width / 90)" }, grid: false },
    axisY: { tickCount: 6, domain: false, ticks: false },
    legend: { labelColor: colour("ink"), titleColor: colour("ink"), labelFontSize: 12 },
    style: {
      candidate: { color: colour("candidate"), opacity: 0.5 },
      front: { color: colour("front"), strokeWidth: 2 },
      member: { color: colour("front"), opacity: 1, stroke: colour("page"), strokeWidth: 1.5 },
      best: { color: colour("best"), opacity: 1, stroke: colour("page"), strokeWidth: 1.5 },
      "best-text": { color: colour("ink"), fontSize: 12, fontWeight: 600 },
      budget: { color: colour("soft"), strokeDash: [5, 4], strokeWidth: 1.5 },
      "budget-text": { color: colour("soft"), fontSize: 12 },
      published: { color: colour("candidate"), opacity: 0.45 },
      near: { color: colour("known"), opacity: 0.9 },
      failed: { color: colour("bad"), opacity: 1 },
    },
  };
}

function open(digest) {
  const network = document.getElementById(`net-${digest}`);
  if (!network) return;
  network.open = true;
  network.scrollIntoView({ block: "start" });
}

async function draw() {
  for (const [name, spec] of Object.entries(specs)) {
    const { view } = await vegaEmbed(`#chart-${name}`, { ...spec, datasets: data }, {
      mode: "vega-lite",
      actions: { export: true, source: false, compiled: false, editor: false },
      ast: true, // without it Vega compiles expressions, which the page's policy forbids
      config: theme(),
      downloadFileName: name,
      renderer: data.candidates.length > 1500 ? "canvas" : "svg",
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    view.addEventListener("click", (event, item) => {
      if (item?.datum?.digest) open(item.datum.digest);
    });
  }
}

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

document.querySelectorAll("table.sortable").forEach(sortable);
window.addEventListener("hashchange", () => open(location.hash.replace("#net-", "")));
if (location.hash.startsWith("#net-")) open(location.hash.slice(5));
dark.addEventListener("change", draw);
draw();
