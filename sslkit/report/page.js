"use strict";
for (const box of document.querySelectorAll("input[data-arm]")) {
  const show = () => {
    for (const line of document.querySelectorAll(`path[data-arm="${box.dataset.arm}"]`)) {
      line.classList.toggle("away", !box.checked);
    }
  };
  box.addEventListener("change", show);
  show(); // after a reload, a browser may restore the boxes
}
