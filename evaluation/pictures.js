// The pictures of a report, filtered by mistake, class and score. Without it, the rest of the page is whole.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("pictures-data").textContent);
  const [WEAPON, LOOKALIKE] = [-1, -2]; // as classes: any of them
  const AT_ONCE = 24;
  const MISTAKES = new Set(["missed", "class", "localisation", "duplicate", "background"]);
  const SENTENCES = {
    missed: (truth) => `${truth} missed`,
    class: (truth, called) => `${called} is a ${truth}`,
    localisation: (truth, called) => `${called} is badly placed`,
    duplicate: (truth, called) => `${called} is a second box on one ${truth}`,
    background: (truth, called) => `${called} is nothing`,
    cell: (truth, called) => (truth && called ? `${truth} called ${called}` : truth ? `${truth} not found` : `${called} on nothing free`),
    alarmed: (truth, called) => `${truth} carries ${called}`,
    hidden: (truth, called) => `${truth} carries ${called} and no weapon`,
    silent: (truth) => `${truth}: no alarm`,
    false: (truth, called) => `alarm without a weapon: ${called}`,
    found: (truth) => `finds ${truth}`,
    wrong: (truth, called) => `${called} is wrong`,
    alarm: () => "raises an alarm",
    false_alarm: () => "raises a false alarm",
  };
  const form = document.getElementById("look");
  const list = document.getElementById("looked");
  const said = document.getElementById("look-said");
  const more = document.getElementById("look-more");
  const weapons = new Set(data.weapons);
  const boxOf = ([label, ...corners]) => ({ label, box: corners });
  const foundOf = ([label, x1, y1, x2, y2, score, kind, truth, taken, on]) => ({ label, box: [x1, y1, x2, y2], score, kind, truth, taken, on });
  for (const picture of data.pictures) {
    picture.truth = picture.truth.map(boxOf);
    picture.sides = picture.sides.map((found) => found.map(foundOf));
  }
  let shown = [];
  let drawn = 0;

  // What one side of a picture shows at a score, as [kind, truth, called, score]; 0 is nothing.
  function findings(picture) {
    const from = Number(form.elements.from.value);
    const seen = picture.sides[0].filter((one) => one.score >= from);
    const labels = picture.truth.map((one) => one.label);
    const at = (index) => (index < 0 ? 0 : labels[index]);
    const out = [];
    for (const one of seen) {
      out.push([one.kind, at(one.truth), one.label, one.score]);
      out.push(["cell", at(one.taken), one.label, one.score]);
    }
    labels.forEach((label, index) => {
      if (!seen.some((one) => one.truth === index)) out.push(["missed", label, 0, 0]);
      if (!seen.some((one) => one.taken === index)) out.push(["cell", label, 0, 0]);
      const on = seen.filter((one) => one.on.includes(index));
      const alike = on.filter((one) => weapons.has(one.label) !== weapons.has(label));
      const called = [...new Set(alike.map((one) => one.label))];
      if (!weapons.has(label) && called.length) out.push(["alarmed", label, called, alike[0].score]);
      if (weapons.has(label) && called.length && alike.length === on.length) out.push(["hidden", label, called, 0]);
    });
    const weapon = labels.find((label) => weapons.has(label)) || 0;
    const alarm = seen.find((one) => weapons.has(one.label));
    if (weapon && !alarm) out.push(["silent", weapon, 0, 0]);
    if (!weapon && alarm) out.push(["false", 0, alarm.label, alarm.score]);
    return out;
  }

  function isOf(wanted, label) {
    if (wanted === "") return true;
    if (Array.isArray(label)) return label.some((one) => isOf(wanted, one));
    const number = Number(wanted);
    if (number === WEAPON) return weapons.has(label);
    if (number === LOOKALIKE) return label > 0 && !weapons.has(label);
    return number === label;
  }

  function wantedOnes(picture) {
    const { show, class: either, truth, called, name, side, at } = form.elements;
    if (at.value !== "" && Number(at.value) !== picture.index) return [];
    if (name.value && !picture.name.toLowerCase().includes(name.value.toLowerCase())) return [];
    const all = picture.findings || findings(picture);
    const kinds = show.value === "mistakes" ? MISTAKES : show.value === "alarms" ? new Set(["silent", "false"]) : new Set([show.value]);
    return all.filter(([kind, true_, called_, , by]) => {
      if (show.value !== "all" && !kinds.has(kind)) return false;
      if (side && side.value !== "" && Number(side.value) !== by) return false;
      return isOf(truth.value, true_) && isOf(called.value, called_) &&
        (either.value === "" || isOf(either.value, true_) || isOf(either.value, called_));
    });
  }

  function title(label) {
    return Array.isArray(label) ? label.map(title).join(", ") : data.titles[label];
  }

  function element(name, attributes, text) {
    const space = ["svg", "rect", "text"].includes(name) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  }

  function box(svg, [x1, y1, x2, y2], caption, style, size) {
    svg.append(element("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: style }));
    const above = y1 - size * 0.3;
    const below = Math.min(y2 + size, svg.viewBox.baseVal.height - size * 0.2);
    const y = style !== "truth" && y1 > size * 1.2 ? above : below; // else two captions lie on one another
    svg.append(element("text", { x: Math.max(x1, 0), y, "font-size": size, class: style }, caption));
  }

  function side(picture, index) {
    const [width, height] = picture.size;
    const holder = element("div", { class: "picture" });
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}` });
    const size = width / 21;
    const from = data.sides.length > 1 ? data.sides[index].from : Number(form.elements.from.value);
    const seen = picture.sides[index].filter((one) => one.score >= from);
    picture.truth.forEach((one, at) => {
      if (!seen.some((each) => each.kind === "correct" && each.truth === at)) box(svg, one.box, `truth: ${title(one.label)}`, "truth", size);
    });
    for (const one of seen) {
      const style = `${weapons.has(one.label) ? "weapon" : "lookalike"} ${one.kind}`;
      box(svg, one.box, `${title(one.label)} ${one.score.toFixed(2)}`, style, size);
    }
    if (picture.image === null) {
      holder.append(element("div", { class: "absent", style: `aspect-ratio: ${width} / ${height}` }, "not kept in this page"));
    } else {
      holder.append(element("img", { src: data.images[picture.image], alt: "", style: `aspect-ratio: ${width} / ${height}` }));
    }
    holder.append(svg);
    return holder;
  }

  function figure({ picture, found }) {
    const made = element("figure", {});
    const sides = element("div", { class: "sides" });
    data.sides.forEach((each, index) => {
      const column = element("div", {});
      if (data.sides.length > 1) column.append(element("p", { class: "ci" }, each.name));
      column.append(side(picture, index));
      sides.append(column);
    });
    made.append(sides);
    const caption = element("figcaption", {});
    caption.append(element("b", { title: picture.path }, picture.name));
    const unique = new Set(found.map(([kind, truth, called, score, by]) => {
      const what = (SENTENCES[kind] || ((a, b) => `${b}, right`))(title(truth), title(called));
      const who = by === undefined ? "" : `${data.sides[by].name}: `;
      return `${who}${what}${score ? ` (${score.toFixed(2)})` : ""}`;
    }));
    for (const one of unique) caption.append(element("br", {}), document.createTextNode(one));
    made.append(caption);
    return made;
  }

  function showMore() {
    for (const one of shown.slice(drawn, drawn + AT_ONCE)) list.append(figure(one));
    drawn = Math.min(drawn + AT_ONCE, shown.length);
    more.hidden = drawn >= shown.length;
  }

  function update() {
    const score = (one) => Math.max(...one.found.map((each) => each[3]));
    const one = form.elements.show.value !== "mistakes" && form.elements.show.value !== "all";
    shown = data.pictures.map((picture) => ({ picture, found: wantedOnes(picture) })).filter((each) => each.found.length);
    if (one) shown.sort((a, b) => score(b) - score(a)); // else as they come: worst first
    const count = shown.reduce((sum, each) => sum + each.found.length, 0);
    said.textContent = `${count} in ${shown.length} picture${shown.length === 1 ? "" : "s"}`;
    if (form.elements.shown) form.elements.shown.value = Number(form.elements.from.value).toFixed(3);
    list.replaceChildren();
    drawn = 0;
    showMore();
  }

  function follow() {
    if (!location.hash.startsWith("#look?")) return;
    const wanted = new URLSearchParams(location.hash.slice("#look?".length));
    form.reset();
    for (const [key, value] of wanted) if (form.elements[key]) form.elements[key].value = value;
    update();
    form.scrollIntoView();
  }

  form.addEventListener("input", () => {
    form.elements.at.value = "";
    update();
  });
  form.addEventListener("reset", () => {
    form.elements.at.value = ""; // a hidden field keeps its value otherwise
    setTimeout(update);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", showMore);
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#look?']");
    if (link && link.hash === location.hash) follow(); // no hashchange then
  });
  document.getElementById("look-section").hidden = false;
  update();
  follow();
})();
