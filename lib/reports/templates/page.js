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

// Filter the rows or cards below a search box.
for (const box of document.querySelectorAll("input[type=search]")) {
  const items = [...document.querySelectorAll(box.dataset.items)];
  const count = box.parentElement.querySelector("output");
  const texts = items.map((item) => item.textContent.toLowerCase());
  box.parentElement.hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    let shown = 0;
    items.forEach((item, i) => {
      item.hidden = !words.every((word) => texts[i].includes(word));
      shown += !item.hidden;
    });
    count.value = box.value ? `${shown} of ${items.length}` : "";
  });
}
