"""A headless Chromium without a network, for tests of pages that are files.

In: nothing. Out: a selenium driver whose console log is kept. Chromium and chromedriver must be on the PATH, as
Debian's packages ``chromium`` and ``chromium-driver`` put them there; nothing is downloaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # as root, in a container
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1200,1000",
)


def require_browser() -> tuple[str, str]:
    """The paths of Chromium and chromedriver; the test is skipped where there are none."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs chromium and chromedriver on the PATH: apt-get install chromium chromium-driver")
    return browser, driver


@contextmanager
def open_browser() -> Iterator[Any]:
    """A driver that cannot reach a network and keeps everything that pages write to the console."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: the extra browser")
    browser, driver = require_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        opened.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        opened.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield opened
    finally:
        opened.quit()


def open_page(driver: Any, path: Path) -> None:
    """Load the file at ``path``."""
    driver.get(path.resolve().as_uri())


def console_of(driver: Any) -> list[str]:
    """What the page wrote to the console, errors of loading included, since this was asked last."""
    return [entry["message"] for entry in driver.get_log("browser")]
