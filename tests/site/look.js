// What is wrong with a page as it stands, a line each: look.width() and so on. Needs axe-core.
"use strict";
const article = document.querySelector("article");
const name = (element) => {
  const label = element.localName + [...element.classList].map((own) => "." + own).join("");
  return `${label} "${(element.alt ?? element.textContent).trim().slice(0, 40)}"`;
};
const inside = (inner, outer) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
const within = (selector) => [...article.querySelectorAll(selector)].filter((own) => own.closest("mjx-container") === null);
const texts = function* () {
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode())
    if (text.data.trim() && !text.parentElement.closest("script, style, mjx-assistive-mml")) yield text;
};
const run = async (elements, options) => {
  const {violations} = await axe.run(elements, {...options, preload: false, resultTypes: ["violations"]});
  return violations.flatMap(({id, nodes}) => nodes.map((node) => `${id}: ${node.html.slice(0, 99)}: ${node.failureSummary}`));
};
// But for how Sphinx writes captions of its contents and long signatures. What scrolls is reached by keys in Chromium.
const SPARED = ["aria-required-attr", "definition-list", "scrollable-region-focusable"];
const level = (...spared) => ({
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
  rules: Object.fromEntries([...SPARED, ...spared].map((rule) => [rule, {enabled: false}])),
});
let samples = [];

const look = {
  // The whole page scrolls sideways.
  width() {
    const {scrollWidth, clientWidth} = document.documentElement;
    if (scrollWidth <= clientWidth) return [];
    const wide = within("*").filter((own) => own.getBoundingClientRect().right > clientWidth + 1);
    return [`${scrollWidth} px wide: ${wide.slice(-3).map(name).join(", ")}`];
  },

  // A picture is missing, or reaches out of the text, or of a box that hides what does.
  figures() {
    const cut = (figure) => {
      const box = figure.getBoundingClientRect();
      if (box.width === 0) return false;
      for (let outer = figure.parentElement; outer !== article; outer = outer.parentElement)
        if (getComputedStyle(outer).overflowX !== "visible" && !inside(box, outer.getBoundingClientRect())) return true;
      return !inside(box, article.getBoundingClientRect()) || !inside(box, {left: 0, right: innerWidth});
    };
    return [
      ...within("img, svg, canvas, video, iframe").filter(cut).map((own) => `cut off: ${name(own)}`),
      ...within("img").filter((own) => own.complete && own.naturalWidth === 0).map((own) => `no picture: ${name(own)}`),
      ...within("img").filter((own) => /\.\w{3}$/.test(own.alt.trim())).map((own) => `no words for a picture: ${name(own)}`),
    ];
  },

  // Words go on where a box hides them.
  words() {
    const hides = (own) => own.clientWidth > 1 && own.scrollWidth > own.clientWidth + 1;
    const boxes = within("*").filter((own) => hides(own) && ["hidden", "clip"].includes(getComputedStyle(own).overflowX));
    return boxes.map((own) => `words cut off: ${name(own)}`);
  },

  formulas() {
    return [
      ...[...article.querySelectorAll("mjx-merror")].map((own) => `formula with an error: ${name(own)}`),
      ...within(".math").filter((own) => !own.querySelector("mjx-container")).map((own) => `formula as it is written: ${name(own)}`),
    ];
  },

  // A character is drawn as one that no font has. Those of formulas come from fonts of the site.
  letters() {
    const context = new OffscreenCanvas(32, 32).getContext("2d", {willReadFrequently: true});
    const drawn = (letter, {fontStyle, fontWeight, fontFamily}) => {
      context.font = `${fontStyle} ${fontWeight} 16px ${fontFamily}`;
      context.clearRect(0, 0, 32, 32);
      context.fillText(letter, 4, 20);
      return context.getImageData(0, 0, 32, 32).data.join();
    };
    const missing = new Set();
    const known = new Set();
    for (const text of texts())
      for (const letter of text.data.match(/[^\0-~\p{C}\p{Z}\p{M}]/gu) ?? []) {
        const font = getComputedStyle(text.parentElement);
        const key = letter + font.fontFamily;
        if (!known.has(key) && (letter === "\uFFFD" || drawn(letter, font) === drawn("\u{10FFFF}", font))) missing.add(letter);
        known.add(key);
      }
    return [...missing].map((letter) => `no glyph for U+${letter.codePointAt(0).toString(16).toUpperCase()} ${letter}`);
  },

  // More than twelve screens, and nothing to find one's way by.
  length() {
    const screens = document.documentElement.scrollHeight / innerHeight;
    const shown = document.querySelector(".toc-header-icon")?.getClientRects().length > 0;
    if (screens < 12 || (shown && document.querySelectorAll(".toc-tree a").length > 1)) return [];
    return [`${screens.toFixed(1)} screens without a table of contents`];
  },

  // Colours and sizes in which words are written, but for those known; one sample of each is kept for contrast().
  styles(known) {
    const found = new Map();
    for (const text of texts()) {
      const {color, fontSize, fontWeight} = getComputedStyle(text.parentElement);
      const parts = [color, fontSize, fontWeight];
      for (let outer = text.parentElement; outer; outer = outer.parentElement) {
        const {backgroundColor, opacity} = getComputedStyle(outer);
        if (backgroundColor !== "rgba(0, 0, 0, 0)" || opacity !== "1") parts.push(backgroundColor, opacity);
      }
      const style = parts.join(" ");
      if (!known.includes(style) && !found.has(style)) found.set(style, text.parentElement);
    }
    samples = [...found.values()];
    return [...found.keys()];
  },

  // Measuring all words takes seconds on a long page, and one of each style tells as much.
  contrast() {
    return samples.length ? run({include: samples}, {runOnly: ["color-contrast"]}) : [];
  },

  access() {
    return run("article", level("color-contrast"));
  },

  // What stands around the text of every page.
  frame() {
    return run({exclude: ["article"]}, level());
  },
};
