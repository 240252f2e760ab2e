// Turns each <div class="mlm-attention" data-attention="…"> of the page that is still a drawing into a view to play with.
// data-attention: {tokens: [seq], colours: [heads], layers: [layers][heads][seq][seq], note}, probabilities in per mille; with a
// note, which says what is left out, a row is a token and its probability, in turns.
(() => {
  const ROW = 24, LINES = 260, TOP = 6, SVG = "http://www.w3.org/2000/svg";

  function element(parent, name, attributes = {}, text = "") {
    const drawn = ["svg", "g", "line", "rect", "text"].includes(name);
    const made = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return parent.appendChild(made);
  }

  function start(host) {
    const { tokens, colours, layers, note } = JSON.parse(host.dataset.attention);
    const seq = tokens.length;
    if (note) for (const rows of layers.flat()) rows.forEach((pairs, query) => {
      const row = rows[query] = new Array(seq).fill(0);
      for (let nth = 0; nth < pairs.length; nth += 2) row[pairs[nth]] = pairs[nth + 1];
    });
    const words = 66 + 9 * Math.max(...tokens.map((token) => [...token].length));
    const middle = (token) => TOP + ROW * token + ROW / 2;
    const state = { layer: 0, heads: new Set(layers[0].keys()), pointed: null, kept: null };

    host.replaceChildren();
    host.style.cssText =
      "display: inline-block; background: #ffffff; color: #24292f; font: 15px sans-serif; padding: 10px; max-width: 100%; overflow-x: auto; " +
      "box-sizing: border-box; border: 1px solid #d8dee4; border-radius: 6px";
    const controls = element(host, "div", { style: "display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin-bottom: 6px" });
    const hint = "point at a word; click keeps it" + (note && ` (${note})`);
    const said = element(host, "div", { style: "font-size: 13px; min-height: 18px", role: "status" }, hint);
    const width = 2 * words + LINES, height = TOP + ROW * seq + 6;
    const svg = element(host, "svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    const lines = element(svg, "g");
    const labels = element(svg, "g");

    function button(text, colour, pressed, act) {
      const made = element(controls, "button", { type: "button", "aria-pressed": pressed }, text);
      made.style.cssText = `border: 2px solid ${colour}; border-radius: 4px; padding: 2px 8px; cursor: pointer; font: inherit; ` +
        (pressed ? `background: ${colour}; color: #ffffff` : `background: #ffffff; color: ${colour}`);
      made.onclick = () => { act(); draw(); };
    }

    function drawControls() {
      controls.replaceChildren();
      element(controls, "span", {}, "layer");
      layers.forEach((_, layer) =>
        button(`${layer + 1}`, "#24292f", layer === state.layer, () => { state.layer = layer; }));
      element(controls, "span", { style: "margin-left: 10px" }, "head");
      layers[state.layer].forEach((_, head) =>
        button(`${head + 1}`, colours[head], state.heads.has(head), () => {
          state.heads.has(head) ? state.heads.delete(head) : state.heads.add(head);
        }));
      const all = state.heads.size === layers[state.layer].length;
      button(all ? "none" : "all", "#57606a", false, () => { state.heads = new Set(all ? [] : layers[state.layer].keys()); });
    }

    // The mean over the heads that are shown of how much a token looks at another.
    function weight(query, key) {
      const shown = [...state.heads];
      return shown.reduce((sum, head) => sum + layers[state.layer][head][query][key], 0) / 1000 / Math.max(shown.length, 1);
    }

    function drawLines() {
      lines.replaceChildren();
      labels.replaceChildren();
      const chosen = state.pointed ?? state.kept; // {side, token}
      const shows = (query, key) => !chosen || (chosen.side === "from" ? query : key) === chosen.token;
      const shown = [...state.heads].sort((a, b) => a - b);
      shown.forEach((head, nth) => {
        const shift = Math.max(-8, Math.min(8, 2 * nth - shown.length + 1));
        layers[state.layer][head].forEach((row, query) => row.forEach((perMille, key) => {
          if (perMille < 20 || !shows(query, key)) return;
          const share = perMille / 1000;
          element(lines, "line", {
            x1: words, y1: middle(query) + shift, x2: words + LINES, y2: middle(key) + shift,
            stroke: colours[head], "stroke-width": 1 + 6 * share, "stroke-opacity": 0.15 + 0.75 * share,
          });
        }));
      });
      for (const side of ["from", "to"]) tokens.forEach((token, nth) => {
        const right = side === "to", mine = chosen?.side === side && chosen.token === nth;
        const group = element(labels, "g", { style: "cursor: pointer", "data-side": side, "data-token": nth });
        const x = right ? words + LINES : 0, y = middle(nth);
        element(group, "rect", { x, y: y - ROW / 2, width: words, height: ROW, fill: mine ? "#d8dee4" : "#ffffff", "fill-opacity": mine ? 1 : 0 });
        const anchor = { x: right ? x + 8 : words - 8, y, "text-anchor": right ? "start" : "end", "dominant-baseline": "central", fill: "#24292f" };
        element(group, "text", anchor, token);
        if (chosen && chosen.side !== side) {
          const share = right ? weight(chosen.token, nth) : weight(nth, chosen.token);
          const place = { ...anchor, x: right ? width - 4 : 4, "text-anchor": right ? "end" : "start", "font-size": 13 };
          if (share >= 0.005) element(group, "text", place, `${Math.round(100 * share)} %`);
        }
        group.onpointerenter = () => point({ side, token: nth });
        group.onclick = () => {
          const again = state.kept?.side === side && state.kept.token === nth;
          state.kept = again ? null : { side, token: nth };
          state.pointed = state.kept;
          drawLines(); // in any case: a finger has left before it clicks
        };
      });
      const several = shown.length > 1 ? `mean of ${shown.length} heads` : shown.length ? `head ${shown[0] + 1}` : "no head";
      said.textContent = !chosen ? hint
        : chosen.side === "from" ? `${tokens[chosen.token]} looks at … (${several})`
        : `… look at ${tokens[chosen.token]} (${several})`;
    }

    // Drawing anew under a pointer that rests makes it enter again, so only what changes is drawn.
    function point(chosen) {
      if (JSON.stringify(chosen) === JSON.stringify(state.pointed)) return;
      state.pointed = chosen;
      drawLines();
    }

    function draw() {
      drawControls();
      drawLines();
    }
    svg.onpointerleave = () => point(null);
    draw();
  }

  for (const host of document.querySelectorAll(".mlm-attention:not([data-started])")) {
    host.dataset.started = "";
    start(host);
  }
})();
