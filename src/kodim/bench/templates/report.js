"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const known = (value) => value !== null && value !== undefined;
const fixed = (value, digits) => (known(value) ? value.toFixed(digits) : "–");
const signed = (value, digits) => (known(value) ? (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits) : "–");
const significant = (value) => (known(value) ? (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)) : "–");

// ---- curves -------------------------------------------------------------------------------------------------

const MARKS = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.2 * r}L${1.2 * r},${r}H${-1.2 * r}z`,
  (r) => `M0,${-1.4 * r}L${1.2 * r},0L0,${1.4 * r}L${-1.2 * r},0z`,
  (r) => `M0,${1.2 * r}L${1.2 * r},${-r}H${-1.2 * r}z`,
  (r) => `M${-r / 2},${-1.3 * r}h${r}v${0.8 * r}h${0.8 * r}v${r}h${-0.8 * r}v${0.8 * r}h${-r}v${-0.8 * r}h${-0.8 * r}v${-r}h${0.8 * r}z`,
];
const chart = {
  view: data.views[0].name,
  log: false,
  hidden: new Set(data.curves.filter((curve) => !curve.shown).map((curve) => curve.name)),
  buttons: {}, // of the legend, by curve
  box: null, // what is seen: [left, right, low, high], in axis units
};

const viewOf = () => data.views.find((view) => view.name === chart.view);
const axisX = (bpp) => (chart.log ? Math.log2(bpp) : bpp);
const visible = () => data.curves.filter((curve) => !chart.hidden.has(curve.name));
const pointsOf = (curve) => curve.points.filter((point) => known(point[chart.view]));

function home() {
  const own = data.curves.filter((curve) => !curve.published).flatMap(pointsOf).map((p) => p.bpp);
  const widest = Math.max(...own), narrowest = Math.min(...own);
  const seen = visible().flatMap(pointsOf).filter((p) => p.bpp <= 1.05 * widest && (!chart.log || p.bpp >= 0.8 * narrowest));
  const values = seen.map((p) => p[chart.view]);
  if (!values.length) return [0, 1, 0, 1];
  const low = Math.min(...values), high = Math.max(...values), air = 0.06 * (high - low) || 0.5;
  const left = chart.log ? axisX(narrowest) - 0.3 : 0;
  const right = chart.log ? axisX(widest) + 0.2 : 1.05 * widest;
  return [left, right, low - air, high + air];
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= raw) || 10);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function layout() {
  const width = Math.max($("chart").clientWidth, 200), height = Math.round(Math.min(Math.max(0.6 * width, 290), 500));
  const frame = { left: 54, right: width - 10, top: 10, bottom: height - 42 };
  const [x0, x1, y0, y1] = chart.box;
  const down = viewOf().better === "lower";
  const toX = (x) => frame.left + ((x - x0) / (x1 - x0)) * (frame.right - frame.left);
  const share = (y) => (y - y0) / (y1 - y0);
  const toY = (y) => frame.bottom - (down ? 1 - share(y) : share(y)) * (frame.bottom - frame.top);
  const fromX = (px) => x0 + ((px - frame.left) / (frame.right - frame.left)) * (x1 - x0);
  const fromY = (py) => {
    const up = (frame.bottom - py) / (frame.bottom - frame.top);
    return y0 + (down ? 1 - up : up) * (y1 - y0);
  };
  return { width, height, frame, toX, toY, fromX, fromY };
}

function drawAxes(root, { width, height, frame, toX, toY }) {
  const [x0, x1, y0, y1] = chart.box;
  const across = ticks(x0, x1, Math.max(3, Math.floor(width / 90)));
  const up = ticks(y0, y1, Math.max(3, Math.floor(height / 60)));
  for (const x of across.found) {
    const label = chart.log ? String(+(2 ** x).toPrecision(2)) : x.toFixed(across.digits);
    root.append(svg("line", { class: "grid", x1: toX(x), x2: toX(x), y1: frame.top, y2: frame.bottom }));
    root.append(svg("text", { class: "tick", x: toX(x), y: frame.bottom + 16, "text-anchor": "middle" }, label));
  }
  for (const y of up.found) {
    root.append(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: toY(y), y2: toY(y) }));
    root.append(svg("text", { class: "tick", x: frame.left - 6, y: toY(y) + 4, "text-anchor": "end" }, y.toFixed(up.digits)));
  }
  root.append(svg("path", { class: "axis", fill: "none", d: `M${frame.left},${frame.top}V${frame.bottom}H${frame.right}` }));
  root.append(svg("text", { x: (frame.left + frame.right) / 2, y: height - 6, "text-anchor": "middle" }, "bits per pixel"));
  const title = viewOf().title + (viewOf().better === "lower" ? ", lower is better" : "");
  root.append(svg("text", { transform: `translate(13 ${(frame.top + frame.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, title));
}

