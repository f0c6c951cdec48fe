"use strict";
const number = (text) => (text === "–" ? NaN : parseFloat(text.replaceAll(",", "")));

// Sort a table by a column when its name is clicked, descending at the second click; missing numbers stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      head.ariaSort = sign === 1 ? "ascending" : "descending";
      const text = (row) => row.cells[column].textContent.trim();
      const compare = head.classList.contains("number")
        ? (a, b) => {
            const [x, y] = [number(text(a)), number(text(b))];
            return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
          }
        : (a, b) => sign * text(a).localeCompare(text(b), undefined, { numeric: true });
      body.append(...[...body.rows].sort(compare));
    });
  });
}

// Return what "recall<0.5" asks of a table's rows, or null for any other word; a column's name is written without blanks.
function comparison(word, item) {
  const parts = word.match(/^(.+?)(<=|>=|<|>|=)(-?[\d.]+)$/);
  if (!parts || item.tagName !== "TR") return null;
  const heads = [...item.closest("table").tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent.toLowerCase().replace(/\s/g, "") === parts[1]);
  if (column < 0 || !heads[column].classList.contains("number")) return null;
  const bound = parseFloat(parts[3]);
  const holds = { "<": (x) => x < bound, ">": (x) => x > bound, "<=": (x) => x <= bound, ">=": (x) => x >= bound, "=": (x) => x === bound };
  return (row) => holds[parts[2]](number(row.cells[column].textContent.trim()));
}

// Filter the rows or cards below a search box.
for (const box of document.querySelectorAll("input[type=search]")) {
  const items = [...document.querySelectorAll(box.dataset.items)];
  const count = box.parentElement.querySelector("output");
  const texts = items.map((item) => item.textContent.toLowerCase());
  box.parentElement.hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = words.map((word) => (items.length && comparison(word, items[0])) || ((_, at) => texts[at].includes(word)));
    let shown = 0;
    items.forEach((item, i) => {
      item.hidden = !tests.every((test) => test(item, i));
      shown += !item.hidden;
    });
    count.value = box.value ? `${shown} of ${items.length}` : "";
  });
}
