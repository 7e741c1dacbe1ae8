// Line charts as SVG, drawn at their displayed size, controlled by pointer and arrow keys.

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { right: 18, bottom: 42 };

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function html(name, className, parent, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function pathOf(series, xs, x, y) {
  let path = "";
  let previous = null;
  series.values.forEach((value, i) => {
    if (value === null) {
      if (!series.join) previous = null;
      return;
    }
    const [px, py] = [x.at(xs[i]).toFixed(1), y.at(value).toFixed(1)];
    if (previous === null) path += `M${px} ${py}`;
    else path += series.step ? `V${py}H${px}` : `L${px} ${py}`;
    previous = value;
  });
  return path;
}

function valueAt(series, at, join) {
  for (let i = at; i >= 0; i--) {
    if (series.values[i] !== null) return series.values[i];
    if (!join) break;
  }
  return null;
}

// The name of the y axis is written above it: rotated, it would overlap wide ticks or be cut off.
function drawAxes(svg, spec, frame, x, y, width, height) {
  const [left, bottom] = [frame.left, height - EDGE.bottom];
  for (const tick of y.ticks) {
    const kind = spec.y.zero && tick === 0 ? "grid zero" : "grid";
    element("line", { class: kind, x1: left, x2: width - EDGE.right, y1: y.at(tick), y2: y.at(tick) }, svg);
    element("text", { class: "tick", x: left - 8, y: y.at(tick) + 4, "text-anchor": "end" }, svg, TICKS[spec.y.format](tick));
  }
  for (const tick of x.ticks) {
    element("line", { class: "axis", x1: x.at(tick), x2: x.at(tick), y1: bottom, y2: bottom + 5 }, svg);
    const text = element("text", { class: "tick", x: x.at(tick), y: bottom + 19, "text-anchor": "middle" }, svg, TICKS[spec.x.format](tick));
    text.setAttribute("x", Math.min(x.at(tick), width - text.getComputedTextLength() / 2));
  }
  element("line", { class: "axis", x1: left, x2: width - EDGE.right, y1: bottom, y2: bottom }, svg);
  element("text", { class: "name", x: (left + width - EDGE.right) / 2, y: height - 5, "text-anchor": "middle" }, svg, spec.x.name);
  element("text", { class: "name", x: 0, y: 12 }, svg, spec.y.name);
}

function drawMark(svg, mark, frame, x, y, width, height) {
  const px = x.at(mark.x);
  const beyond = px > (frame.left + width) / 2;
  if (mark.y === undefined) {
    element("line", { class: `mark ${mark.style}`, x1: px, x2: px, y1: frame.top, y2: height - EDGE.bottom }, svg);
    // Above the plot, where there is no curve.
    const edge = { class: "label", x: px, y: frame.top - 6, "text-anchor": beyond ? "end" : "start" };
    if (mark.label) element("text", edge, svg, mark.label);
    return;
  }
  const py = y.at(mark.y);
  if (mark.style !== "fall") {
    element("circle", { class: `mark ${mark.style}`, cx: px, cy: py, r: 5 }, svg);
    return;
  }
  // A falling staircase leaves room above and before each step. A label that would overlap is dropped.
  const place = beyond ? { x: px - 8, y: py + 4, "text-anchor": "end" } : { x: px + 6, y: py - 6 };
  const text = element("text", { class: "label fall", ...place }, svg, mark.label);
  const near = (other) => {
    const [a, b] = [text.getBBox(), other.getBBox()];
    return other !== text && a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
  };
  if ([...svg.querySelectorAll(".label.fall")].some(near)) text.remove();
}

// The space for the labels of the ticks and for the text above the plot.
function frameOf(svg, spec, y) {
  const texts = y.ticks.map((tick) => element("text", { class: "tick" }, svg, TICKS[spec.y.format](tick)));
  const widest = Math.max(0, ...texts.map((text) => text.getComputedTextLength()));
  for (const text of texts) text.remove();
  return { left: Math.ceil(Math.max(28, widest + 12)), top: topOf(spec) };
}

const topOf = (spec) => (spec.marks.some((m) => m.y === undefined && m.label) ? 42 : 26);

function draw(box, spec) {
  const width = Math.max(240, box.clientWidth);
  const height = Math.round(Math.min(340, Math.max(240, width * 0.56)));
  const svg = document.createElementNS(SVG, "svg");
  for (const [k, v] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" })) svg.setAttribute(k, v);
  box.replaceChildren(svg); // text has a size only once it is displayed
  const shown = spec.series.filter((s) => !s.loose).flatMap((s) => finite(s.values));
  const y = scale(spec.y, padded(spec.y, shown), height - EDGE.bottom, topOf(spec), 5);
  const frame = frameOf(svg, spec, y);
  const x = scale(spec.x, finite(spec.x.values), frame.left + 4, width - EDGE.right, Math.max(3, Math.floor(width / 90)));
  drawAxes(svg, spec, frame, x, y, width, height);
  for (const mark of spec.marks.filter((m) => m.y === undefined)) drawMark(svg, mark, frame, x, y, width, height);
  for (const series of spec.series) {
    if (series.dots) {
      series.values.forEach((v, i) => {
        if (v !== null) element("circle", { class: `dot ${series.style}`, cx: x.at(spec.x.values[i]), cy: Math.max(frame.top, Math.min(height - EDGE.bottom, y.at(v))), r: 1.8 }, svg);
      });
    } else element("path", { class: `line ${series.style}`, d: pathOf(series, spec.x.values, x, y) }, svg);
    if (finite(series.values).length === 1) {
      const i = series.values.findIndex((v) => v !== null);
      element("circle", { class: `dot ${series.style}`, cx: x.at(spec.x.values[i]), cy: y.at(series.values[i]), r: 4 }, svg);
    }
  }
  for (const mark of spec.marks.filter((m) => m.y !== undefined)) drawMark(svg, mark, frame, x, y, width, height);
  const cursor = element("g", { class: "cursor" }, svg);
  return { x, y, height, cursor, top: frame.top };
}

function chart(box, spec) {
  const say = FORMATS[spec.y.format];
  const readout = html("p", "readout", box);
  const where = html("span", "where", readout);
  const shown = spec.series;
  const last = spec.x.values.length - 1;
  const values = shown.map((series) => {
    const key = html("span", "key", readout);
    const swatch = element("svg", { width: 26, height: 10, "aria-hidden": "true" }, key);
    if (series.dots) element("circle", { class: `dot ${series.style}`, cx: 13, cy: 5, r: 2.5 }, swatch);
    else element("line", { class: `line ${series.style}`, x1: 0, x2: 26, y1: 5, y2: 5 }, swatch);
    key.append(` ${series.name} `);
    return html("b", "value", key);
  });
  const plot = html("div", "plot", box);
  plot.tabIndex = 0;
  const facts = { role: "slider", "aria-label": spec.label, "aria-valuemin": 0, "aria-valuemax": last };
  for (const [key, value] of Object.entries(facts)) plot.setAttribute(key, value);
  let drawn = null;
  let at = spec.rest ?? last;

  // `ended`: show the last value of each series, for series that end at different x.
  function point(index, active, ended) {
    at = Math.max(0, Math.min(last, index));
    const place = `${spec.x.short} ${FORMATS[spec.x.format](spec.x.values[at])}`;
    where.textContent = ended ? "at the end" : place;
    const words = shown.map((series, i) => {
      const found = valueAt(series, at, ended || series.join);
      values[i].textContent = found === null ? "–" : say(found);
      return `${series.name} ${values[i].textContent}`;
    });
    plot.setAttribute("aria-valuenow", at);
    plot.setAttribute("aria-valuetext", `${where.textContent}: ${words.join(", ")}`);
    drawn.cursor.replaceChildren();
    if (!active) return;
    const px = drawn.x.at(spec.x.values[at]);
    element("line", { x1: px, x2: px, y1: drawn.top, y2: drawn.height - EDGE.bottom }, drawn.cursor);
    for (const series of shown.filter((s) => !s.dots)) {
      const found = valueAt(series, at, series.join);
      if (found !== null) element("circle", { class: `dot ${series.style}`, cx: px, cy: drawn.y.at(found), r: 4 }, drawn.cursor);
    }
  }

  function rest() {
    point(spec.rest ?? last, false, spec.rest === null);
  }

  function nearest(event) {
    const px = event.clientX - plot.getBoundingClientRect().left;
    const gaps = spec.x.values.map((v) => Math.abs(drawn.x.at(v) - px));
    return gaps.indexOf(Math.min(...gaps));
  }

  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
  plot.addEventListener("keydown", (event) => {
    const goal = { Home: 0, End: last }[event.key];
    if (goal === undefined && !(event.key in steps)) return;
    event.preventDefault();
    point(goal ?? at + steps[event.key], true);
  });
  for (const kind of ["pointermove", "pointerdown"]) plot.addEventListener(kind, (event) => point(nearest(event), true));
  plot.addEventListener("pointerleave", rest);
  plot.addEventListener("focus", () => plot.matches(":focus-visible") && point(at, true));
  plot.addEventListener("blur", rest);
  let width = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    drawn = draw(plot, spec);
    rest();
  }).observe(plot);
  drawn = draw(plot, spec);
  rest();
}
