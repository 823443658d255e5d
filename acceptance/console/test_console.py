"""What people do with the console, in a browser."""

import re
import time

from playwright.sync_api import expect

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>"


def row(page, job):
    return page.locator(f"#job-{job}")


def until_above(bar, percent):
    """Waits until a bar of progress shows more than that."""
    deadline = time.monotonic() + 30
    while bar.evaluate("(bar) => bar.value") <= percent:
        assert time.monotonic() < deadline
        bar.page.wait_for_timeout(50)


def test_logging_in_and_out(server, open_page):
    page = open_page(server)
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password", exact=True).fill("wrong horse")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    page.get_by_label("Password", exact=True).fill(server.password)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("grid")).to_be_visible()
    expect(page.get_by_text("No jobs yet.")).to_be_visible()
    # What all jobs do together is for admins.
    expect(page.get_by_role("link", name="Overview")).to_have_count(0)
    assert server.password not in page.url and "ann" not in page.url
    kept = page.evaluate("JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie])")
    assert "Basic" not in kept, kept
    page.reload()
    expect(page.get_by_label("Name")).to_be_visible()

    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password", exact=True).fill(server.password)
    page.get_by_label("Stay logged in").check()
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("grid").wait_for()
    page.reload()
    expect(page.get_by_role("grid")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Name")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Name")).to_be_visible()


def test_a_job_from_its_submit_to_its_result(server, open_page):
    page = open_page(server, user="ann")
    page.get_by_role("link", name="Submit", exact=True).click()
    page.get_by_label("Endpoint").fill("/demo/sleep")
    page.get_by_label("Payload, JSON").fill("{")
    expect(page.get_by_text("This is no JSON")).to_be_visible()
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    page.get_by_label("Payload, JSON").fill('{"millis": 2500}')
    page.get_by_label("Tag").fill("a-nap")
    page.get_by_label("Payload, JSON").press("Control+Enter")
    # The page of the job, which tells of its progress without being asked.
    bar = page.get_by_role("progressbar")
    expect(bar).to_be_visible()
    until_above(bar, 20)
    expect(page.get_by_text("running for")).to_be_visible()
    expect(page.get_by_text("slept_millis")).to_be_visible()
    expect(bar).to_have_count(0)
    expect(page.locator("pre.bytes")).to_have_text(re.compile(r'"slept_millis": 2500,\n'))
    expect(page.get_by_label("Timeline")).to_contain_text("Done")
    expect(page.get_by_label("Details")).to_contain_text("a-nap")
    query_id = server.call("GET", "/jobs/tag:a-nap")["query_id"]
    expect(page.get_by_label("Details")).to_contain_text(query_id)
    with page.expect_download() as download:
        page.get_by_label("Result").get_by_role("button", name="Download").click()
    assert download.value.path().read_bytes() == b'{"slept_millis":2500,"info":{}}'

    page.get_by_role("link", name="Submit again").click()
    expect(page.get_by_label("Endpoint")).to_have_value("/demo/sleep")
    expect(page.get_by_label("Payload, JSON")).to_have_value('{\n  "millis": 2500\n}')
    page.get_by_label("Payload, JSON").fill('{"millis": 1}')
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text('"slept_millis": 1,')).to_be_visible()


def test_the_list_is_live_and_jobs_are_cancelled_from_it(server, open_page):
    page = open_page(server, user="ann")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    job = server.submit("/demo/sleep", {"millis": 600_000})
    expect(row(page, job)).to_contain_text("Running")
    until_above(row(page, job).get_by_role("progressbar"), 0)
    others = server.submit("/demo/echo", {"message": "m"}, user="bob")
    done = server.submit("/demo/echo", {"message": "m"})
    expect(row(page, done)).to_contain_text("Done")
    expect(row(page, others)).to_have_count(0)
    # By keys alone.
    grid = page.get_by_role("grid")
    page.keyboard.press("j")
    expect(grid).to_be_focused()
    page.keyboard.press("j")
    expect(row(page, job)).to_have_attribute("aria-selected", "true")
    expect(grid).to_have_attribute("aria-activedescendant", f"job-{job}")
    page.keyboard.press("c")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Cancel job {job}")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(row(page, job)).to_contain_text("Running")
    page.keyboard.press("c")
    dialog.get_by_role("button", name="Cancel the job").click()
    expect(row(page, job)).to_contain_text("Cancelled")
    # What is selected stays so when something comes on top of it.
    more = server.submit("/demo/echo", {"message": "m"})
    expect(row(page, more)).to_contain_text("Done")
    expect(row(page, job)).to_have_attribute("aria-selected", "true")
    grid.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="/demo/sleep")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_role("grid")).to_be_visible()


def test_a_job_is_cancelled_on_its_page(server, open_page):
    job = server.submit("/demo/sleep", {"millis": 600_000})
    page = open_page(server, f"/#/jobs/{job}", user="ann")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_label("Timeline")).to_contain_text("Cancelled")
    assert server.ended(job)["status"] == "CANCELLED"


