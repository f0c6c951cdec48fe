"use strict";
const { key, pairs } = JSON.parse(document.querySelector("#data").textContent);
const $ = (name) => document.querySelector(name);

// Answers in the order in which they were given: [[pair, answer], ...]. The browser keeps them, so that nothing is lost when the page is
// closed; where it has no storage for files, they last as long as the page, which then asks before it closes.
let answers = [];
let kept = true;
let saved = 0;
try { answers = JSON.parse(localStorage.getItem(`review-${key}`) ?? "[]"); } catch { kept = false; }
const last = () => new Map(answers);
const firstOpen = () => { const given = last(); const at = pairs.findIndex((_, i) => !given.has(i)); return at < 0 ? pairs.length - 1 : at; };
let at = firstOpen();
let drawn = true;

function keep() {
  try { localStorage.setItem(`review-${key}`, JSON.stringify(answers)); } catch { kept = false; }
}

// Lines between the points that match, over the two photographs as they stand.
function draw() {
  const svg = $("#lines"), frame = svg.getBoundingClientRect();
  svg.replaceChildren();
  if (!pairs.length || !drawn) return;
  const place = (image, x, y) => {
    const box = image.getBoundingClientRect(), longer = Math.max(box.width, box.height);
    return [box.left - frame.left + box.width / 2 + (x - 0.5) * longer, box.top - frame.top + box.height / 2 + (y - 0.5) * longer];
  };
  for (const [i, [x, y, u, v]] of pairs[at].points.entries()) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const [x1, y1] = place($("#a"), x, y), [x2, y2] = place($("#b"), u, v);
    for (const [name, value] of Object.entries({ x1, y1, x2, y2, stroke: `hsl(${(47 * i) % 360} 90% 55%)` })) line.setAttribute(name, value);
    svg.append(line);
  }
}

function show() {
  const given = last();
  $("#progress").textContent = pairs.length ? `Pair ${at + 1} of ${pairs.length}; ${given.size} answered${given.size === pairs.length ? ", all done" : ""}` : "No pair to decide on";
  for (const button of document.querySelectorAll("[data-answer]")) button.setAttribute("aria-pressed", given.get(at) === button.dataset.answer);
  if (!pairs.length) return;
  const pair = pairs[at];
  for (const side of ["a", "b"]) $(`#${side}`).src = document.getElementById(pair[side]).src;
  $("#name-a").textContent = pair.first;
  $("#name-b").textContent = pair.second;
  $("#about").textContent = pair.about;
  $("#state").textContent = pair.state;
  $("#points").hidden = !pair.points.length;
  draw();
}

function answer(value) {
  if (!pairs.length) return;
  answers.push([at, value]);
  keep();
  at = at + 1 < pairs.length && last().size < pairs.length ? at + 1 : at;
  show();
}

function undo() {
  if (!answers.length) return;
  at = answers.pop()[0];
  keep();
  show();
}

function toggle() {
  drawn = !drawn;
  $("#points").setAttribute("aria-pressed", drawn);
  draw();
}

function move(step) {
  at = Math.min(Math.max(at + step, 0), Math.max(pairs.length - 1, 0));
  show();
}

// A cell of CSV: quoted where it holds a comma, a quote or a line break.
const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function decisions() {
  const rows = [...last()].sort((a, b) => a[0] - b[0]).map(([i, value]) => [pairs[i].first, pairs[i].second, value]);
  return [["first", "second", "answer"], ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([decisions()], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  saved = answers.length;
}

const KEYS = { s: () => answer("same"), d: () => answer("different"), t: () => answer("unsure"), u: undo, ArrowLeft: () => move(-1), ArrowRight: () => move(1), w: save, p: toggle };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
$("#undo").addEventListener("click", undo);
$("#back").addEventListener("click", () => move(-1));
$("#next").addEventListener("click", () => move(1));
$("#save").addEventListener("click", save);
$("#points").addEventListener("click", toggle);
for (const side of ["#a", "#b"]) $(side).addEventListener("load", draw);
addEventListener("resize", draw);
addEventListener("beforeunload", (event) => { if (!kept && answers.length > saved) event.preventDefault(); });
show();