function draw() {
  chart.box ??= home();
  const place = layout(), { width, height, frame } = place;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${viewOf().title} over bits per pixel` });
  drawAxes(root, place);
  const clip = svg("clipPath", { id: "clip" });
  clip.append(svg("rect", { x: frame.left, y: frame.top, width: frame.right - frame.left, height: frame.bottom - frame.top }));
  const group = svg("g", { "clip-path": "url(#clip)" });
  chart.drawn = [];
  for (const curve of visible()) {
    const places = pointsOf(curve).map((point) => ({ curve, point, x: place.toX(axisX(point.bpp)), y: place.toY(point[chart.view]) }));
    if (!places.length) continue;
    const line = svg("path", { d: "M" + places.map((p) => `${p.x.toFixed(2)},${p.y.toFixed(2)}`).join("L"), fill: "none", stroke: curve.colour, "stroke-width": curve.published ? 1.2 : 1.7, "data-curve": curve.name });
    if (curve.published) line.setAttribute("stroke-dasharray", "6 4");
    group.append(line);
    for (const p of curve.published ? [] : places) {
      group.append(svg("path", { d: MARKS[curve.marker % MARKS.length](3.4), transform: `translate(${p.x} ${p.y})`, fill: curve.colour }));
    }
    chart.drawn.push(...places);
  }
  root.append(clip, group);
  for (const curve of data.curves) chart.buttons[curve.name].disabled = !pointsOf(curve).length;
  $("chart").querySelector("svg")?.remove();
  $("chart").prepend(root);
}

function tell(x, y) {
  const { frame } = layout(), tip = $("tip");
  const inside = chart.drawn.filter((p) => p.x >= frame.left && p.x <= frame.right && p.y >= frame.top && p.y <= frame.bottom);
  const near = inside.map((p) => ({ ...p, d: Math.hypot(p.x - x, p.y - y) })).sort((a, b) => a.d - b.d)[0];
  tip.hidden = !near || near.d > 28;
  if (tip.hidden) return;
  const quality = known(near.point.quality) ? `, quality ${near.point.quality}` : "";
  tip.replaceChildren(el("b", {}, near.curve.name), quality, el("br"), `${near.point.bpp.toFixed(4)} bpp, ${viewOf().title} ${near.point[chart.view].toPrecision(5)}`);
  const wide = $("chart").clientWidth;
  tip.style.left = `${Math.max(0, Math.min(near.x + 12, wide - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, near.y - tip.offsetHeight - 10)}px`;
}

function zoom(factor, x, y) { // about a place in axis units; the middle by default
  const [x0, x1, y0, y1] = chart.box;
  const cx = x ?? (x0 + x1) / 2, cy = y ?? (y0 + y1) / 2;
  chart.box = [cx + (x0 - cx) * factor, cx + (x1 - cx) * factor, cy + (y0 - cy) * factor, cy + (y1 - cy) * factor];
  draw();
}

function whole() {
  chart.box = home();
  draw();
}

function mouse() {
  const area = $("chart");
  let start = null, band = null;
  const at = (event) => {
    const box = area.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  area.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [px, py] = at(event), { fromX, fromY } = layout();
    zoom(1.0015 ** event.deltaY, fromX(px), fromY(py));
  }, { passive: false });
  area.addEventListener("pointerdown", (event) => { start = at(event); });
  area.addEventListener("pointermove", (event) => {
    const [px, py] = at(event);
    if (!start) return tell(px, py);
    if (!band && Math.hypot(px - start[0], py - start[1]) > 5) {
      area.setPointerCapture(event.pointerId);
      band = svg("rect", { class: "band" });
      area.querySelector("svg").append(band);
    }
    if (!band) return;
    const box = { x: Math.min(px, start[0]), y: Math.min(py, start[1]), width: Math.abs(px - start[0]), height: Math.abs(py - start[1]) };
    for (const [name, value] of Object.entries(box)) band.setAttribute(name, value);
  });
  area.addEventListener("pointerup", (event) => {
    const [px, py] = at(event), { fromX, fromY } = layout();
    if (band && Math.abs(px - start[0]) > 8 && Math.abs(py - start[1]) > 8) {
      const xs = [fromX(start[0]), fromX(px)].sort((a, b) => a - b), ys = [fromY(start[1]), fromY(py)].sort((a, b) => a - b);
      chart.box = [...xs, ...ys];
      draw();
    } else if (!band) tell(px, py);
    band?.remove();
    start = band = null;
  });
  area.addEventListener("pointercancel", () => { band?.remove(); start = band = null; });
  area.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  area.addEventListener("dblclick", whole);
  $("zoom-in").onclick = () => zoom(0.7);
  $("zoom-out").onclick = () => zoom(1 / 0.7);
  $("zoom-reset").onclick = whole;
}

function swatch(curve) {
  const sign = svg("svg", { class: "swatch", width: 26, height: 12, "aria-hidden": "true" });
  const line = svg("path", { d: "M0,6H26", stroke: curve.colour, "stroke-width": 2 });
  if (curve.published) line.setAttribute("stroke-dasharray", "5 3");
  sign.append(line);
  if (!curve.published) sign.append(svg("path", { d: MARKS[curve.marker % MARKS.length](3.4), transform: "translate(13 6)", fill: curve.colour }));
  return sign;
}

function legend() {
  const more = el("details", {}, el("summary", {}, "more published curves"));
  for (const curve of data.curves) {
    const button = el("button", { type: "button", "aria-pressed": String(!chart.hidden.has(curve.name)) }, swatch(curve), curve.name);
    chart.buttons[curve.name] = button;
    button.onclick = () => {
      const hide = !chart.hidden.has(curve.name);
      chart.hidden[hide ? "add" : "delete"](curve.name);
      button.setAttribute("aria-pressed", String(!hide));
      draw();
    };
    (curve.shown ? $("legend") : more).append(button);
  }
  if (more.children.length > 1) $("legend").append(more);
}

// ---- table --------------------------------------------------------------------------------------------------

const order = { column: "bd_rate", down: false };

function metricOf() {
  return data.metrics.find((metric) => metric.name === chart.view || `${metric.name}_db` === chart.view);
}

function tableRows() {
  const metric = metricOf().name, anchor = $("anchor").value;
  return data.codecs.map((card) => ({
    ...card,
    ...data.bd.find((row) => row.codec === card.codec && row.anchor === anchor && row.metric === metric),
    codec: card.codec,
  }));
}

function columns() {
  const metric = metricOf(), unit = metric.decibels || metric.unit === "dB" ? "dB" : metric.title;
  const rough = (row) => known(row.overlap) && row.overlap < 0.75;
  return [
    { key: "codec", title: "codec", word: true, text: (row) => row.codec },
    { key: "bd_rate", title: "BD-rate, %", text: (row) => (row.codec === $("anchor").value ? "anchor" : signed(row.bd_rate, 1) + (rough(row) ? " †" : "")) },
    { key: "overlap", title: "overlap, %", text: (row) => (known(row.overlap) ? (100 * row.overlap).toFixed(0) : "–") },
    { key: "bd_quality", title: `BD-quality, ${unit}`, text: (row) => signed(row.bd_quality, unit === "dB" ? 2 : 4) },
    { key: "encode_s", title: "encode, s", text: (row) => significant(row.encode_s) },
    { key: "decode_s", title: "decode, s", text: (row) => significant(row.decode_s) },
    { key: "encode_kmac", title: "encode, kMAC/px", text: (row) => significant(row.encode_kmac) },
    { key: "decode_kmac", title: "decode, kMAC/px", text: (row) => significant(row.decode_kmac) },
    { key: "parameters", title: "parameters, M", text: (row) => (known(row.parameters) ? (row.parameters / 1e6).toFixed(2) : "–") },
    { key: "chroma", title: "chroma", word: true, text: (row) => row.chroma },
  ];
}

function fill(table, heads, rows) {
  table.tHead.replaceChildren(el("tr", {}, ...heads));
  table.tBodies[0].replaceChildren(...rows);
}

function drawTable() {
  const key = order.column, sign = order.down ? -1 : 1;
  const rows = tableRows().sort((a, b) => {
    if (known(a[key]) !== known(b[key])) return known(a[key]) ? -1 : 1; // what is missing stays below
    return sign * (typeof a[key] === "string" ? a[key].localeCompare(b[key]) : (a[key] ?? 0) - (b[key] ?? 0));
  });
  const heads = columns().map((column) => {
    const button = el("button", { type: "button" }, column.title);
    button.onclick = () => {
      order.down = order.column === column.key && !order.down;
      order.column = column.key;
      drawTable();
    };
    const head = el("th", { scope: "col", class: column.word ? "word" : "" }, button);
    if (column.key === key) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    return head;
  });
  fill($("table"), heads, rows.map((row) => el("tr", {}, ...columns().map((column) => el("td", { class: column.word ? "word" : "" }, column.text(row))))));
  const notes = [...new Set(tableRows().map((row) => row.note).filter(Boolean))];
  $("table-note").textContent =
    `BD figures in ${metricOf().title} against ${$("anchor").value}; a negative rate and a positive quality are better. ` +
    "† less than 75 % overlap: says little. Seconds are means over pictures and qualities, each codec on one thread" +
    (data.jobs > 1 ? `, measured up to ${data.jobs} at once, so only roughly comparable` : "") +
    ". kMAC/px: thousands of multiply-accumulates per pixel; an encoder’s are counted up to its last coded value." +
    (notes.length ? ` No BD figure: ${notes.join("; ")}.` : "");
}

// ---- pictures -----------------------------------------------------------------------------------------------

const ORIGINAL = "original";

function shotOf(name) {
  return name === ORIGINAL ? null : data.gallery[$("picture").value].rates[$("rate").value].shots[name];
}

function side(where) {
  const name = $(where).value, shot = shotOf(name), layer = $("layer").value, entry = data.gallery[$("picture").value];
  const caption = $(`caption-${where}`), image = $(`image-${where}`);
  image.alt = `${entry.picture}, ${name}`;
  if (!shot || shot.failed) {
    image.src = entry.original;
    caption.replaceChildren(el("b", {}, name), shot ? `: ${shot.failed}` : "");
    return;
  }
  const missing = layer === "bits" && !shot.bits;
  image.src = missing ? shot.image : shot[layer];
  const values = data.metrics.filter((metric) => known(shot[metric.name]))
    .map((metric) => `${metric.title} ${metric.unit === "dB" ? shot[metric.name].toFixed(2) : shot[metric.name].toPrecision(4)}${metric.unit ? ` ${metric.unit}` : ""}`);
  caption.replaceChildren(el("b", {}, name), ` ${shot.bpp.toFixed(3)} bpp`, el("br"), values.join(", "));
  if (missing) caption.append(el("br"), el("i", {}, "no bit map: the picture itself is shown"));
}

function drawPictures() {
  const entry = data.gallery[$("picture").value], [, , wide, tall] = entry.crop;
  const shown = wide * Number($("size").value);
  $("stage").style.width = `${shown}px`;
  $("stage").parentElement.style.width = `${Math.max(shown, 480)}px`; // room for the captions of a small picture
  $("stage").style.aspectRatio = `${wide} / ${tall}`;
  for (const where of ["left", "right"]) {
    $(`image-${where}`).style.imageRendering = $("layer").value === "bits" || $("size").value !== "1" ? "pixelated" : "auto";
    side(where);
  }
  split();
}

function split() {
  const share = Number($("slider").value);
  $("image-right").style.clipPath = `inset(0 0 0 ${share}%)`;
  $("bar").style.left = `${share}%`;
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map(([value, text]) => el("option", { value }, text)));
  select.value = chosen;
}

function rates() {
  const entry = data.gallery[$("picture").value];
  const kept = Math.min(Number($("rate").value || 0), entry.rates.length - 1);
  options($("rate"), entry.rates.map((rate, i) => [String(i), `about ${rate.bpp.toFixed(2)} bpp`]), String(kept));
}

function pictures() {
  if (!data.gallery.length) {
    $("pictures").hidden = true;
    return;
  }
  const codecs = data.codecs.map((card) => card.codec);
  const sides = [ORIGINAL, ...codecs].map((name) => [name, name]);
  options($("picture"), data.gallery.map((entry, i) => [String(i), entry.picture]), "0");
  rates();
  options($("left"), sides, codecs.length > 1 ? codecs[0] : ORIGINAL);
  options($("right"), sides, codecs.length > 1 ? codecs[1] : codecs[0]);
  $("picture").onchange = () => { rates(); drawPictures(); };
  for (const id of ["rate", "left", "right", "layer", "size"]) $(id).onchange = drawPictures;
  $("slider").oninput = split;
  $("pictures-note").textContent = data.gallery_note;
  drawPictures();
}

// ---- words --------------------------------------------------------------------------------------------------

const list = (object) => Object.entries(object).map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");

function words() {
  $("summary").textContent = data.summary;
  $("method").textContent = data.method;
  $("notes").replaceChildren(...data.notes.map((note) => el("li", {}, note)));
  if (data.left_out.length) {
    const items = data.left_out.map((one) => el("li", {}, `${one.input}: ${one.reason}`));
    $("left-out").append(el("h3", {}, "Left out"), el("ul", {}, ...items));
  }
  const head = (...names) => names.map((name) => el("th", { class: "word", scope: "col" }, name));
  const cell = (text, long) => el("td", { class: long ? "word long" : "word" }, text);
  fill($("software"), head("codec", "what it is", "versions", "weights", "arguments of the first point"),
    data.codecs.map((card) => el("tr", {}, cell(card.codec), cell(card.title, true), cell(list(card.versions), true), cell(card.weights ?? "–"), cell(list(card.arguments), true))));
  fill($("subjects"), head("picture", "size", "mode", "hash of the pixels"),
    data.pictures.map((one) => el("tr", {}, cell(one.name), cell(`${one.width} × ${one.height}`), cell(one.mode), cell(one.digest))));
}

options($("view"), data.views.map((view) => [view.name, view.title]), chart.view);
options($("anchor"), data.anchors.map((name) => [name, name]), data.anchor);
$("view").onchange = () => { chart.view = $("view").value; whole(); drawTable(); };
$("scale").onchange = () => { chart.log = $("scale").value === "log"; whole(); };
$("anchor").onchange = drawTable;
legend();
draw();
mouse();
drawTable();
pictures();
words();
let drawnWidth = $("chart").clientWidth;
new ResizeObserver(() => {
  if ($("chart").clientWidth === drawnWidth) return;
  drawnWidth = $("chart").clientWidth;
  draw();
}).observe($("chart"));
