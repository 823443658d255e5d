"""A hundred thousand jobs in the list."""

JOBS = 100_000
# Of a window of this height some forty rows are seen, and a few above and below are there.
ROWS_MAX = 80

# Scrolls to the end, and counts what is in the page on the way, and what kept the browser busy.
SCROLL = """async () => {
  const grid = document.getElementById("grid");
  const long = [];
  new PerformanceObserver((list) => list.getEntries().forEach((it) => long.push(Math.round(it.duration))))
    .observe({ type: "longtask" });
  let [most, still, frames, blank] = [0, 0, 0, 0];
  while (still < 60) {
    const before = grid.scrollTop;
    grid.scrollTop += 15_000;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    const rows = grid.querySelectorAll("[role=row]");
    most = Math.max(most, rows.length);
    // The window is full of rows.
    const box = grid.getBoundingClientRect();
    const middle = document.elementFromPoint(box.left + 40, box.top + box.height / 2);
    blank += middle?.closest("[role=row]") ? 0 : 1;
    frames += 1;
    still = grid.scrollTop === before ? still + 1 : 0;
  }
  return { most, frames, blank, long, top: grid.scrollTop };
}"""


def test_a_hundred_thousand_jobs_scroll(server, open_page):
    server.fill(JOBS)
    last = server.submit("/demo/echo", {"message": "last"})
    assert last == JOBS + 1
    page = open_page(server, user="ann", size=(1280, 1000))
    grid = page.get_by_role("grid")
    page.locator(f"#job-{last}").wait_for()
    assert page.get_by_role("row").count() <= ROWS_MAX
    told = page.evaluate(SCROLL)
    print(f"{told['frames']} steps, {len(told['long'])} tasks of more than 50 ms, the longest {max(told['long'], default=0)} ms")
    assert told["most"] <= ROWS_MAX, told
    # The oldest job, at the end, and all others above it.
    page.locator("#job-1").wait_for()
    assert grid.get_attribute("aria-rowcount") == str(JOBS + 2)
    assert page.locator("#job-1").get_attribute("aria-rowindex") == str(JOBS + 2)
    page.get_by_text("100,001 jobs").wait_for()
    # The row in the middle is that of the job in the middle.
    height = page.evaluate("document.querySelector('.row').offsetHeight")
    grid.evaluate("(grid, top) => { grid.scrollTop = top; }", height * (JOBS // 2))
    page.locator(f"#job-{last - JOBS // 2}").wait_for()
    # What is new does not move what one reads.
    before = grid.evaluate("(grid) => grid.scrollTop")
    newest = server.submit("/demo/echo", {"message": "new"})
    page.get_by_role("button", name="1 new").wait_for()
    assert grid.evaluate("(grid) => grid.scrollTop") == before
    page.get_by_role("button", name="1 new").click()
    page.locator(f"#job-{newest}").wait_for()
    # By keys to both ends.
    grid.focus()
    page.keyboard.press("End")
    page.locator("#job-1[aria-selected=true]").wait_for()
    page.keyboard.press("Home")
    page.locator(f"#job-{newest}[aria-selected=true]").wait_for()
