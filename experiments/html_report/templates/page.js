"use strict";
(() => {
  // "-" stands for a value that is not there, and goes last in either direction.
  const valueOf = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace("%", ""));
    return { missing: text === "-" || text === "", number, text };
  };

  const compare = (one, other, numeric) =>
    numeric ? one.number - other.number : one.text.localeCompare(other.text, "en", { numeric: true });

  const sortBy = (table, head, column) => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
    const numeric = rows.every(({ value }) => value.missing || !Number.isNaN(value.number));
    rows.sort((one, other) => {
      if (one.value.missing || other.value.missing) return one.value.missing - other.value.missing;
      return compare(one.value, other.value, numeric) * (ascending ? 1 : -1);
    });
    body.append(...rows.map(({ row }) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(table, head, column));
      head.append(button);
    });
  }

  // A link to something folded opens it.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();

  // On paper everything is open.
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });

  document.documentElement.dataset.script = "done";
})();
