// The interactive parts of the page: charts, views of the gallery, sortable columns.

function gallery(root) {
  const tiles = [...root.querySelectorAll(".tile[data-view]")];
  const buttons = [...root.querySelectorAll("[data-all]")];
  const views = buttons.map((button) => button.dataset.all);

  function show(tile, view) {
    tile.dataset.view = view;
    const image = tile.querySelector(`img[data-view="${view}"]`);
    tile.querySelector(".showing").textContent = image.dataset.says;
  }

  function press() {
    for (const button of buttons) {
      const all = tiles.every((tile) => tile.dataset.view === button.dataset.all);
      button.setAttribute("aria-pressed", String(all));
    }
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const tile of tiles) show(tile, button.dataset.all);
      press();
    });
  }
  for (const tile of tiles) {
    tile.querySelector("button").addEventListener("click", () => {
      show(tile, views[(views.indexOf(tile.dataset.view) + 1) % views.length]);
      press();
    });
  }
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const keyOf = (row, column) => {
    const { value } = row.cells[column].dataset;
    return value === undefined ? row.cells[column].textContent : Number(value);
  };
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const [one, two] = [keyOf(a, column), keyOf(b, column)];
        const order = typeof one === "number" ? one - two : one.localeCompare(two);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}

const found = JSON.parse(document.getElementById("charts").textContent);
for (const box of document.querySelectorAll("[data-chart]")) chart(box, found[box.dataset.chart]);
for (const root of document.querySelectorAll(".gallery")) gallery(root);
for (const table of document.querySelectorAll("table.sortable")) sortable(table);
