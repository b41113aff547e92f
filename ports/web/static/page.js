// Live updates, sheets in a dialog, and forms without leaving the page. Without this file all of it works by links and POSTs.
"use strict";
(() => {
  const base = document.body.dataset.base, main = () => document.getElementById("main");
  const sheet = document.getElementById("sheet"), lost = document.getElementById("lost");
  const tell = (text) => { lost.textContent = text; lost.hidden = !text; };
  const ask = (to, more) => fetch(to, { ...more, headers: { "X-Ports": "morph", ...(more || {}).headers } });

  const touched = new WeakSet(); // an attribute would be morphed away

  function update(html) {
    Idiomorph.morph(main(), html, { morphStyle: "outerHTML", ignoreActiveValue: true, callbacks: {
      // what somebody typed or opened stays theirs
      beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS") &&
        !(["value", "checked"].includes(name) && touched.has(node)),
    } });
  }

  let wait = 500, socket, unseen; // a tab that nobody sees has no host asked
  addEventListener("visibilitychange", () => {
    clearTimeout(unseen);
    if (document.hidden) unseen = setTimeout(() => socket.close(), 60000);
    else if (socket.readyState > WebSocket.OPEN) live();
  });
  function live() {
    const to = new URL(base + "-/live", location.href);
    to.protocol = to.protocol.replace("http", "ws");
    to.search = new URLSearchParams({ page: location.pathname + location.search });
    socket = new WebSocket(to);
    socket.onmessage = (event) => { wait = 500; tell(""); update(event.data); };
    socket.onopen = () => { wait = 500; tell(""); };
    socket.onclose = () => {
      if (document.hidden) return;
      if (wait > 1000) tell("This page has lost its server; what you see is old. It tries again by itself.");
      setTimeout(live, wait);
      wait = Math.min(5000, wait * 2);
    };
  }

  function show(html) {
    sheet.innerHTML = html;
    if (!sheet.open) sheet.showModal();
    (sheet.querySelector("[autofocus]") || sheet.querySelector("input:not([type=hidden]), button"))?.focus();
  }

  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-sheet], [data-close], [data-copy]");
    if (event.target === sheet) return sheet.close(); // its backdrop
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if ("close" in link.dataset) return sheet.open ? sheet.close() : history.back();
    if ("copy" in link.dataset) return navigator.clipboard.writeText(link.dataset.copy).then(() => { link.textContent = "Copied"; });
    try { show(await (await ask(link.href)).text()); } catch { location = link.href; }
  });

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.method !== "post" || "plain" in form.dataset) return;
    event.preventDefault();
    const button = event.submitter, body = new URLSearchParams(new FormData(form, button));
    if (button) { button.disabled = true; button.setAttribute("aria-busy", "true"); }
    try {
      const answer = await ask(form.action, { method: "POST", body });
      if (answer.status === 204) sheet.close();
      else if (answer.redirected) location = answer.url;
      else show(await answer.text());
    } catch { tell("The page's server did not answer; nothing is known of what you asked."); }
    if (button) { button.disabled = false; button.removeAttribute("aria-busy"); }
  });

  document.addEventListener("input", (event) => {
    touched.add(event.target);
    const shown = event.target.form?.querySelector(`[data-for="${event.target.name}"]`);
    if (shown) { shown.hidden = !event.target.value; shown.lastElementChild.textContent = event.target.value; }
  });
  document.documentElement.classList.add("js");
  addEventListener("pageshow", live, { once: true });
})();
