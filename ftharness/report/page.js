"use strict";
// A line under the pointer that tells the time; a section that a link leads to opens; a picture begins at its fault.
for (const svg of document.querySelectorAll("svg[data-start]")) {
  const [start, end, left, right, bottom] = ["start", "end", "left", "right", "bottom"].map((key) => Number(svg.dataset[key]));
  const make = (name, kind) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    made.setAttribute("class", kind);
    made.setAttribute("visibility", "hidden");
    svg.append(made);
    return made;
  };
  const fault = svg.querySelector(".line.landed");
  const frame = svg.parentElement;
  if (fault && frame.scrollWidth > frame.clientWidth) {
    const at = fault.getBoundingClientRect().left - svg.getBoundingClientRect().left;
    frame.scrollLeft = at - frame.clientWidth / 2;
  }
  const line = make("path", "cursor");
  const text = make("text", "cursor");
  const hide = () => [line, text].forEach((part) => part.setAttribute("visibility", "hidden"));
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    if (x < left || x > right) return hide();
    const ms = start + ((x - left) / (right - left)) * (end - start);
    line.setAttribute("d", `M${x} 0V${bottom}`);
    text.textContent = `${ms.toFixed(end - start > 2000 ? 0 : 2)} ms of the run`;
    text.setAttribute("x", x > right - 130 ? x - 6 : x + 6);
    text.setAttribute("text-anchor", x > right - 130 ? "end" : "start");
    text.setAttribute("y", bottom - 4);
    [line, text].forEach((part) => part.setAttribute("visibility", "visible"));
  });
}
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", open);
open();
document.documentElement.dataset.ready = "yes";
