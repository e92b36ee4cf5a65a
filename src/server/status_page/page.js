"use strict";
// Asks for what is new once a second while somebody can see the page, and draws it.

const POINTS = 300;
const byId = (id) => document.getElementById(id);

// What a plot draws: `a` as a line over an area, `b` dashed. A ratio has a fixed scale.
const PLOTS = {
  calls: { a: "calls", b: "writes", unit: "/s" },
  latency: { a: "p99_ms", b: "p50_ms", unit: " ms" },
  hits: { a: "hit_ratio", unit: " %", scale: 100, top: 100 },
  groups: { a: "group_size", unit: "" },
  syncs: { a: "sync_p99_ms", b: "sync_p50_ms", unit: " ms" },
  queue: { a: "in_flight", b: "queue", unit: "" },
};
const PERCENT = new Set(["hit_ratio"]);

let points = {}; // columns of equal length, the newest last
let next = 0; // the number of the next point
let silent = 0; // polls without an answer
let answered = 0; // when the last answer came
let timer = 0;

function number(value) {
  if (value === null || value === undefined) return "–";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 0.1 || value === 0 ? 2 : 3;
  const whole = Number.isInteger(value) && Math.abs(value) < 1e15;
  return value.toLocaleString("en", { maximumFractionDigits: whole ? 0 : digits });
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit + 1 < units.length) { value /= 1024; unit += 1; }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

function time(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

// Shows a number; the exact one stays readable for programs.
function show(element, value, text) {
  element.textContent = text;
  if (value === null || value === undefined) delete element.dataset.value;
  else element.dataset.value = value;
}

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// The next of 1, 2 or 5 times a power of ten.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999999);
}

function column(plot, name) {
  const values = points[name] || [];
  return plot.scale ? values.map((value) => (value === null ? null : value * plot.scale)) : values;
}

// A line through the points that are there; without one it is broken.
function line(values, x, y, closed) {
  let path = "";
  let from = null;
  const close = (to) => { if (closed && from !== null) path += `L${x(to)} ${y(0)}L${x(from)} ${y(0)}Z`; };
  values.forEach((value, index) => {
    if (value === null) {
      if (from !== null) close(index - 1);
      from = null;
      return;
    }
    path += `${from === null ? "M" : "L"}${x(index)} ${y(value)}`;
    // A point alone would not be seen.
    if (from === null) { from = index; if (!closed) path += "h0.01"; }
  });
  if (from !== null) close(values.length - 1);
  return path;
}

function draw(article, pointer) {
  const plot = PLOTS[article.dataset.plot];
  const picture = article.querySelector("svg");
  const { width, height } = picture.getBoundingClientRect();
  if (!width) return;
  const [left, right, top, bottom] = [1, width - 1, 8, height - 16];
  const a = column(plot, plot.a);
  const b = plot.b ? column(plot, plot.b) : [];
  const largest = Math.max(0, ...a, ...b);
  const most = plot.top || roundUp(largest);
  const round = (value) => Math.round(value * 10) / 10;
  // The newest point is at the right edge; a server that has just begun has a shorter past.
  const span = [60, 120, POINTS].find((points) => points >= a.length);
  const x = (index) => round(right - ((a.length - 1 - index) / (span - 1)) * (right - left));
  const y = (value) => round(bottom - (Math.min(value, most) / most) * (bottom - top));
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [0, 0.5, 1].map((part) => svg("line", { class: "grid", x1: left, x2: right, y1: y(most * part), y2: y(most * part) }));
  if (a.length) {
    parts.push(svg("path", { class: "area", d: line(a, x, y, true) }));
    if (plot.b) parts.push(svg("path", { class: "b", d: line(b, x, y, false) }));
    parts.push(svg("path", { class: "a", d: line(a, x, y, false) }));
  }
  if (pointer === undefined) {
    parts.push(svg("text", { class: "axis", x: left, y: top + 11 }, `${number(most)}${plot.unit}`));
  }
  parts.push(svg("text", { class: "axis", x: left, y: height - 3 }, span < 120 ? `${span} s ago` : `${span / 60} min ago`));
  parts.push(svg("text", { class: "axis", x: right, y: height - 3, "text-anchor": "end" }, "now"));
  if (pointer !== undefined && a.length) {
    const back = Math.round(((right - pointer) / (right - left)) * (span - 1));
    const index = a.length - 1 - Math.max(0, back);
    if (index >= 0) {
      const told = [a[index], ...(plot.b ? [b[index]] : [])].map(number).join(" · ");
      const end = x(index) > width / 2 ? "end" : "start";
      parts.push(svg("line", { class: "cursor", x1: x(index), x2: x(index), y1: top, y2: bottom }));
      parts.push(svg("text", { class: "told", x: x(index) + (end === "end" ? -5 : 5), y: top + 12, "text-anchor": end },
        `${told}${plot.unit}, ${time(Math.max(0, back))} ago`));
    }
  }
  picture.replaceChildren(...parts);
  const known = a.filter((value) => value !== null);
  const name = article.querySelector("h2").textContent;
  picture.setAttribute("aria-label", known.length
    ? `${name} over the last five minutes: now ${number(known.at(-1))}${plot.unit}, at most ${number(Math.max(...known))}${plot.unit}`
    : `${name} over the last five minutes: nothing yet`);
}

