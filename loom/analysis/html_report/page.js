"use strict";
// A log is a list of compressed pieces (logs.py). A piece becomes rows when its block comes near the view of its log, and an
// empty block of the same height when it leaves it: a million lines cost what a few screens of them cost.
// Rows are 16 px high because browsers scroll nothing higher than 2^24 px, and a log may have a million of them.
const ROW = 16, MOST_HITS = 500, AT_ONCE = 32;
const byId = id => document.getElementById(id);
const make = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
let query = "";

async function textOf(piece) {
  const bytes = Uint8Array.from(atob(piece.script.textContent), character => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}
async function linesOf(piece) {
  let at = 0;
  return (await textOf(piece)).split("\n").map(line => {
    const tab = line.indexOf("\t");
    return { stderr: line[0] === "2", at: at += Number(line.slice(1, tab)), text: line.slice(tab + 1) };
  });
}
const plain = text => text.includes("\x1b") ? text.replace(/\x1b\[[0-9;:]*m/g, "") : text;

class Log {
  constructor(unit) {
    this.unit = unit;
    this.box = unit.querySelector(".log");
    this.told = Number(unit.dataset.line) || 0;
    this.here = 0;
    this.pieces = [...unit.querySelectorAll("script")].map(script =>
      ({ script, first: Number(script.dataset.first), count: Number(script.dataset.count) }));
    this.folds = JSON.parse(this.box?.dataset.folds || "[]")
      .map(([first, last, closed, took]) => ({ first, last, closed: closed === 1, took })).sort((a, b) => a.first - b.first || b.last - a.last);
    this.merge();
  }
  open() {
    if (!this.observer && this.box) this.build();
    if (this.told && !this.scrolled && this.box.clientHeight) {
      this.scrolled = true;
      this.reveal(this.told);
      this.row(this.told).then(row => { this.box.scrollTop = row.offsetTop - this.box.clientHeight / 2; });
    }
  }
  build() {
    const pieces = new Map();
    this.observer = new IntersectionObserver(entries => {
      for (const entry of entries) this.near(pieces.get(entry.target), entry.isIntersecting);
    }, { root: this.box, rootMargin: "600px 0px" });
    for (const piece of this.pieces) {
      piece.block = this.box.appendChild(make("div", { className: "block" }));
      this.resize(piece);
      pieces.set(piece.block, piece);
      this.observer.observe(piece.block);
    }
  }
  // Sections: a line is hidden in a closed one, after the line with its title. `hidden` has the ranges, apart and in order.
  merge() {
    this.hidden = [];
    for (const fold of this.folds) {
      const last = this.hidden.at(-1);
      if (!fold.closed || fold.last === fold.first || last?.[1] >= fold.last) continue;
      if (last?.[1] >= fold.first) last[1] = fold.last; else this.hidden.push([fold.first + 1, fold.last]);
    }
  }
  isHidden(number) { return this.hidden.some(([first, last]) => first <= number && number <= last); }
  shown(piece) {
    const end = piece.first + piece.count - 1;
    return this.hidden.reduce((count, [first, last]) => count - Math.max(0, Math.min(last, end) - Math.max(first, piece.first) + 1), piece.count);
  }
  resize(piece) {
    const shown = this.shown(piece);
    piece.block.hidden = shown === 0;
    piece.block.style.height = piece.filled ? "" : shown * ROW + "px";
    for (const row of piece.block.children) this.fold(row);
  }
  fold(row) {
    const number = Number(row.dataset.number), button = row.querySelector(".fold");
    row.hidden = this.isHidden(number);
    button?.setAttribute("aria-expanded", this.folds.some(fold => fold.first === number && !fold.closed));
  }
  refold() {
    this.merge();
    for (const piece of this.pieces) if (piece.block) this.resize(piece);
  }
  toggle(number) {
    const mine = this.folds.filter(fold => fold.first === number), closed = mine.some(fold => !fold.closed);
    for (const fold of mine) fold.closed = closed;
    this.refold();
  }
  reveal(number) {
    if (!this.isHidden(number)) return;
    for (const fold of this.folds) if (fold.first < number && number <= fold.last) fold.closed = false;
    this.refold();
  }
  near(piece, isNear) {
    piece.isNear = isNear;
    if (isNear) this.fill(piece);
    else if (piece.filled) {
      piece.block.style.height = (piece.block.offsetHeight || this.shown(piece) * ROW) + "px";
      piece.block.replaceChildren();
      piece.filled = null;
    }
  }
  fill(piece) {
    return piece.filled ||= linesOf(piece).then(lines => {
      piece.block.replaceChildren(...lines.map((line, index) => this.made(line, piece.first + index)));
      this.resize(piece);
    });
  }
  made(line, number) {
    const row = make("div", { className: "row" },
      make("a", { href: `#${this.unit.id}/L${number}`, textContent: number, tabIndex: -1 }), make("span", {}, ...painted(line.text)));
    row.dataset.time = (line.at / 1000).toFixed(3);
    row.dataset.number = number;
    const folds = this.folds.filter(fold => fold.first === number), took = folds.map(fold => fold.took).filter(Boolean).join(", ");
    if (folds.length) row.classList.add("section");
    if (folds.some(fold => fold.last > number)) row.firstChild.after(make("button", { type: "button", className: "fold", ariaLabel: `section ${plain(line.text)}` }));
    if (took) row.append(make("span", { className: "soft", textContent: `  ${took}` }));
    row.classList.toggle("err", line.stderr);
    row.classList.toggle("telling", number === this.told);
    row.classList.toggle("here", number === this.here);
    row.classList.toggle("hit", query !== "" && plain(line.text).toLowerCase().includes(query));
    return row;
  }
  async row(number) {
    this.open();
    const piece = this.pieces.find(each => number < each.first + each.count) || this.pieces.at(-1);
    await this.fill(piece);
    return piece.block.children[Math.min(Math.max(0, number - piece.first), piece.count - 1)];
  }
  async go(number) {
    this.scrolled = true;
    for (const log of logs.values()) {
      log.here = 0;
      log.box?.querySelector(".here")?.classList.remove("here");
    }
    this.here = number;
    this.reveal(number);
    const row = await this.row(number);
    if (this.here !== number) return; // the reader went on meanwhile
    row.classList.toggle("here", row.firstChild.textContent === String(number));
    row.scrollIntoView({ block: "center", inline: "nearest" });
  }
  refill() {
    for (const piece of this.pieces) if (piece.filled) { piece.filled = null; this.fill(piece); }
  }
}
const logs = new Map();
function logOf(unit) {
  if (!logs.has(unit)) logs.set(unit, new Log(unit));
  return logs.get(unit);
}

// Colours: what a terminal would do with a line.
const LEVELS = [0, 95, 135, 175, 215, 255];
function indexed(number) {
  if (number > 231) return Array(3).fill(8 + (number - 232) * 10);
  return [Math.floor((number - 16) / 36), Math.floor((number - 16) / 6) % 6, (number - 16) % 6].map(part => LEVELS[part]);
}
const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "under", 7: "inverse" }, ENDS = { 22: ["bold", "dim"], 23: ["italic"], 24: ["under"], 27: ["inverse"] };
function restyled(style, codes) {
  const list = codes.split(/[;:]/).map(Number);
  style = { ...style, flags: [...style.flags] };
  for (let i = 0; i < list.length; i++) {
    const code = list[i], part = code % 10 > 7 || code < 30 ? "" : Math.floor(code / 10) % 10 === 3 || Math.floor(code / 10) === 9 ? "c" : "b";
    if (code === 0) style = { flags: [] };
    else if (FLAGS[code]) style.flags.push(FLAGS[code]);
    else if (ENDS[code]) style.flags = style.flags.filter(flag => !ENDS[code].includes(flag));
    else if (code === 39) delete style.c;
    else if (code === 49) delete style.b;
    else if (code === 90) style.c = "dim";
    else if (code === 38 || code === 48) {
      const to = code === 38 ? "c" : "b", number = list[i + 2];
      if (list[i + 1] === 5) { style[to] = number < 16 ? to + number % 8 : indexed(number); i += 2; }
      else if (list[i + 1] === 2) { style[to] = list.slice(i + 2, i + 5); i += 4; }
    } else if (part && (code < 48 || code >= 90)) style[part] = part + code % 10;
  }
  return style;
}
function painted(text) {
  if (!text.includes("\x1b")) return [text];
  let style = { flags: [] };
  const nodes = [];
  text.split(/\x1b\[([0-9;:]*)m/).forEach((part, index) => {
    if (index % 2) style = restyled(style, part);
    else if (part) {
      const node = make("span", { className: style.flags.join(" "), textContent: part });
      for (const to of "cb") if (typeof style[to] === "string") node.classList.add(style[to]);
      if (Array.isArray(style.c)) node.style.color = `color-mix(in srgb, rgb(${style.c}) 55%, var(--fg))`;
      if (Array.isArray(style.b)) node.style.background = `color-mix(in srgb, rgb(${style.b}) 30%, var(--log))`;
      nodes.push(node);
    }
  });
  return nodes;
}

// Places: #JOB, #JOB/STEP, #JOB/STEP/L12.
function fragment() {
  try { return decodeURIComponent(location.hash); } catch { return location.hash; }
}
function go() {
  const target = fragment().slice(1);
  const match = byId(target) ? null : target.match(/^(.*)\/L(\d+)$/), element = byId(match ? match[1] : target);
  if (!element) return;
  for (let at = element; at; at = at.parentElement) {
    if (at.tagName === "DETAILS") at.open = true;
  }
  if (match && element.classList.contains("unit")) return logOf(element).go(Number(match[2]));
  element.scrollIntoView();
}
function visit(hash) {
  if (fragment() === hash) go(); else location.hash = hash;
}
const failures = [...document.querySelectorAll("#failures ol a")];
let failure = -1;
const cycled = (at, step, count) => at < 0 ? (step > 0 ? 0 : count - 1) : (at + step + count) % count;
function toFailure(step) {
  if (!failures.length) return;
  failure = cycled(failure, step, failures.length);
  byId("position").textContent = `${failure + 1} of ${failures.length}`;
  visit(failures[failure].getAttribute("href"));
}

// Search: all pieces of all logs, one after the other; the newest search ends the ones before it.
let searches = 0, hit = -1;
async function search() {
  const mine = ++searches, hits = byId("hits");
  const text = byId("search").value.toLowerCase();
  query = text.length > 1 ? text : "";
  hit = -1;
  hits.replaceChildren();
  byId("results").hidden = query === "";
  for (const log of logs.values()) log.refill();
  if (query === "") return;
  let count = 0;
  const said = end => { byId("found").textContent = `${count.toLocaleString("en")} ${count === 1 ? "line" : "lines"}${count > MOST_HITS ? `, the first ${MOST_HITS} are shown` : ""}${end}`; };
  for (const unit of document.querySelectorAll(".unit")) {
    const pieces = logOf(unit).pieces;
    let title = null;
    for (let from = 0; from < pieces.length; from += AT_ONCE) {
      const some = pieces.slice(from, from + AT_ONCE), texts = await Promise.all(some.map(textOf));
      if (mine !== searches) return;
      texts.forEach((packed, number) => {
        const text = plain(packed);
        if (!text.toLowerCase().includes(query)) return;
        text.split("\n").forEach((line, index) => {
          const shown = line.slice(line.indexOf("\t") + 1), at = shown.toLowerCase().indexOf(query);
          if (at < 0 || ++count > MOST_HITS) return;
          title ||= hits.appendChild(make("h3", { textContent: unit.id }));
          hits.append(found(unit, some[number].first + index, shown, Math.max(0, at - 40)));
        });
      });
      said(" …");
    }
  }
  said("");
}
function endSearch() {
  byId("search").value = "";
  byId("search").blur();
  search();
}
function found(unit, number, line, from) {
  return make("a", { href: `#${unit.id}/L${number}` }, make("b", { textContent: `${number}  ` }), (from ? "…" : "") + line.slice(from, from + 300));
}
function toHit(step) {
  const hits = document.querySelectorAll("#hits a");
  if (!hits.length) return;
  hit = cycled(hit, step, hits.length);
  visit(hits[hit].getAttribute("href"));
  hits[hit].scrollIntoView({ block: "nearest" });
}
function markHit() {
  document.querySelectorAll("#hits a").forEach((link, index) => {
    const here = link.getAttribute("href") === fragment();
    link.classList.toggle("here", here);
    if (here) hit = index;
  });
}

function toggle(name) {
  const on = document.body.classList.toggle(name);
  byId(name).setAttribute("aria-pressed", on);
  if (name === "wrap") for (const log of logs.values()) for (const piece of log.pieces)
    if (piece.block) log.resize(piece);
}
byId("wrap").addEventListener("click", () => toggle("wrap"));
byId("times").addEventListener("click", () => toggle("times"));
byId("next")?.addEventListener("click", () => toFailure(1));
byId("previous")?.addEventListener("click", () => toFailure(-1));
let waiting;
byId("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 150); });
document.addEventListener("toggle", event => {
  if (!event.target.open) return;
  for (const unit of [event.target, ...event.target.querySelectorAll(".unit[open]")]) if (unit.classList.contains("unit")) logOf(unit).open();
}, true);
document.addEventListener("click", event => {
  const button = event.target.closest("button"), link = event.target.closest("a[href^='#']");
  if (button?.classList.contains("fold")) logOf(button.closest(".unit")).toggle(Number(button.parentElement.dataset.number));
  if (link && link.getAttribute("href") === fragment()) go();
});
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === byId("search")) {
    if (event.key === "Escape") endSearch();
    if (event.key === "Enter") toHit(event.shiftKey ? -1 : 1);
    return;
  }
  const action = { "/": () => byId("search").focus(), n: () => toFailure(1), p: () => toFailure(-1), w: () => toggle("wrap"), t: () => toggle("times"), Escape: endSearch }[event.key];
  if (action) { event.preventDefault(); action(); }
});
addEventListener("hashchange", () => { markHit(); go(); });
if (matchMedia("(max-width: 600px)").matches) toggle("wrap");
for (const unit of document.querySelectorAll(".unit[open]")) logOf(unit).open();
go();
