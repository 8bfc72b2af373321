// What the parts of the demo share: colours, a clock for animations, and charts of lines.
"use strict";
globalThis.anygrpo ??= {};

(() => {
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#882255", "#5f5f5f"];
  const DASHES = [[], [6, 3], [8, 3, 2, 3], [2, 3], [10, 2, 2, 2, 2, 2]];
  const MARGIN = { left: 44, right: 8, top: 8, bottom: 24 };
  const wantsLessMotion = matchMedia("(prefers-reduced-motion: reduce)");

  /** Calls `advance(seconds)` while it runs: with each picture of the screen, or once a second for who wants less motion. */
  class Clock {
    constructor(advance) {
      this.advance = advance;
      this.running = false;
    }
    start() {
      this.running = true;
      let last = performance.now();
      const tick = (now) => {
        if (!this.running) return;
        if (now - last >= (wantsLessMotion.matches ? 1000 : 0)) {
          this.advance(Math.max(0, Math.min(now - last, 1000)) / 1000);
          last = now;
        }
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
    }
    stop() {
      this.running = false;
    }
  }

  /** A context whose units are CSS pixels, and the canvas empty. */
  function cleared(canvas) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return { context, width, height };
  }

  /** A distance of about a quarter of the range that is 1, 2 or 5 times a power of ten. */
  function distanceOfTicks(range) {
    const power = 10 ** Math.floor(Math.log10(range / 4));
    return [1, 2, 5, 10].find((factor) => factor * power >= range / 4) * power;
  }

  /** Lines over x, which goes from 0 to `end`: `lines` is an array of arrays of values that are `spacing` apart. */
  function drawChart(canvas, lines, { spacing, end, low, high, label }) {
    const { context, width, height } = cleared(canvas);
    const x = (value) => MARGIN.left + (value / end) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => height - MARGIN.bottom - ((value - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
    context.font = "12px sans-serif";
    context.fillStyle = "#595959";
    context.strokeStyle = "#d9d9d9";
    context.textAlign = "right";
    context.textBaseline = "middle";
    const step = distanceOfTicks(high - low);
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
      context.strokeRect(MARGIN.left, y(value), width - MARGIN.left - MARGIN.right, 0);
      context.fillText(Number(value.toFixed(6)).toLocaleString("en"), MARGIN.left - 6, y(value));
    }
    context.textBaseline = "bottom";
    context.fillText(`${end.toLocaleString("en")} ${label}`, width - MARGIN.right, height - 4);
    context.lineWidth = 2;
    lines.forEach((values, index) => {
      context.strokeStyle = COLOURS[index];
      context.setLineDash(DASHES[index]);
      context.beginPath();
      values.forEach((value, position) => context.lineTo(x(position * spacing), y(value)));
      context.stroke();
    });
  }

  /** A piece of the line with this index, for a legend. */
  function swatch(index) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 36 8");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const attributes = { x1: 0, x2: 36, y1: 4, y2: 4, stroke: COLOURS[index], "stroke-width": 3 };
    attributes["stroke-dasharray"] = DASHES[index].join(" ");
    for (const [name, value] of Object.entries(attributes)) line.setAttribute(name, value);
    svg.append(line);
    return svg;
  }

  /** A number between 0 and 1 at each call, the same ones for the same seed (mulberry32). */
  function randomNumbers(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  function softmax(logits) {
    const largest = Math.max(...logits);
    const weights = logits.map((logit) => Math.exp(logit - largest));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight) => weight / total);
  }

  Object.assign(anygrpo, { Clock, cleared, drawChart, randomNumbers, softmax, swatch });
})();
