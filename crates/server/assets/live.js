/** A page whose numbers move: it reads itself anew every other second, while somebody looks. */

const button = document.getElementById("pause");
let paused = false;
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Go on" : "Pause";
  button.setAttribute("aria-pressed", String(paused));
});

async function read() {
  const response = await fetch(location.href);
  // The session is over: the way leads to the door.
  if (response.redirected) return location.reload();
  if (!response.ok) throw new Error(`status ${response.status}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const live = document.getElementById("live");
  // Whoever opened something is about to read it, or to press what is in it.
  if (live.querySelector("details[open]")) return;
  const reached = (live) => [...live.querySelectorAll("a, summary, [tabindex]")];
  const wide = (live) => [...live.querySelectorAll(".wide")];
  const focused = reached(live).indexOf(document.activeElement);
  const scrolled = wide(live).map((it) => it.scrollLeft);
  live.replaceWith(page.getElementById("live"));
  const now = document.getElementById("live");
  reached(now)[focused]?.focus({ preventScroll: true });
  wide(now).forEach((it, index) => (it.scrollLeft = scrolled[index] ?? 0));
}

const state = document.getElementById("state");
setInterval(() => {
  if (paused || document.hidden) return;
  read().then(
    () => (state.textContent = ""),
    () => (state.textContent = "The server does not answer; what you see is old."),
  );
}, 2000);
