"use strict";

const charts = JSON.parse(document.getElementById("charts").textContent);
const plots = [...document.querySelectorAll("[data-chart]")];
const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Plotly is packed, as it is most of the page otherwise.
async function unpackPlotly() {
  const packed = atob(document.getElementById("plotly").textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function themed(layout) {
  const axis = (own) => ({
    gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"),
    automargin: true, ...own,
  });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), size: 12 },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"),
      font: { color: colour("text") }, namelength: -1 },
    margin: { l: 54, r: 14, t: 22, b: 44 },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    // Where one scrolls with a finger, dragging must not zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...layout, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
  };
}

function heatmap(matrix, order) {
  const place = new Map(order.map((label, position) => [label, position]));
  const written = order.length <= matrix.mostWritten;
  const filled = (value) => order.map(() => order.map(() => value));
  const [shares, counts] = [filled(null), filled("")];
  const sums = matrix.names.map(() => 0);
  matrix.rows.forEach((row, n) => { sums[row] += matrix.counts[n]; });
  matrix.rows.forEach((row, n) => {
    const [y, x] = [place.get(row), place.get(matrix.columns[n])];
    if (y === undefined || x === undefined) return;
    counts[y][x] = matrix.counts[n];
    shares[y][x] = matrix.counts[n] / sums[row];
  });
  const names = order.map((label) => matrix.names[label]);
  return {
    type: "heatmap", x: names, y: names, z: shares, text: counts, zmin: 0, zmax: 1,
    colorscale: [[0, colour("low")], [1, colour("high")]], hoverongaps: false,
    colorbar: { thickness: 12, tickformat: ".0%", outlinewidth: 0 },
    texttemplate: written ? "%{text}" : "",
    hovertemplate: "%{y}, called %{x}: %{text} images, %{z:.1%}<extra></extra>",
    xgap: written ? 1 : 0, ygap: written ? 1 : 0,
  };
}

function draw(plot) {
  const { data, layout, matrix } = charts[plot.dataset.chart];
  let shown = structuredClone(data);  // Plotly writes into what it is given
  const frame = structuredClone(themed(layout));
  if (matrix) {
    const chosen = (kind) => document.querySelector(`[data-${kind}="${plot.dataset.chart}"]`);
    const order = matrix.orders[chosen("order").value];
    const number = Number(chosen("number")?.value ?? order.length);
    shown = [heatmap(matrix, order.slice(0, number))];
    frame.xaxis.showticklabels = frame.yaxis.showticklabels = number <= matrix.mostNamed;
  }
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.react(plot, shown, frame, settings);
  plot.dataset.drawn = "yes";
}

function drawWhenSeen() {
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "400px" });
  plots.forEach((plot) => watcher.observe(plot));
}

// On paper there is no scrolling.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  if (window.Plotly) plots.forEach(draw);
});

function redraw() {
  plots.filter((plot) => plot.dataset.drawn).forEach(draw);
}

for (const choice of document.querySelectorAll("[data-order], [data-number]")) {
  const chart = choice.dataset.order ?? choice.dataset.number;
  if (choice.dataset.order) {
    const names = Object.keys(charts[chart].matrix.orders);
    choice.append(...names.map((name) => new Option(name)));
  }
  choice.addEventListener("change", () => {
    const plot = document.querySelector(`[data-chart="${chart}"]`);
    if (plot.dataset.drawn) draw(plot);
  });
}

const themes = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");
themeButton.addEventListener("click", () => {
  const root = document.documentElement;
  const next = themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length];
  root.dataset.theme = next;
  themeButton.textContent = `theme: ${next}`;
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function sortKey(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number.parseFloat(text);
  return { text, number, missing: text === "\u2013" };
}

for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    // Names rise first, numbers fall.
    const first = column === 0 ? "ascending" : "descending";
    const second = column === 0 ? "descending" : "ascending";
    const direction = head.ariaSort === first ? second : first;
    heads.forEach((each) => { each.ariaSort = "none"; });
    head.ariaSort = direction;
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a.missing || b.missing) return a.missing - b.missing;
      return sign * (column === 0
        ? a.text.localeCompare(b.text, undefined, { numeric: true })
        : a.number - b.number);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}

const filter = document.getElementById("filter");
filter?.addEventListener("input", () => {
  const part = filter.value.toLowerCase();
  let count = 0;
  for (const row of document.querySelectorAll("#class-table tbody tr")) {
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(part);
    count += !row.hidden;
  }
  document.getElementById("filtered").textContent = `${count} classes`;
});

const dialog = document.getElementById("example");
document.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
  const example = event.target.closest(".example");
  if (!example) return;
  const { image, label, loss, own, answers } = example.dataset;
  dialog.querySelector("h2").textContent = image;
  dialog.querySelector("p").textContent = `is ${label} (${own}), loss ${loss}`;
  const [picture, source] = [dialog.querySelector("img"), example.querySelector("img")];
  picture.hidden = !source;
  if (source) Object.assign(picture, { src: source.src, alt: source.alt });
  dialog.querySelector("tbody").replaceChildren(...JSON.parse(answers).map(([name, share]) => {
    const row = document.createElement("tr");
    const percent = `${(100 * share).toFixed(1)} %`;
    row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: name }),
      Object.assign(document.createElement("td"), { textContent: percent, className: "bar" }));
    row.lastChild.style.setProperty("--share", percent.replace(" ", ""));
    return row;
  }));
  dialog.showModal();
});

unpackPlotly().then(drawWhenSeen, (error) => {
  for (const plot of plots) plot.textContent = `This browser cannot draw charts: ${error}`;
});