def test_filters_narrow_the_list_and_are_in_its_address(server, open_page):
    echo = server.submit("/demo/echo", {"message": "m"}, job_tag="greeting")
    fail = server.submit("/demo/fail", {"message": "no"}, user="bob")
    sleep = server.submit("/demo/sleep", {"millis": 600_000})
    server.ended(fail)
    page = open_page(server, user="root")
    for job in (echo, fail, sleep):
        expect(row(page, job)).to_be_visible()
    page.get_by_role("button", name="Error").click()
    expect(row(page, fail)).to_contain_text("no")
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("button", name="Running").click()
    expect(page.get_by_role("row")).to_have_count(3)
    expect(page).to_have_url(re.compile("status=ERROR%2CRUNNING"))
    # A job that is no longer of the list leaves it.
    server.call("DELETE", f"/jobs/{sleep}")
    expect(row(page, sleep)).to_have_count(0)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("row")).to_have_count(4)
    page.keyboard.press("/")
    expect(page.get_by_label("Endpoint")).to_be_focused()
    page.get_by_label("Endpoint").fill("/demo/fail")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Owner").fill("ann")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row")).to_have_count(3)
    page.get_by_label("Tag", exact=True).fill("greeting")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row")).to_have_count(2)
    row(page, echo).click()
    page.get_by_role("navigation", name="Back").get_by_role("link").click()
    expect(page.get_by_label("Tag", exact=True)).to_have_value("greeting")
    page.get_by_label("Submitted").select_option("between …")
    page.get_by_label("to", exact=True).fill("2020-01-01T00:00")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No job matches these filters.")).to_be_visible()


def test_an_error_is_followed_and_whatever_a_job_holds_is_text(server, open_page):
    job = server.submit("/demo/fail", {"message": HOSTILE}, user_data=HOSTILE, job_tag="hostile")
    said = server.submit("/tools/bytes", {}, user="ann")
    large = server.submit("/demo/echo", {"message": HOSTILE * 20_000})
    for each in (job, said, large):
        server.ended(each)
    page = open_page(server, user="ann")
    expect(row(page, job)).to_contain_text("<script>")
    row(page, job).click()
    expect(page.get_by_label("Error")).to_contain_text(HOSTILE)
    expect(page.get_by_label("Details")).to_contain_text(HOSTILE)
    expect(page).to_have_title(f"Job {job} – kjob")
    assert page.locator("#console script, #console img").count() == 0

    # A result that is no text, and what its command said.
    page.goto(f"{server.url}/#/jobs/{said}")
    expect(page.locator("pre.bytes-hex")).to_contain_text("00000000  00 01 50 4e 47 ff")
    expect(page.get_by_label("Log")).to_contain_text("<i>reading</i> the table")
    with page.expect_download() as download:
        page.get_by_label("Result").get_by_role("button", name="Download").click()
    assert download.value.path().read_bytes() == b"\x00\x01PNG\xff"

    # One of more than a mebibyte is looked at in part.
    sizes = []
    page.on("response", lambda answer: "/result" in answer.url and sizes.append(answer.header_value("content-length")))
    page.goto(f"{server.url}/#/jobs/{large}")
    expect(page.get_by_text("This is the beginning.")).to_be_visible()
    assert sizes == ["65536"]
    assert page.locator("#console script, #console img").count() == 0
    page.locator("summary", has_text="Payload").click()
    expect(page.get_by_text("This is the beginning.")).to_have_count(2)


def test_nobody_sees_what_is_not_theirs(server, open_page):
    job = server.submit("/demo/echo", {"message": "m"}, user="bob")
    page = open_page(server, f"/#/jobs/{job}", user="ann")
    expect(page.get_by_role("heading", name="No such job")).to_be_visible()
    page.goto(f"{server.url}/#/overview")
    expect(page.get_by_text("shown to admins")).to_be_visible()


def test_charts_tell_what_happened(server, open_page):
    for number in range(20):
        server.ended(server.submit("/demo/echo", {"message": str(number)}))
    server.submit("/demo/sleep", {"millis": 600_000})
    page = open_page(server, "/#/overview", user="root")
    for name in ("Throughput", "Queue", "Wait", "Run"):
        expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.locator(".tile", has_text="Running")).to_contain_text("1")
    # Of throughput there may be nothing yet: the slot that has only begun is left out.
    for name in ("Queue", "Run"):
        drawn = page.get_by_role("img", name=name).locator("path.line").first.get_attribute("d")
        assert drawn.startswith("M"), (name, drawn)
    chart = page.get_by_role("img", name="Throughput")
    chart.focus()
    page.keyboard.press("End")
    expect(page.locator(".moment").first).to_be_visible()
    page.get_by_role("button", name="Last day").click()
    expect(page.get_by_role("img", name="Queue")).to_be_visible()


def test_it_fits_a_telephone_and_the_dark(server, open_page):
    for number in range(12):
        server.submit("/demo/echo", {"message": str(number)})
    server.submit("/demo/sleep", {"millis": 600_000})
    job = server.submit("/demo/fail", {"message": "no space left in the table /reports/2026"})
    server.ended(job)
    page = open_page(server, user="ann", size=(360, 720), scheme="dark", motion="reduce")
    expect(row(page, job)).to_be_visible()
    for path in ("/", f"/jobs/{job}", "/submit"):
        page.goto(f"{server.url}/#{path}")
        page.get_by_role("main").wait_for()
        page.wait_for_timeout(100)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, f"{path} is {wide} wide"
    page.goto(f"{server.url}/#/")
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Colours").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert dark != light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_a_server_that_goes_is_told_of(server, open_page):
    page = open_page(server, user="ann")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    server.stop()
    expect(page.get_by_text("Reconnecting")).to_be_visible()
