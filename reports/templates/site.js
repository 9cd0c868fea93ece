// The samples of a report: a list to filter and search, and each sample whole when it is opened. What a model wrote
// becomes text only: nothing here makes markup of a string. The state is the page's address, so links lead to it.
"use strict";
(() => {
  const PAGE = 50;
  const KEPT = 40; // chunks that stay unpacked
  const tasks = JSON.parse(document.getElementById("tasks").textContent);
  const form = document.getElementById("filter");
  const list = document.getElementById("list");
  const status = document.getElementById("status");
  const unpacked = new Map();
  let state = {};
  let turn = 0; // of drawing: an older one that is still at work gives up

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const unpack = (id) => {
    if (!unpacked.has(id)) {
      const packed = atob(document.getElementById(id).textContent.trim());
      const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      unpacked.set(id, new Response(stream).json());
      const chunks = [...unpacked.keys()].filter((key) => !key.endsWith("-index"));
      if (chunks.length > KEPT) unpacked.delete(chunks[0]);
    }
    return unpacked.get(id);
  };

  const whole = async (task, place) =>
    (await unpack(`${task.key}-${Math.floor(place / task.chunk)}`))[place % task.chunk];

  const address = (changes) => {
    const parts = Object.entries({ ...state, ...changes }).filter(([, value]) => value);
    return "#samples?" + new URLSearchParams(parts);
  };

  const options = (select, entries, chosen) => {
    select.replaceChildren(...entries.map(([value, text]) => element("option", { value }, text)));
    select.value = chosen ?? "";
    if (select.selectedIndex < 0) select.value = "";
    select.parentElement.hidden = entries.length < 2;
  };

  const count = (values) => {
    const found = new Map();
    for (const value of values) found.set(value, (found.get(value) ?? 0) + 1);
    return found;
  };

  const setForm = (task, index) => {
    const runs = new Set(tasks.map((its) => its.run)).size;
    options(form.task, tasks.map((its) => [its.key, runs > 1 ? `${its.run}: ${its.task}` : its.task]), task.key);
    const causes = count(index.cause);
    const right = causes.get(task.cause.indexOf("right")) ?? 0;
    const shown = [["", `all (${task.n})`]];
    if (right) shown.push(["right", `right (${right})`]);
    shown.push(["not right", `not right (${task.n - right})`]);
    task.cause.forEach((name, place) => {
      if (name !== "right") shown.push([name, `${name} (${causes.get(place)})`]);
    });
    options(form.cause, shown, state.cause);
    const groups = count(index.group);
    options(form.group, [["", "all"], ...task.group.map((name, place) => [name, `${name} (${groups.get(place)})`])], state.group);
    options(form.chars, [["", "all"], ...task.length.map((name) => [name, name])], state.chars);
    form.q.value = state.q ?? "";
  };

  const passes = (task, index) => {
    const places = { group: task.group.indexOf(state.group), length: task.length.indexOf(state.chars) };
    const right = task.cause.indexOf("right");
    const cause = task.cause.indexOf(state.cause);
    return (place) =>
      (!state.id || index.id[place] === state.id) &&
      (!state.group || index.group[place] === places.group) &&
      (!state.chars || index.length[place] === places.length) &&
      (!state.cause || (state.cause === "not right" ? index.cause[place] !== right : index.cause[place] === cause));
  };

  const contains = (id, sample, words) =>
    [id, sample.prompt, sample.response, sample.answer, sample.gold].some((text) => text?.toLowerCase().includes(words));

  // The places of the samples that pass, or null if the state has changed meanwhile.
  const search = async (task, index, mine) => {
    const wanted = passes(task, index);
    const places = [...index.id.keys()].filter(wanted);
    const words = (state.q ?? "").toLowerCase();
    if (!words) return places;
    const found = [];
    for (const [done, place] of places.entries()) {
      if (contains(index.id[place], await whole(task, place), words)) found.push(place);
      if (done % 1000 === 999) {
        status.textContent = `searching: ${done + 1} of ${places.length}, ${found.length} found`;
        await new Promise((resume) => setTimeout(resume));
        if (mine !== turn) return null;
      }
    }
    return found;
  };

  const text = (label, name, value, more = "") => {
    if (value === undefined) return [];
    const made = element("pre", { tabindex: "0", dir: "auto", class: name });
    made.textContent = value;
    return [element("p", { class: "label" }, label + more), made];
  };

  const fill = async (task, index, place, into) => {
    const sample = await whole(task, place);
    const ended = sample.finish ? ` (ended by ${sample.finish})` : "";
    const parts = [
      ...text("Prompt", "prompt", sample.prompt),
      ...text("Raw answer", "response", sample.response || (sample.logprobs ? "none: the choices were scored" : "empty"), ended),
      ...text("Extracted answer", "answer", sample.answer ?? "none"),
      ...text("Gold", "gold", sample.gold),
    ];
    if (sample.logprobs) {
      const letters = Object.entries(sample.logprobs);
      parts.push(
        element("table", {},
          element("caption", {}, "Log-probability of each choice, in nats"),
          element("thead", {}, element("tr", {}, ...letters.map(([letter]) => element("th", { scope: "col", class: "number" }, letter)))),
          element("tbody", {}, element("tr", {}, ...letters.map(([, value]) => element("td", { class: "number" }, value.toFixed(4)))))),
      );
    }
    (sample.pictures ?? []).forEach((source, number) => {
      parts.push(element("p", { class: "label" }, `Picture ${number + 1}`));
      parts.push(element("p", {}, element("img", { alt: `Picture ${number + 1} of ${index.id[place]}`, src: source })));
    });
    parts.push(...text("Detail", "detail", sample.detail));
    const others = tasks.filter((its) => its.task === task.task && its.key !== task.key);
    if (others.length) {
      const links = others.map((its) =>
        element("li", {}, element("a", { href: "#samples?" + new URLSearchParams({ task: its.key, id: index.id[place] }) }, its.run)));
      parts.push(element("p", { class: "label" }, "The same sample in"), element("ul", {}, ...links));
    }
    into.replaceChildren(...parts);
    const prompt = into.querySelector(".prompt");
    prompt.scrollTop = prompt.scrollHeight; // the question stands behind its examples
  };

  const entry = (task, index, place, open) => {
    const cause = task.cause[index.cause[place]];
    const outcome = task.outcome[index.outcome[place]];
    const told = cause === "right" || cause === "wrong" ? outcome : `${cause} (${outcome})`;
    const group = index.group[place] < 0 ? [] : [" · ", element("bdi", {}, task.group[index.group[place]])];
    const answer = index.answer[place] === null ? "none" : index.answer[place];
    const summary = element("summary", {},
      element("bdi", {}, index.id[place]), ...group, " · ",
      element("span", { class: cause === "right" ? "right" : "wrong" }, told), " · ",
      element("bdi", { class: "soft" }, `${answer} / ${index.gold[place]}`));
    const body = element("div");
    const made = element("details", { class: "sample" }, summary, body);
    made.addEventListener("toggle", () => {
      if (made.open && !body.firstChild) fill(task, index, place, body);
    });
    made.open = open;
    return made;
  };

  const draw = async () => {
    const mine = ++turn;
    const task = tasks.find((its) => its.key === state.task) ?? tasks[0];
    const index = await unpack(`${task.key}-index`);
    if (mine !== turn) return;
    setForm(task, index);
    const found = await search(task, index, mine);
    if (found === null || mine !== turn) return;
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const page = Math.min(Math.max(1, Number(state.page) || 1), pages);
    const first = (page - 1) * PAGE;
    const shown = found.slice(first, first + PAGE);
    list.replaceChildren(...shown.map((place) => entry(task, index, place, Boolean(state.id))));
    const one = state.id ? "; one sample by its link" : "";
    status.textContent = found.length
      ? `${first + 1} – ${first + shown.length} of ${found.length} samples that pass, ${task.n} in all${one}`
      : `no sample passes; ${task.n} in all`;
    document.getElementById("previous").disabled = page === 1;
    document.getElementById("next").disabled = page === pages;
    document.getElementById("previous").onclick = () => go({ page: page - 1 });
    document.getElementById("next").onclick = () => go({ page: page + 1 });
    document.getElementById("all").hidden = !(state.id || state.cause || state.group || state.chars || state.q);
  };

  const go = (changes) => {
    history.replaceState(null, "", address(changes));
    read();
    draw();
  };

  const read = () => {
    const [name, query] = location.hash.split("?");
    if (name === "#samples") state = Object.fromEntries(new URLSearchParams(query ?? ""));
    return name === "#samples" && query !== undefined;
  };

  if (!tasks.length) return;
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["cause", "group", "chars"]) {
    form[name].addEventListener("change", () => go({ [name]: form[name].value, page: "", id: "" }));
  }
  form.task.addEventListener("change", () => {
    state = {};
    go({ task: form.task.value });
  });
  let typing;
  form.q.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => go({ q: form.q.value, page: "", id: "" }), 250);
  });
  document.getElementById("all").addEventListener("click", () => {
    const task = state.task ?? "";
    state = {};
    go({ task });
  });
  const follow = () => {
    if (!read()) return;
    document.getElementById("samples").scrollIntoView();
    document.getElementById("samples-title").focus({ preventScroll: true });
    draw();
  };
  window.addEventListener("hashchange", follow);
  if (read()) follow();
  else draw();
})();
