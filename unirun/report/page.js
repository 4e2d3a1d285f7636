// The timeline. Text from the trace reaches the page by textContent and the canvas only.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  for (const table of document.querySelectorAll("table")) makeSortable(table);
  const view = document.getElementById("view");
  if (!view) { root.dataset.ready = "1"; return; }

  const calls = data.calls, many = calls.start ? calls.start.length : 0;
  const canvas = document.getElementById("canvas"), pen = canvas.getContext("2d");
  const tip = document.getElementById("tip"), range = document.getElementById("range");
  const find = document.getElementById("find");
  const AXIS = 22, ROW = 18, GAP = 5, LABEL = 150;
  const colors = ["#4477c8", "#d98a29", "#3f9a73", "#9a62b8", "#c75f7f", "#7a8a2c", "#2f97ad", "#a9744f"];
  const OTHER = "#8a8f99";

  // -- rows: the calls of one level of one lane, sorted by start, never overlapping --------------
  const rows = [], laneTop = [];
  for (let i = 0; i < many; i++) {
    const last = rows[rows.length - 1];
    if (!last || last.lane !== calls.lane[i] || last.level !== calls.level[i]) {
      rows.push({ lane: calls.lane[i], level: calls.level[i], first: i, end: i + 1, top: 0 });
    } else last.end = i + 1;
  }
  let bottom = AXIS, lane = -1;
  for (const row of rows) {
    if (row.lane !== lane) { bottom += GAP; lane = row.lane; laneTop[lane] = bottom; }
    row.top = bottom;
    bottom += ROW;
  }
  const height = bottom + GAP;
  const byCall = new Map();
  for (let i = 0; i < many; i++) byCall.set(calls.number[i], i);

  // -- what is seen ------------------------------------------------------------------------------
  const whole = Math.max(1, data.span);
  let left = -whole * 0.01, right = whole * 1.01, hot = -1, chosen = "", waiting = false;
  let width = 0, shown = 0, theme = {};

  const x = (tick) => LABEL + (tick - left) / (right - left) * (width - LABEL);
  const tickAt = (px) => left + (px - LABEL) / (width - LABEL) * (right - left);

  function time(ticks) {
    const us = ticks / 10;
    const [value, unit] = us >= 1.2e8 ? [us / 6e7, "min"] : us >= 1e6 ? [us / 1e6, "s"]
      : us >= 1e3 ? [us / 1e3, "ms"] : [us, "us"];
    return `${+value.toPrecision(value >= 100 ? Math.ceil(Math.log10(value + 1)) : 3)} ${unit}`;
  }

  function size(bytes) {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    let n = 0;
    while (bytes >= 1000 && n < units.length - 1) { bytes /= 1000; n++; }
    return `${+bytes.toPrecision(3)} ${units[n]}`;
  }

  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  function readTheme() {
    const style = getComputedStyle(root);
    for (const name of ["card", "text", "soft", "line", "grid", "bad", "accent", "wait"]) {
      theme[name] = style.getPropertyValue("--" + name).trim();
    }
  }

  function resize() {
    const scale = window.devicePixelRatio || 1;
    const most = Math.floor(window.innerHeight * 0.7);
    const tall = Math.min(height, most);
    width = view.clientWidth;
    document.getElementById("tall").style.height = height + "px";
    view.style.height = tall + "px";
    canvas.style.height = tall + "px";
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(tall * scale);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    readTheme();
    draw();  // at once: setting its size has emptied the canvas
  }

  function color(name) { return name < colors.length ? colors[name] : OTHER; }

  // The first call of the row that ends after that tick.
  function firstAfter(row, tick) {
    let low = row.first, high = row.end;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (calls.start[middle] + calls.took[middle] <= tick) low = middle + 1; else high = middle;
    }
    return low;
  }

  function draw() {
    const down = view.scrollTop, tall = canvas.clientHeight;
    shown = 0;
    pen.fillStyle = theme.card;
    pen.fillRect(0, 0, width, tall);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    drawGrid(tall);
    for (const row of rows) {
      const top = row.top - down;
      if (top + ROW >= AXIS && top <= tall) drawRow(row, top);
    }
    drawMarks(down, tall);
    if (hot >= 0) drawTies(hot, down);
    drawLabels(down, tall);
    drawAxis();
    range.value = `${time(Math.max(0, left))} to ${time(Math.max(0, right))}`;
    canvas.dataset.drawn = shown;
    canvas.dataset.left = left;
    canvas.dataset.right = right;
  }

  function steps() {
    const about = (right - left) / Math.max(2, (width - LABEL) / 110);
    const power = Math.pow(10, Math.floor(Math.log10(about)));
    return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= about);
  }

  function drawGrid(tall) {
    const step = steps();
    pen.fillStyle = theme.grid;
    for (let tick = Math.ceil(left / step) * step; tick < right; tick += step) {
      pen.fillRect(Math.round(x(tick)), AXIS, 1, tall);
    }
  }

  function drawAxis() {
    pen.fillStyle = theme.card;
    pen.fillRect(0, 0, width, AXIS);
    pen.fillStyle = theme.line;
    pen.fillRect(0, AXIS - 1, width, 1);
    pen.fillStyle = theme.soft;
    pen.textAlign = "center";
    const step = steps();
    for (let n = Math.ceil(left / step); n * step < right; n++) {
      const at = x(n * step);
      if (n >= 0 && at > LABEL + 20 && at < width - 20) pen.fillText(n ? time(n * step) : "0", at, AXIS / 2);
    }
    pen.textAlign = "left";
  }

  function isDim(name) { return chosen && !data.names[name].toLowerCase().includes(chosen); }

  function drawRow(row, top) {
    const floor = tickAt(LABEL), slot = ROW - 2;
    let painted = LABEL - 1;  // so many pixels of this row are full already
    for (let i = firstAfter(row, floor); i < row.end && calls.start[i] < right; i++) {
      const from = Math.max(LABEL, x(calls.start[i]));
      const to = x(calls.start[i] + calls.took[i]);
      const failed = calls.state[i] !== 0;
      if (to <= painted && !failed) continue;  // nothing of it would be seen
      shown++;
      const wide = Math.max(1, Math.min(to, width) - from);
      pen.globalAlpha = isDim(calls.name[i]) ? 0.15 : 1;
      pen.fillStyle = failed ? theme.bad : color(calls.name[i]);
      pen.fillRect(from, top, wide > 3 ? wide - 1 : wide, slot);
      if (i === hot) {
        pen.strokeStyle = theme.text;
        pen.lineWidth = 2;
        pen.strokeRect(from, top, Math.max(2, wide - 1), slot);
      }
      if (wide > 34) drawName(data.names[calls.name[i]], from, top, wide);
      painted = Math.max(painted, Math.ceil(Math.max(to, from + 1)));
    }
    pen.globalAlpha = 1;
  }

  function drawName(name, from, top, wide) {
    const last = name.split(/[.:]/).pop() || name;
    const letters = Math.floor((wide - 8) / 6.2);
    pen.fillStyle = "#ffffff";
    pen.fillText(last.length > letters ? last.slice(0, Math.max(1, letters - 1)) + "…" : last, from + 5, top + ROW / 2);
  }

  function drawMarks(down, tall) {
    for (const mark of data.marks) {
      if (mark.kind === "worker_started" || mark.kind === "worker_ended") continue;
      const at = x(mark.at), top = laneTop[mark.lane] - down;
      if (at < LABEL || at > width || top === undefined || top < AXIS - ROW || top > tall) continue;
      pen.fillStyle = theme.bad;
      pen.beginPath();
      pen.moveTo(at, top + 5);
      pen.lineTo(at - 4, top - 3);
      pen.lineTo(at + 4, top - 3);
      pen.fill();
    }
  }

  // How long it waited, and where it was submitted from.
  function drawTies(i, down) {
    const row = rows.find((each) => i >= each.first && i < each.end);
    const middle = row.top - down + ROW / 2, from = x(calls.start[i]);
    pen.strokeStyle = theme.soft;
    pen.lineWidth = 1.5;
    pen.setLineDash([4, 3]);
    pen.beginPath();
    const parent = byCall.get(calls.parent[i]);
    const submitted = x(calls.start[i] - calls.wait[i]);
    if (calls.parent[i] && parent !== undefined) {
      const above = rows.find((each) => parent >= each.first && parent < each.end);
      pen.moveTo(submitted, above.top - down + ROW / 2);
      pen.lineTo(submitted, middle);
    } else pen.moveTo(submitted, middle);
    pen.lineTo(from, middle);
    pen.stroke();
    pen.setLineDash([]);
    pen.fillStyle = theme.soft;
    pen.fillRect(submitted - 1, middle - 5, 2, 10);
  }

  function drawLabels(down, tall) {
    pen.fillStyle = theme.card;
    pen.fillRect(0, AXIS, LABEL, tall);
    pen.fillStyle = theme.line;
    pen.fillRect(LABEL - 1, AXIS, 1, tall);
    data.lanes.forEach((lane, n) => {
      const top = laneTop[n] - down;
      if (!(top > AXIS - ROW && top < tall)) return;
      pen.fillStyle = theme.text;
      const said = lane.name.length > 23 ? lane.name.slice(0, 22) + "…" : lane.name;
      pen.fillText(said, 6, top + ROW / 2);
    });
  }

  // -- what the reader does ----------------------------------------------------------------------
  function show(from, to) {
    const least = 20, span = Math.min(Math.max(to - from, least), whole * 1.5);
    const middle = (from + to) / 2;
    left = Math.max(-whole * 0.25, middle - span / 2);
    right = Math.min(whole * 1.25, left + span);
    left = Math.max(-whole * 0.25, right - span);
    redraw();
  }

  function zoom(by, at) {
    const tick = at === undefined ? (left + right) / 2 : tickAt(Math.max(LABEL, at));
    show(tick - (tick - left) * by, tick + (right - tick) * by);
  }

  function showAll() { show(-whole * 0.01, whole * 1.01); }
  function move(by) { const span = right - left; show(left + by * span, right + by * span); }

  function callAt(px, py) {
    if (px < LABEL || py < AXIS) return -1;
    const y = py + view.scrollTop;
    const row = rows.find((each) => y >= each.top && y < each.top + ROW);
    if (!row) return -1;
    const slack = (right - left) / (width - LABEL) * 2;
    const tick = tickAt(px), i = firstAfter(row, tick - slack);
    return i < row.end && calls.start[i] <= tick + slack ? i : -1;
  }

  function tell(i, px, py) {
    if (i < 0) { tip.hidden = true; return; }
    tip.replaceChildren();
    const put = (tag, text, kind, into) => {
      const element = document.createElement(tag);
      element.textContent = text;
      if (kind) element.className = kind;
      (into || tip).append(element);
    };
    put("b", data.names[calls.name[i]]);
    const failed = calls.state[i] !== 0, error = data.errors[calls.error[i]];
    const list = document.createElement("dl");
    const row = (name, value, kind) => { put("dt", name, "", list); put("dd", value, kind, list); };
    row("call", `${calls.number[i]}${calls.attempt[i] > 1 ? `, attempt ${calls.attempt[i]}` : ""}`);
    row("took", time(calls.took[i]));
    row("began at", time(calls.start[i]));
    row("waited", time(calls.wait[i]));
    if (failed) row("ended", [data.states[calls.state[i]], error].filter(Boolean).join(": "), "bad");
    if (calls.cpu[i] >= 0) row("CPU", time(calls.cpu[i]));
    if (calls.pickling[i] > 0) row("pickling", time(calls.pickling[i]));
    if (calls.in[i] || calls.out[i]) row("in, out", `${size(calls.in[i])}, ${size(calls.out[i])}`);
    if (calls.parent[i]) row("submitted by", `call ${calls.parent[i]}`);
    row("worker", data.lanes[calls.lane[i]].name);
    tip.append(list);
    tip.hidden = false;
    tip.style.left = Math.max(4, Math.min(px + 14, window.innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(py + 14, window.innerHeight - tip.offsetHeight - 8)) + "px";
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { at: event.offsetX, left, right };
    canvas.setPointerCapture(event.pointerId);
    view.classList.add("dragged");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      const by = (drag.at - event.offsetX) / (width - LABEL) * (drag.right - drag.left);
      show(drag.left + by, drag.right + by);
      return;
    }
    const now = callAt(event.offsetX, event.offsetY);
    if (now !== hot) { hot = now; redraw(); }
    tell(hot, event.clientX, event.clientY);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { drag = null; view.classList.remove("dragged"); });
  }
  canvas.addEventListener("pointerleave", () => { hot = -1; tip.hidden = true; redraw(); });
  canvas.addEventListener("dblclick", showAll);
  view.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(Math.exp(event.deltaY * 0.002), event.offsetX);
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      move((event.deltaX || event.deltaY) / width);
    }
  }, { passive: false });
  view.addEventListener("scroll", redraw);
  view.addEventListener("keydown", (event) => {
    const act = {
      "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": showAll,
      ArrowLeft: () => move(-0.15), ArrowRight: () => move(0.15),
    }[event.key];
    if (act && !event.ctrlKey && !event.metaKey) { act(); event.preventDefault(); }
  });
  const actions = { in: () => zoom(0.5), out: () => zoom(2), all: showAll };
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", actions[button.dataset.do]);
  }
  find.addEventListener("input", () => { chosen = find.value.toLowerCase(); redraw(); });
  document.getElementById("load").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * whole;
    show(at - whole * 0.05, at + whole * 0.05);
  });

  // From the table of the slowest calls to their place.
  for (const row of document.querySelectorAll("tr[data-call]")) {
    row.classList.add("linked");
    row.addEventListener("click", () => {
      let i = -1;
      for (let n = 0; n < many && i < 0; n++) {
        if (calls.number[n] === +row.dataset.call && calls.attempt[n] === +row.dataset.attempt) i = n;
      }
      if (i < 0) return;
      const span = Math.max(calls.took[i] * 1.4, whole * 0.001);
      const middle = calls.start[i] + calls.took[i] / 2;
      show(middle - span / 2, middle + span / 2);
      view.scrollTop = laneTop[calls.lane[i]] - 60;
      hot = i;
      view.scrollIntoView({ block: "center" });
    });
  }

  const legend = document.getElementById("legend");
  data.names.slice(0, colors.length).forEach((name, n) => addToLegend(colors[n], name));
  if (data.names.length > colors.length) addToLegend(OTHER, `${data.names.length - colors.length} other tasks`);
  if (data.states.length > 1) addToLegend("", "did not return: " + data.states.slice(1).join(", "));
  if (data.left_out) addToLegend(OTHER, `${data.left_out} short calls are not drawn`);

  function addToLegend(shade, said) {
    const item = document.createElement("li"), ns = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(ns, "svg"), box = document.createElementNS(ns, "rect");
    svg.setAttribute("viewBox", "0 0 10 10");
    for (const side of ["width", "height"]) box.setAttribute(side, "10");
    box.setAttribute("rx", "2");
    box.setAttribute("fill", shade || "var(--bad)");
    svg.append(box);
    item.append(svg, said);
    legend.append(item);
  }

  function makeSortable(table) {
    table.classList.add("sortable");
    [...table.tHead.rows[0].cells].forEach((head, n) => head.addEventListener("click", () => {
      const body = table.tBodies[0], down = !head.classList.contains("down");
      const value = (row) => {
        const cell = row.cells[n], number = cell.dataset.value;
        return number === undefined ? cell.textContent : +number;
      };
      const compare = (a, b) => {
        const [one, two] = [value(a), value(b)];
        return typeof one === "number" && typeof two === "number"
          ? one - two : String(two).localeCompare(String(one));
      };
      const sum = [...body.rows].filter((row) => row.classList.contains("whole"));
      const others = [...body.rows].filter((row) => !row.classList.contains("whole"));
      others.sort((a, b) => down ? compare(b, a) : compare(a, b));
      body.append(...others, ...sum);
      for (const each of table.tHead.rows[0].cells) each.classList.remove("up", "down");
      head.classList.add(down ? "down" : "up");
    }));
  }

  root.classList.add("scripted");
  view.hidden = false;
  document.querySelector(".tools").hidden = false;
  window.addEventListener("resize", resize);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", resize);
  resize();
  root.dataset.calls = many;
  root.dataset.ready = "1";
})();
