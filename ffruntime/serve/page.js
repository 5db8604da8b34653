"use strict";

async function session() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  await fetch("/api/v1/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
}

async function classify(picture) {
  const response = await fetch("/api/v1/classify", { method: "POST", body: picture });
  const said = await response.json();
  document.getElementById("answer").textContent = response.ok ? said.answers[0].label : said.error.message;
}

session();
document.getElementById("picture").addEventListener("change", (event) => classify(event.target.files[0]));
