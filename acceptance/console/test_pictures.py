"""The pictures of the documentation, made where KJOB_CONSOLE_PICTURES says where to."""

import os
import pathlib
import random
import threading
import time

import pytest

PICTURES = os.environ.get("KJOB_CONSOLE_PICTURES")
# How long the server is at work before its charts are looked at.
WORK_SECONDS = 120
SIZE = (1180, 700)

pytestmark = pytest.mark.skipif(not PICTURES, reason="pictures are made when they are asked for")


def picture(page, name):
    # Moved away from whatever lies under it.
    page.mouse.move(1, 1)
    page.wait_for_timeout(600)
    page.screenshot(path=pathlib.Path(PICTURES) / f"{name}.png")


def work(server, until):
    """Submits what several users might, now more and now less of it."""
    choice = random.Random(7)
    began = time.monotonic()
    while time.monotonic() < until:
        wave = 1 + ((time.monotonic() - began) % 60) / 30
        for _ in range(int(choice.randint(1, 6) * wave)):
            user = choice.choice(["ann", "ann", "bob"])
            kind = choice.random()
            if kind < 0.55:
                server.submit("/demo/primes", {"limit": choice.randint(20, 400) * 100_000}, user)
            elif kind < 0.9:
                server.submit("/demo/sleep", {"millis": int(choice.expovariate(1 / 2500))}, user)
            elif kind < 0.96:
                server.submit("/demo/fail", {"message": "no space left for the table sales_2026"}, user)
            else:
                job = server.submit("/demo/sleep", {"millis": 8_000}, user)
                server.call("DELETE", f"/jobs/{job}", user=user)
        time.sleep(choice.uniform(0.2, 0.9))


def test_pictures(make_server, open_page):
    server = make_server("--workers", "12")
    login = open_page(server, size=SIZE)
    picture(login, "login")
    working = threading.Thread(target=work, args=(server, time.monotonic() + WORK_SECONDS))
    working.start()
    working.join()
    for number, (endpoint, payload) in enumerate(
        [("/demo/sleep", {"millis": 40_000}), ("/demo/primes", {"limit": 10_000_000_000}), ("/demo/sleep", {"millis": 25_000})]
    ):
        server.submit(endpoint, payload, "bob", job_tag=f"nightly-report-{number + 1}")
    failed = server.submit("/demo/fail", {"message": "no space left for the table sales_2026"}, "ann", job_tag="import-sales-2026")
    done = server.submit("/demo/primes", {"limit": 1_000_000}, "bob", job_tag="primes-up-to-1e6")
    server.ended(done)
    time.sleep(4)
    page = open_page(server, user="root", size=SIZE)
    page.locator(f"#job-{done}").wait_for()
    picture(page, "list")
    page.goto(f"{server.url}/#/overview")
    page.locator(".chart").first.wait_for()
    page.get_by_role("img", name="Throughput").focus()
    picture(page, "overview")
    page.goto(f"{server.url}/#/jobs/{failed}")
    page.get_by_role("heading", name="/demo/fail").wait_for()
    picture(page, "error")
    page.goto(f"{server.url}/#/submit?from={done}")
    page.get_by_label("Payload, JSON").wait_for()
    picture(page, "submit")
    running = server.submit(
        "/demo/primes", {"limit": 10_000_000_000}, "ann", job_tag="primes-up-to-1e10", user_data="for the report of November"
    )
    dark = open_page(server, f"/#/jobs/{running}", user="ann", scheme="dark", size=SIZE)
    dark.get_by_role("progressbar").wait_for()
    dark.wait_for_timeout(2_500)
    picture(dark, "running")
    phone = open_page(server, user="bob", size=(360, 720))
    phone.locator(f"#job-{done}").wait_for()
    picture(phone, "phone")
    for file in pathlib.Path(PICTURES).glob("*.png"):
        assert file.stat().st_size < 150_000, file
