"""What makes curves tell their values, under a pointer, a finger or the arrow keys; they are drawn without it."""

from __future__ import annotations

import json

from densessl.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

FRAME = {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM, "wide": WIDTH}
SCRIPT = (
    f'"use strict";\nconst frame = {json.dumps(FRAME)};'
    + """
const shown = value => value === null ? "not finite" : String(Number(value.toPrecision(4)));
for (const svg of document.querySelectorAll("svg[data-curves]")) {
  const curves = JSON.parse(svg.dataset.curves), [x0, x1, y0, y1, log] = JSON.parse(svg.dataset.axes);
  const output = svg.parentNode.querySelector("output"), before = output.textContent;
  const line = svg.querySelector(".at"), dots = svg.querySelector(".dots");
  const scale = log ? Math.log10 : value => value;
  const across = step => frame.left + (step - x0) / (x1 - x0) * (frame.right - frame.left);
  const share = value => (scale(value) - scale(y0)) / (scale(y1) - scale(y0));
  const down = value => frame.bottom + share(value) * (frame.top - frame.bottom);
  const all = [...new Set(curves.flatMap(curve => curve.s))].sort((a, b) => a - b);
  const nearest = (steps, step) => steps.reduce((best, s, i) =>
    Math.abs(s - step) < Math.abs(steps[best] - step) ? i : best, 0);
  let at = -1;
  const tell = place => {
    at = Math.max(0, Math.min(all.length - 1, place));
    const step = all[at], texts = [];
    let marks = "";
    for (const curve of curves) {
      if (!curve.s.length || step > curve.s[curve.s.length - 1]) continue;
      const i = nearest(curve.s, step), value = curve.v[i];
      texts.push((curves.length > 1 ? curve.n + " " : "") + shown(value));
      if (value !== null) marks += `M${across(curve.s[i]).toFixed(1)} ${down(value).toFixed(1)}h0`;
    }
    output.textContent = `step ${step}: ${texts.join(", ")}`;
    line.setAttribute("d", `M${across(step).toFixed(1)} ${frame.top}V${frame.bottom}`);
    dots.setAttribute("d", marks);
  };
  const end = () => { at = -1; output.textContent = before; line.setAttribute("d", ""); dots.setAttribute("d", ""); };
  const point = event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * frame.wide;
    tell(nearest(all, x0 + (x - frame.left) / (frame.right - frame.left) * (x1 - x0)));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") end(); });
  svg.tabIndex = 0;
  svg.addEventListener("blur", end);
  svg.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === "Escape") end();
    if (by) { event.preventDefault(); tell(at < 0 ? all.length - 1 : at + by); }
  });
}
"""
)