// Fills a table: a list of cells for each row, each a text or [text, class, exact value].
function fill(id, rows, none) {
  const body = byId(id).tBodies[0];
  const columns = byId(id).tHead.rows[0].cells.length;
  const made = rows.map((cells) => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const [text, name, value] = Array.isArray(cell) ? cell : [cell];
      const data = document.createElement("td");
      data.textContent = text;
      if (name) data.className = name;
      if (value !== undefined && value !== null) data.dataset.value = value;
      row.append(data);
    }
    row.cells[0].title = row.cells[0].textContent;
    return row;
  });
  if (!made.length) {
    const row = document.createElement("tr");
    const data = document.createElement("td");
    [data.textContent, data.className, data.colSpan] = [none, "none", columns];
    row.append(data);
    made.push(row);
  }
  body.replaceChildren(...made);
}

function take(answer) {
  const fresh = answer.points;
  const count = fresh.t.length;
  // After a restart, or a long time asleep, everything comes anew.
  const anew = answer.first !== next;
  for (const name of Object.keys(fresh)) {
    points[name] = (anew ? [] : points[name] || []).concat(fresh[name]).slice(-POINTS);
  }
  next = answer.first + count;

  const { server, now, totals, hot } = answer;
  byId("state").dataset.state = server.state;
  byId("state").textContent = server.state;
  byId("version").textContent = server.version;
  byId("engine").textContent = server.engine;
  byId("uptime").textContent = time(server.uptime_seconds);
  document.title = `profilestore: ${number(now.calls)} calls/s`;
  for (const element of document.querySelectorAll("[data-now]")) {
    const value = now[element.dataset.now];
    show(element, value, number(PERCENT.has(element.dataset.now) && value !== null ? value * 100 : value));
  }
  for (const element of document.querySelectorAll("[data-total]")) {
    const value = totals[element.dataset.total];
    show(element, value, element.dataset.unit === "bytes" ? bytes(value) : number(value));
  }
  document.querySelectorAll(".seconds-now").forEach((each) => { each.textContent = Math.round(now.seconds); });
  document.querySelectorAll(".seconds-hot").forEach((each) => { each.textContent = Math.round(hot.seconds); });
  byId("masked").hidden = !hot.masked;

  fill("methods", answer.methods.map((of) => [
    of.method, [number(of.calls), "", of.calls], [number(of.errors), of.server_errors > 0 ? "bad" : "", of.errors],
    number(of.p50_ms), number(of.p99_ms)]),
    answer.counts_calls ? "No calls." : "Calls are not counted: observe.metrics is off.");
  fill("slow", answer.slow.map((of) => [
    of.method, [of.code, of.server_error ? "bad" : ""], [number(of.ms), "", of.ms], of.source || "–",
    of.seconds_ago < 90 ? `${of.seconds_ago} s` : `${Math.round(of.seconds_ago / 60)} min`]), "No calls.");
  const hotRows = (keys) => keys.map((of) => [of.key, [number(of.per_second), "", of.per_second], [number(of.reads), "", of.reads]]);
  fill("ids", hotRows(hot.ids), "Nothing was read.");
  fill("domains", hotRows(hot.domains), "No domain was queried.");
  redraw();
}

function redraw() {
  document.querySelectorAll(".plot").forEach((article) => draw(article, article.pointer));
}

function tellAge() {
  const seconds = answered ? (performance.now() - answered) / 1000 : 0;
  byId("updated").textContent = answered ? (seconds < 2.5 ? "now" : `${time(seconds)} ago`) : "–";
  byId("notice").hidden = silent < 3;
  if (silent >= 3) {
    byId("notice").textContent = "The server does not answer; what is shown is old.";
    [byId("state").textContent, byId("state").dataset.state] = ["no answer", "silent"];
  }
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const answer = await fetch(`status.json?after=${next}`, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    take(await answer.json());
    [silent, answered] = [0, performance.now()];
  } catch {
    silent += 1;
  }
  tellAge();
  timer = setTimeout(poll, Math.min(1000 * Math.max(1, silent), 5000));
}

for (const article of document.querySelectorAll(".plot")) {
  const picture = article.querySelector("svg");
  const move = (event) => {
    article.pointer = event.clientX - picture.getBoundingClientRect().left;
    draw(article, article.pointer);
  };
  picture.addEventListener("pointermove", move);
  picture.addEventListener("pointerdown", move);
  picture.addEventListener("pointerleave", () => { article.pointer = undefined; draw(article); });
}
new ResizeObserver(redraw).observe(document.querySelector(".plots"));
document.addEventListener("visibilitychange", poll);
poll();
