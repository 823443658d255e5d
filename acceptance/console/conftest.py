"""A server with accounts and jobs, and a browser in front of it."""

import os

import pytest
from playwright.sync_api import sync_playwright

from server import Server

BROWSER = os.environ.get("KJOB_BROWSER", "/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        # The sandbox needs what containers do not give; the only pages are ours.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def make_server(tmp_path):
    """Starts a server with accounts and demo endpoints: ann and bob are users, root is an admin."""
    servers = []

    def make_server(*arguments):
        servers.append(Server(tmp_path, *arguments))
        return servers[-1]

    yield make_server
    for server in servers:
        server.stop()


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def open_page(browser):
    """Opens the console in a window of its own; whatever goes wrong in a page fails the test."""
    contexts, wrong = [], []

    def open_page(server, path="/", user=None, size=(1280, 800), scheme="light", motion="no-preference"):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            reduced_motion=motion,
            accept_downloads=True,
            locale="en-GB",
            timezone_id="UTC",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))

        def on_console(message):
            # That a login failed is told by the browser, too.
            if message.type == "error" and "Failed to load resource" not in message.text:
                wrong.append(message.text)

        page.on("console", on_console)
        page.goto(f"{server.url}{path}")
        if user:
            page.get_by_label("Name").fill(user)
            page.get_by_label("Password", exact=True).fill(server.password)
            page.get_by_role("button", name="Log in").click()
            page.get_by_role("navigation", name="Main").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
