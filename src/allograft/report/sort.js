document.querySelectorAll("table.sortable").forEach(function (table) {
  table.querySelectorAll("thead button").forEach(function (button) {
    button.addEventListener("click", function () {
      var head = button.closest("th"), column = head.cellIndex, body = table.tBodies[0];
      var down = head.getAttribute("aria-sort") !== "descending" && column > 0;
      table.querySelectorAll("th").forEach(function (each) { each.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var value = function (row) { var text = row.cells[column].dataset.v; return text === "" ? null : Number(text); };
      Array.from(body.rows).sort(function (one, other) {
        var a = value(one), b = value(other);
        return a === null ? (b === null ? 0 : 1) : b === null ? -1 : down ? b - a : a - b;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
