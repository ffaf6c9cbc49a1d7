/** The operator's page reads itself anew every other second, while somebody looks. */
document.documentElement.classList.add("js");

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
  document.getElementById("live").replaceWith(page.getElementById("live"));
}

const state = document.getElementById("state");
setInterval(() => {
  if (paused || document.hidden) return;
  read().then(
    () => (state.textContent = ""),
    () => (state.textContent = "The server does not answer; what you see is old."),
  );
}, 2000);
