// What keeps people from using a page, as far as it can be computed (WCAG 2.2, A and AA): names, structure, contrast, focus and
// size. Returns one line for each thing that is wrong.
"use strict";

const wrong = [];
const visible = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
const name = (element) => `<${element.tagName.toLowerCase()}${element.id ? "#" + element.id : ""}>`;

// colours (1.4.3, 1.4.11)
function parts(color) {
  const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
  return { r, g, b, a };
}
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const color = parts(getComputedStyle(at).backgroundColor);
    if (color.a === 1) return color;
    if (color.a !== 0) wrong.push(`${name(at)} is half transparent`);
  }
  return parts(getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "rgb(0, 0, 0)" : "rgb(255, 255, 255)");
}
function luminance({ r, g, b }) {
  const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
}
function contrast(a, b) {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}
function differs(what, color, from, least) {
  const ratio = contrast(parts(color), from);
  if (ratio < least) wrong.push(`${what} has contrast ${ratio.toFixed(2)}, not ${least}`);
}

const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let counted = 0;
for (let text = texts.nextNode(); text; text = texts.nextNode()) {
  const element = text.parentElement;
  if (!text.textContent.trim() || !visible(element) || element.closest("script, style, noscript")) continue;
  counted += 1;
  differs(`text in ${name(element)}`, getComputedStyle(element).color, behind(element), 4.5);
}
if (!counted) wrong.push("there is no text");

const controls = [...document.querySelectorAll("input:not([type=hidden]), textarea, select, button, a[href], summary")].filter(visible);
for (const control of controls) {
  const style = getComputedStyle(control);
  const around = behind(control.parentElement);
  if (control.matches("input, textarea, select")) {
    if (!control.labels.length || ![...control.labels].some((label) => visible(label) && label.textContent.trim())) {
      wrong.push(`${name(control)} has no label`);
    }
    differs(`what is in ${name(control)}`, style.color, behind(control), 4.5);
    differs(`the border of ${name(control)}`, style.borderTopColor, around, 3);
  }
  if (control.matches("button")) differs(`the border of ${name(control)}`, style.borderTopColor, around, 3);
  if (control.tabIndex !== 0) wrong.push(`${name(control)} has tabindex ${control.tabIndex}`);
  for (const id of (control.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean)) {
    if (!document.getElementById(id)?.textContent.trim()) wrong.push(`${name(control)} is described by nothing`);
  }
  // 2.5.8
  const { width, height } = control.getBoundingClientRect();
  if (width < 24 || height < 24) wrong.push(`${name(control)} is ${width} by ${height} pixels`);
  // 2.4.7, 1.4.11
  control.focus({ focusVisible: true });
  if (document.activeElement !== control) wrong.push(`${name(control)} takes no focus`);
  const focused = getComputedStyle(control);
  if (focused.outlineStyle === "none" || parseFloat(focused.outlineWidth) < 2) wrong.push(`the focus on ${name(control)} is not seen`);
  differs(`the focus on ${name(control)}`, focused.outlineColor, around, 3);
  control.blur();
}

// structure (1.3.1, 2.4.2, 3.1.1, 4.1.2)
if (!document.documentElement.lang) wrong.push("the page has no language");
if (!document.title.trim()) wrong.push("the page has no title");
if (document.querySelectorAll("main").length !== 1) wrong.push("there is not one main part");
const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(visible).map((heading) => Number(heading.tagName[1]));
if (levels[0] !== 1 || levels.filter((level) => level === 1).length !== 1) wrong.push(`headings are of levels ${levels}`);
if (levels.some((level, at) => at > 0 && level > levels[at - 1] + 1)) wrong.push(`headings skip a level: ${levels}`);
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
for (const id of new Set(ids)) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`#${id} is there twice`);
for (const picture of document.querySelectorAll("img, svg, [role=img]")) {
  const named = picture.closest("[role=img]") ?? picture;
  if (!named.getAttribute("aria-label") && !named.getAttribute("alt")) wrong.push(`${name(picture)} has no text`);
}
return wrong;
