"use strict";
// The page is complete without this script. It adds words at the points of the plots, tables that sort and fold, and two
// rows side by side. It loads nothing: the page's policy allows this text alone, by its hash.
(() => {
  const make = (tag, properties = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...inside);
    return element;
  };
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const ofRow = (name) => all("[data-row]").filter((each) => each.dataset.row === name);

  // ---- plots: what the point nearest to the pointer is, or the one with the focus
  const tip = make("div", { id: "tip", hidden: true, ariaHidden: "true" });
  document.body.append(tip);
  let shown = null;
  const centre = (point) => {
    const box = point.querySelector("use").getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const mark = (name, on) => ofRow(name).forEach((each) => each.classList.toggle("pointed", on));
  const hide = () => {
    if (shown) mark(shown.dataset.row, false);
    shown = null;
    tip.hidden = true;
  };
  const show = (point) => {
    if (point === shown) return;
    hide();
    shown = point;
    const [first, ...others] = point.getAttribute("aria-label").split("\n");
    tip.replaceChildren(make("b", {}, first), ...others.map((line) => make("div", {}, line)));
    tip.hidden = false;
    const [x, y] = centre(point);
    const left = Math.min(Math.max(8, x + 14), document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = y - tip.offsetHeight - 14;
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${(above > 4 ? above : y + 14) + scrollY}px`;
    mark(point.dataset.row, true);
  };
  const NEAR = 18; // pixels
  for (const svg of all("svg")) {
    const points = all(".point", svg).sort((one, other) => centre(one)[0] - centre(other)[0]);
    if (!points.length) continue;
    const nearest = (event) => {
      let best = null, least = NEAR;
      for (const point of points) {
        const [x, y] = centre(point);
        const distance = Math.hypot(x - event.clientX, y - event.clientY);
        if (distance < least) [best, least] = [point, distance];
      }
      return best;
    };
    for (const point of points) {
      point.querySelector("title").remove(); // else the browser shows its own words over these
      point.setAttribute("tabindex", point === points[0] ? "0" : "-1"); // the arrows go from one to the next
      point.addEventListener("focus", () => show(point));
      point.addEventListener("blur", hide);
    }
    svg.addEventListener("pointermove", (event) => {
      const point = nearest(event);
      svg.style.cursor = point ? "pointer" : "";
      if (point) show(point);
      else if (document.activeElement !== shown) hide();
    });
    svg.addEventListener("pointerleave", () => { if (document.activeElement !== shown) hide(); });
    svg.addEventListener("click", (event) => {
      const point = nearest(event);
      if (point) choose(point.dataset.row);
    });
    svg.addEventListener("keydown", (event) => {
      const at = points.indexOf(document.activeElement);
      const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: points.length - 1 };
      if (at < 0) return;
      if (event.key === "Enter" || event.key === " ") choose(points[at].dataset.row);
      else if (event.key in steps) {
        const next = points[Math.min(Math.max(steps[event.key], 0), points.length - 1)];
        points.forEach((point) => point.setAttribute("tabindex", point === next ? "0" : "-1"));
        next.focus();
      } else return;
      event.preventDefault();
    });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // ---- tables: sorted by a click on a heading, once up, once down, once back; long ones folded
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!cell || row.querySelector("td[colspan]")) return null; // a row without numbers goes last
    const text = cell.dataset.v ?? cell.textContent.trim();
    if (text === "" || text === "–" || text === "-") return null;
    const plain = text.replace(/(\d),(?=\d{3})/g, "$1"); // thousands
    return /^[-+]?\d*\.?\d+(e[-+]?\d+)?( ?%)?$/i.test(plain) ? parseFloat(plain) : text;
  };
  const compare = (one, other) => typeof one === "number" && typeof other === "number"
    ? one - other : String(one).localeCompare(String(other), undefined, { numeric: true });
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0], rows = [...body.rows], headings = [...table.tHead.rows[0].cells];
    const most = Number(table.dataset.fold) || Infinity;
    let open = rows.length <= most + 3;
    const fold = () => [...body.rows].forEach((row, place) =>
      row.classList.toggle("folded", !open && place >= most && !row.matches(".best, .reference, [data-front], .chosen")));
    if (!open) {
      const button = make("button", { type: "button", className: "fold" });
      const say = () => {
        button.setAttribute("aria-expanded", String(open));
        button.textContent = open ? "Show fewer rows" : `Show all ${rows.length} rows`;
      };
      button.addEventListener("click", () => { open = !open; fold(); say(); });
      table.parentElement.after(button);
      say();
    }
    table.addEventListener("fold", fold);
    fold();
    headings.forEach((heading, column) => {
      if (!heading.textContent.trim()) return;
      const button = make("button", { type: "button", className: "sort" }, ...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const turn = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
        headings.forEach((each) => each.removeAttribute("aria-sort"));
        const direction = turn === undefined ? "ascending" : turn;
        let order = rows;
        if (direction) {
          heading.setAttribute("aria-sort", direction);
          const keys = new Map(rows.map((row) => [row, key(row, column)]));
          const sign = direction === "ascending" ? 1 : -1;
          order = [...rows].sort((one, other) => {
            const [a, b] = [keys.get(one), keys.get(other)];
            return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
          });
        }
        body.append(...order);
        fold();
      });
    });
  }

  // ---- two rows side by side
  const table = document.getElementById("rows-table");
  if (!table) return;
  const data = JSON.parse(document.getElementById("rows").textContent);
  if (data.rows.filter((row) => !row.failure).length < 2) return;
  const chosen = [];
  const panel = make("div", { id: "compared", role: "region", ariaLive: "polite", ariaLabel: "Two rows side by side" });
  table.parentElement.before(make("p", { className: "note" }, "Choose two rows, here or in the plots, to see them side by side. A click on a heading sorts."));
  table.parentElement.after(panel);
  const named = new Map(data.rows.map((row) => [row.name, row]));
  const boxes = new Map();
  for (const row of table.tBodies[0].rows) {
    const name = row.dataset.row;
    if (!named.has(name) || named.get(name).failure) continue;
    const box = make("input", { type: "checkbox", ariaLabel: `compare row ${name}` });
    box.addEventListener("change", () => choose(name));
    boxes.set(name, box);
    row.cells[0].prepend(box);
    row.addEventListener("pointerenter", () => mark(name, true));
    row.addEventListener("pointerleave", () => mark(name, false));
  }
  function choose(name) {
    if (!boxes.has(name)) return;
    const place = chosen.indexOf(name);
    if (place >= 0) chosen.splice(place, 1);
    else chosen.push(name);
    if (chosen.length > 2) chosen.shift();
    boxes.forEach((box, each) => {
      box.checked = chosen.includes(each);
      ofRow(each).forEach((element) => element.classList.toggle("chosen", box.checked));
    });
    table.dispatchEvent(new Event("fold"));
    draw();
  }
  const times = (ratio) => ratio >= 100 ? ratio.toFixed(0) : ratio >= 1.95 ? ratio.toFixed(1) : ratio >= 0.1 ? ratio.toFixed(2) : ratio.toPrecision(2);
  const against = (measure, a, b) => {
    if (a === null || b === null || a === undefined || b === undefined) return "";
    const better = measure.lower ? b < a : b > a;
    if (!measure.as_ratio) {
      const change = (b - a) * measure.scale;
      const text = measure.unit ? change.toFixed(2) : String(Number(change.toPrecision(3)));
      return Number(text) === 0 ? "the same" : `${change > 0 ? "+" : ""}${text}${measure.unit}, ${better ? measure.better : measure.worse}`;
    }
    if (!(a > 0 && b > 0)) return a === b ? "the same" : "";
    if (Math.max(a / b, b / a) < 1.005) return "the same";
    if (!measure.worse) return `${times(a / b)} times ${measure.better}`;
    return `${times(better ? a / b : b / a)} times ${better ? measure.better : measure.worse}`;
  };
  const only = (ours, theirs) => {
    const left = [...theirs];
    return ours.filter((step) => { const at = left.indexOf(step); if (at >= 0) left.splice(at, 1); return at < 0; });
  };
  const called = (row) => row.name === "ref" ? "reference" : `${row.name}${row.role === "best" ? " (ships)" : ""}`;
  function draw() {
    if (!chosen.length) return panel.replaceChildren();
    const order = data.rows.filter((row) => chosen.includes(row.name));
    if (order.length < 2) {
      panel.replaceChildren(make("p", { className: "note" }, `Row ${called(order[0])} is chosen: choose another one.`));
      return;
    }
    const [a, b] = order;
    const line = (...cells) => make("tr", {}, ...cells.map((text, place) => make(place ? "td" : "th", place ? {} : { scope: "row" }, text)));
    const close = make("button", { type: "button", className: "close", ariaLabel: "choose no rows" }, "×");
    close.addEventListener("click", () => [...chosen].forEach(choose));
    const head = make("tr", {}, ...[close, called(a), called(b), `${b.name} against ${a.name}`].map((text) => make("th", { scope: "col" }, text)));
    const lines = data.measures.map((measure) => {
      const [one, other] = [a.values[measure.key] ?? ["–", null], b.values[measure.key] ?? ["–", null]];
      return line(measure.label, one[0], other[0], against(measure, one[1], other[1]));
    });
    lines.push(line("change from the reference", a.change || "–", b.change || "–", ""));
    const lists = [[a, only(a.steps, b.steps)], [b, only(b.steps, a.steps)]].filter(([, steps]) => steps.length)
      .map(([row, steps]) => make("p", {}, make("b", {}, `Only ${called(row)}: `), make("code", {}, steps.join(" > "))));
    if (!lists.length) lists.push(make("p", {}, "Both have the same steps."));
    panel.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)), ...lists,
      make("p", { className: "note" }, "Each row was timed and judged against the reference, not against the other row; microbudget compare does that."));
  }
})();
