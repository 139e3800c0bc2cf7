// Watches runs in a browser, as people do: opens the page, starts a run on it, and tells what is shown. A line of JSON at
// each change, `{"run", "events", "told"}`, until the run is finished there; then what else went wrong on the page.
//
// node watch.cjs CHROMIUM PAGE DIRECTORY [SCREENSHOT]

const { chromium } = require("playwright-core");

const LIMIT = 60_000;
// No sandbox: the page is our own, and who runs the tests may be root, whom Chromium gives none.
const ARGUMENTS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

const [program, page, directory, screenshot] = process.argv.slice(2);

// Runs in the page: what it shows of the run.
function shown() {
  const card = document.querySelector("#runs article");
  if (!card) return null;
  const text = (name) => [...card.querySelectorAll(name)].map((element) => element.textContent);
  return { run: card.id.replace("run-", ""), state: card.dataset.state, events: text("li"), told: text("p")[0] };
}

async function watch(tab) {
  await tab.goto(page);
  await tab.click("#start");
  for (let events = 0; ; ) {
    const more = await tab.waitForFunction(
      ([look, known]) => {
        const now = eval(`(${look})`)();
        return now && now.events.length > known ? now : null;
      },
      [shown.toString(), events],
      { timeout: LIMIT },
    );
    const now = await more.jsonValue();
    events = now.events.length;
    console.log(JSON.stringify(now));
    if (now.state === "finished") return;
  }
}

async function main() {
  const options = { executablePath: program, args: ARGUMENTS, timeout: LIMIT, viewport: { width: 900, height: 700 } };
  const browser = await chromium.launchPersistentContext(directory, options);
  try {
    const tab = await browser.newPage();
    const errors = [];
    tab.on("pageerror", (error) => errors.push(String(error)));
    await watch(tab);
    if (screenshot) await tab.screenshot({ path: screenshot });
    console.log(JSON.stringify({ errors }));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
