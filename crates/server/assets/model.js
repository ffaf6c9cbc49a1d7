/** The model page: tabs of the quick start, its fillings, its copy buttons. */
import { copyButtons } from "./copy.js";
import { tabs } from "./tabs.js";

copyButtons(document);

for (const box of document.querySelectorAll("[data-tabs]")) {
  const panels = [...box.querySelectorAll("[role=tabpanel]")];
  const choose = tabs(box.querySelector("[role=tablist]"), (tab) => {
    for (const panel of panels) panel.hidden = panel.id !== tab.getAttribute("aria-controls");
  });
  choose(box.querySelector("[role=tab]"), false);
}

for (const name of ["task", "dimensions"]) {
  document.getElementById(name)?.addEventListener("change", (event) => {
    for (const place of document.querySelectorAll(`[data-fill=${name}]`)) place.textContent = event.target.value;
  });
}
