"use strict";

const CHAT = "/v1/chat";
const KEPT = 100; // messages on the page; the oldest leave first
const COOKIE = /^better-auth\.session_token=[\w.%-]+$/;
const ENDS = {
  1000: "You have left.",
  1001: "The demonstration has ended.",
  1006: "Not let in, or cut off. Open the page by the link that sidecar demo printed.",
  1009: "Cut off: the message was too long.",
};

const status = document.getElementById("status");
const messages = document.getElementById("messages");
const form = document.getElementById("form");
const input = document.getElementById("message");
const leave = document.getElementById("leave");

// The link carries a session behind its #, which no browser sends. A real application's sign-in
// would have set the cookie, and hidden it from scripts.
function signIn() {
  const cookie = location.hash.slice(1);
  if (COOKIE.test(cookie)) {
    // Cookies know no ports (RFC 6265 section 8.5): others on this host need not get it.
    document.cookie = `${cookie}; Path=${CHAT}; SameSite=Strict`;
    history.replaceState(null, "", location.pathname);
  }
}

function show(text, kind) {
  const item = document.createElement("li");
  item.className = kind;
  item.textContent = text;
  messages.append(item);
  item.scrollIntoView({ block: "end" });
  if (messages.children.length > KEPT) {
    messages.firstChild.remove();
  }
}

function allow(isConnected) {
  for (const button of form.querySelectorAll("button")) {
    button.disabled = !isConnected;
  }
}

function connect() {
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}${CHAT}/live`);
  socket.addEventListener(
    "message",
    ({ data: hello }) => {
      const caller = JSON.parse(hello);
      status.textContent = `Connected as ${caller.role} of organization ${caller.organization_id}.`;
      allow(true);
      socket.addEventListener("message", ({ data }) => show(data, "received"));
    },
    { once: true },
  );
  socket.addEventListener("close", ({ code }) => {
    status.textContent = ENDS[code] ?? `Disconnected (${code}).`;
    allow(false);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    socket.send(input.value);
    show(input.value, "sent");
    form.reset();
  });
  leave.addEventListener("click", () => socket.close(1000));
}

// Another link to this page changes nothing but what is behind the #, which loads nothing.
addEventListener("hashchange", () => location.reload());
signIn();
connect();
