"use strict";
// Adds to a page that is complete without it: values under the pointer, and zooming into a stretch of time.
(() => {
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const PIXELS_A_TIME = 84;
  const SVG = "http://www.w3.org/2000/svg";
  const DRAG = 6;

  function make(name, attributes, parent) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  function clock(seconds, withSeconds) {
    const text = new Date(seconds * 1000).toISOString();
    return withSeconds ? text.slice(11, 19) : text.slice(11, 16);
  }

  function nearest(times, at) {
    let low = 0;
    let high = times.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (times[middle] <= at) low = middle;
      else high = middle;
    }
    return at - times[low] <= times[high] - at ? low : high;
  }

  // Every coordinate of the drawings is absolute and written as "x y" pairs, so that a zoom only maps the first of each.
  function mapped(path, map) {
    return path.replace(/([ML])(-?[\d.]+) (-?[\d.]+)/g, (_, letter, x, y) => `${letter}${map(Number(x))} ${y}`);
  }

  class Incident {
    constructor(section) {
      this.section = section;
      this.full = [Number(section.dataset.begin), Number(section.dataset.end)];
      this.view = this.full;
      const link = section.querySelector("a.download");
      this.bytes = Uint8Array.from(atob(link.href.split(",")[1]), (letter) => letter.charCodeAt(0));
      this.data = JSON.parse(new TextDecoder().decode(this.bytes));
      // Browsers limit the length of data: addresses that can be saved; those of blobs have no limit.
      link.addEventListener("click", () => {
        link.href = URL.createObjectURL(new Blob([this.bytes], { type: "application/json" }));
      }, { once: true });
      this.reset = document.createElement("button");
      this.reset.type = "button";
      this.reset.className = "reset";
      this.reset.textContent = "Show all of the time";
      this.reset.hidden = true;
      this.reset.addEventListener("click", () => this.show(this.full));
      const figures = section.querySelector(".figures");
      figures.prepend(this.reset);
      figures.classList.add("zoomable");
      this.charts = [...section.querySelectorAll("svg.chart")].map((svg) => new Chart(this, svg));
    }

    show(view) {
      this.view = view;
      this.reset.hidden = view === this.full;
      for (const chart of this.charts) chart.zoom();
    }
  }

  class Chart {
    constructor(incident, svg) {
      this.incident = incident;
      this.svg = svg;
      for (const edge of ["left", "right", "top", "bottom"]) this[edge] = Number(svg.dataset[edge]);
      const figure = svg.closest("figure");
      const numbers = figure.dataset.series.split(" ").filter(Boolean).map(Number);
      this.series = numbers.map((number) => incident.data.series[number]);
      this.paths = [...svg.querySelectorAll(".plot > path, .since")].map((path) => [path, path.getAttribute("d")]);
      this.bars = [...svg.querySelectorAll(".plot > rect")].map((bar) => [bar, bar.x.baseVal.value, bar.width.baseVal.value]);
      this.moved = [...svg.querySelectorAll(".plot > g, .plot > circle")].map((one) => {
        const circle = one.tagName === "circle";
        const text = circle ? one.getAttribute("cx") : one.getAttribute("transform").match(/[\d.]+/)[0];
        return [one, Number(text), circle ? null : one.getAttribute("transform")];
      });
      this.times = svg.querySelector(".times");
      this.ticks = this.times.innerHTML;
      this.drawing = svg.parentElement;
      svg.addEventListener("pointermove", (event) => this.hover(event));
      svg.addEventListener("pointerleave", () => this.leave());
      svg.addEventListener("pointerdown", (event) => this.press(event));
      svg.addEventListener("pointerup", (event) => this.release(event));
      svg.addEventListener("pointercancel", () => this.leave());
    }

    // The coordinate in the view box, within the plot.
    place(event) {
      const box = this.svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
      return Math.min(Math.max(x, this.left), this.right);
    }

    timeAt(x) {
      const [begin, end] = this.incident.view;
      return begin + ((x - this.left) / (this.right - this.left)) * (end - begin);
    }

    xAt(time) {
      const [begin, end] = this.incident.view;
      return end > begin ? this.left + ((time - begin) / (end - begin)) * (this.right - this.left) : (this.left + this.right) / 2;
    }

    hover(event) {
      const x = this.place(event);
      if (this.from !== undefined) this.choose(x);
      const times = this.incident.data.times;
      const index = nearest(times, this.timeAt(x));
      const at = this.xAt(times[index]);
      if (!this.cursor) {
        this.cursor = make("path", { class: "cursor" }, this.svg);
        this.tip = document.createElement("div");
        this.tip.className = "tip";
        this.drawing.append(this.tip);
      }
      this.cursor.setAttribute("d", `M${at} ${this.top}V${this.bottom}`);
      const lines = [`${clock(times[index], true)} UTC`];
      for (const one of this.series) {
        const value = one.values[index];
        const unit = one.unit === "percent" ? "%" : "";
        lines.push(`${one.label}: ${value === null ? "not known" : value.toLocaleString("en") + unit}`);
      }
      if (!this.series.length) lines.push(...this.findingsAt(times[index]));
      this.tip.replaceChildren(...lines.map((line) => {
        const row = document.createElement("div");
        row.textContent = line;
        return row;
      }));
      const box = this.drawing.getBoundingClientRect();
      const across = (at / this.svg.viewBox.baseVal.width) * this.svg.getBoundingClientRect().width;
      const right = across + 14 + this.tip.offsetWidth > box.width;
      this.tip.style.left = `${Math.max(0, right ? across - 14 - this.tip.offsetWidth : across + 14)}px`;
      this.tip.style.top = "8px";
    }

    findingsAt(time) {
      const holding = this.incident.data.findings.flatMap((finding) => finding.segments
        .filter((one) => Date.parse(one.begin) / 1000 <= time && time <= Date.parse(one.end) / 1000 + 1)
        .slice(-1)
        .map((one) => `${finding.type}: ${one.severity}, ${one.phase.toLowerCase()}`));
      return holding.length ? holding : ["nothing found"];
    }

    leave() {
      for (const one of [this.cursor, this.tip, this.choice]) one?.remove();
      this.cursor = this.tip = this.choice = this.from = undefined;
    }

    press(event) {
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      event.preventDefault();
      this.svg.setPointerCapture(event.pointerId);
      this.from = this.place(event);
    }

    choose(x) {
      this.choice ??= make("rect", { class: "choice", y: this.top, height: this.bottom - this.top }, this.svg);
      this.choice.setAttribute("x", Math.min(x, this.from));
      this.choice.setAttribute("width", Math.abs(x - this.from));
    }

    release(event) {
      if (this.from === undefined) return;
      const [begin, end] = [this.from, this.place(event)].sort((a, b) => a - b);
      const view = [this.timeAt(begin), this.timeAt(end)];
      this.leave();
      if (end - begin >= DRAG && view[1] - view[0] >= 1) this.incident.show(view);
    }

    zoom() {
      const [fullBegin, fullEnd] = this.incident.full;
      const width = this.right - this.left;
      const map = (x) => Math.round(this.xAt(fullBegin + ((x - this.left) / width) * (fullEnd - fullBegin)) * 10) / 10;
      for (const [path, d] of this.paths) path.setAttribute("d", mapped(d, map));
      for (const [bar, x, length] of this.bars) {
        bar.setAttribute("x", map(x));
        bar.setAttribute("width", Math.max(1, map(x + length) - map(x)));
      }
      for (const [one, x, transform] of this.moved) {
        if (transform === null) one.setAttribute("cx", map(x));
        else one.setAttribute("transform", transform.replace(/[\d.]+/, String(map(x))));
      }
      this.relabel();
    }

    relabel() {
      const [begin, end] = this.incident.view;
      if (this.incident.view === this.incident.full) {
        this.times.innerHTML = this.ticks;
        return;
      }
      this.times.replaceChildren();
      make("path", { class: "axis", d: `M${this.left} ${this.bottom}H${this.right}` }, this.times);
      const most = Math.max(2, Math.floor((this.right - this.left) / PIXELS_A_TIME));
      const step = STEPS.find((size) => (end - begin) / size <= most) ?? 86400;
      for (let tick = Math.ceil(begin / step) * step; tick <= end; tick += step) {
        const x = this.xAt(tick);
        make("path", { class: "axis", d: `M${x} ${this.bottom}v4` }, this.times);
        const anchor = x < this.left + 28 ? "start" : x > this.right - 28 ? "end" : "middle";
        const label = make("text", { class: "tick", x, y: this.bottom + 18, "text-anchor": anchor }, this.times);
        label.textContent = clock(tick, step < 60);
      }
    }
  }

  for (const section of document.querySelectorAll("section.incident")) new Incident(section);
})();
