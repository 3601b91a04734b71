"""The console in a real browser, on an installation with two thousand jobs: what people see, and what they can do."""

import re
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal

import grpc
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it comes without types
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, ViewportSize, expect
from prometheus_client.parser import text_string_to_metric_families

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest
from batchyard.api.operations.v1.job_operations_service_pb2 import SubmitJobsRequest
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub
from support.aws import Account
from support.browser import browser
from support.installation import start_up
from support.waiting import soon

__all__ = ["browser"]

DEADLINE_MS = 30_000
QUIET_JOBS = 1_000
WATCH: Final = "batchyard.api.operations.v1.JobOperationsService/WatchJobs"
PHONE: Final[ViewportSize] = {"width": 360, "height": 740}
DESK: Final[ViewportSize] = {"width": 1280, "height": 900}


@dataclass(frozen=True, slots=True)
class World:
    """An installation with jobs of every kind."""

    url: str
    account: Account
    finished: str
    failed: str
    array: str
    waiting: str
    last_of_chain: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        closing(start_up(tmp_path_factory.mktemp("console") / "data")) as installation,
        closing(Account(installation.http_url, "123456789012")) as account,
    ):
        account.define("define", ["sh", "-c", "echo first line; echo second line"])
        account.define("define", ["sh", "-c", "echo first line; echo another line"])
        account.define("wide", ["true"], containerProperties={"vcpus": 1000})
        account.make_queue("nightly")

        def submit(name: str, definition: str = "define:1", **members: Any) -> str:
            return account.submit(jobName=name, jobQueue="default", jobDefinition=definition, **members)

        finished = submit("finished")
        failed = account.submit(["false"], jobName="failed", jobQueue="default", jobDefinition="define:1")
        array = submit("sweep", arrayProperties={"size": 1_000}, containerOverrides={"command": ["true"]})
        waiting = submit("too-wide", "wide")
        middle = submit("middle", dependsOn=[{"jobId": waiting}])
        last = submit("last", dependsOn=[{"jobId": middle}])
        submit_quiet_jobs(installation.grpc_target)
        account.wait_all([finished, failed, array])
        yield World(installation.http_url, account, finished, failed, array, waiting, last)


def submit_quiet_jobs(target: str) -> None:
    """Submit jobs for which there is no room, all in one call."""
    jobs = [
        SubmitJobRequest(job_name=f"quiet-{number:04}", job_queue="nightly", job_definition="wide")
        for number in range(QUIET_JOBS)
    ]
    with grpc.insecure_channel(target) as channel:
        JobOperationsServiceStub(channel).SubmitJobs(SubmitJobsRequest(jobs=jobs))


@pytest.fixture
def context(browser: Browser, world: World) -> Iterator[BrowserContext]:
    fresh = browser.new_context(viewport=DESK, base_url=world.url)
    fresh.set_default_timeout(DEADLINE_MS)
    yield fresh
    fresh.close()


@pytest.fixture
def page(context: BrowserContext, world: World) -> Iterator[Page]:
    """A page that asks nobody but the server, and in which nothing goes wrong."""
    problems: list[str] = []

    def note_foreign(request: Request) -> None:
        if not request.url.startswith(world.url):
            problems.append(request.url)

    fresh = context.new_page()
    fresh.on("pageerror", lambda error: problems.append(str(error)))
    fresh.on("request", note_foreign)
    yield fresh
    fresh.close()
    assert problems == []


expect.set_options(timeout=DEADLINE_MS)


def test_the_overview_shows_queues_fleet_and_why_the_oldest_waits(page: Page, world: World) -> None:
    page.goto("/")
    row = page.locator("#queue-default")
    expect(row.locator(".count.s-pending")).to_have_text("2")
    expect(row.locator(".why")).to_contain_text("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT")
    expect(page.locator("#queue-nightly .count.s-runnable")).to_have_text("1,000")
    expect(page.get_by_text("of 8 taken")).to_be_visible()
    row.locator(".count.s-failed").click()
    expect(page.get_by_role("link", name="failed", exact=True)).to_be_visible()


def test_what_changes_shows_by_itself(page: Page, world: World) -> None:
    page.goto("/jobs?queue=default&status=ALL")
    expect(page.locator("#live")).to_have_text("● live")
    job_id = world.account.submit(jobName="appears", jobQueue="default", jobDefinition="define:1")
    expect(page.locator(f'[id="job-{job_id}"] .badge')).to_have_text("SUCCEEDED")


def test_a_page_asks_for_nothing_while_nothing_changes(page: Page, world: World) -> None:
    with page.expect_response(lambda response: "x-fragment" in response.request.headers):
        page.goto("/queues/nightly")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    # Something elsewhere comes and goes meanwhile.
    world.account.wait(world.account.submit(jobName="elsewhere", jobQueue="default", jobDefinition="define:1"))
    # Those of the test before have gone.
    soon(lambda: samples(world, "batchyard_rpc_open_streams")[WATCH] == 1, "one watch")
    calls = samples(world, "batchyard_rpc_calls_total")
    page.wait_for_timeout(1500)
    assert requests == []
    assert samples(world, "batchyard_rpc_calls_total") == calls


def samples(world: World, name: str) -> dict[str, float]:
    """Return what the server has measured of the calls of pages, by method."""
    with urllib.request.urlopen(f"{world.url}/metrics") as response:
        return {
            sample.labels["method"]: sample.value
            for metric in text_string_to_metric_families(response.read().decode())
            for sample in metric.samples
            if sample.name == name and sample.labels["method"].startswith("batchyard.api.operations")
        }


def test_pages_that_are_open_at_the_same_time_share_one_watch(context: BrowserContext, world: World) -> None:
    pages = [context.new_page() for _ in range(3)]
    for page in pages:
        page.goto("/queues/nightly")
        expect(page.locator("#live")).to_have_text("● live")
    soon(lambda: samples(world, "batchyard_rpc_open_streams")[WATCH] == 1, "one watch, and those of before have gone")
    for page in pages:
        page.close()
    soon(lambda: samples(world, "batchyard_rpc_open_streams")[WATCH] == 0, "the watch ends with the last page")


def test_jobs_are_found_by_status_name_and_id_and_listed_without_end(page: Page, world: World) -> None:
    page.goto("/jobs?queue=nightly&status=RUNNABLE")
    rows = page.locator("#jobs-rows tr")
    expect(rows).to_have_count(100)
    page.locator("#more").scroll_into_view_if_needed()
    expect(rows).to_have_count(200)
    page.goto("/jobs?queue=nightly&q=quiet-0007")
    expect(rows).to_have_count(1)
    page.goto("/jobs?queue=default&status=ALL")
    since = page.get_by_label("Submitted after (UTC)")
    for year, found in (("2020", True), ("2199", False)):
        since.fill(f"{year}-01-31T12:00")
        page.get_by_role("button", name="Show").click()
        expect(since).to_have_value(f"{year}-01-31T12:00")
        expect(rows.first if found else page.get_by_text("No such jobs in default.")).to_be_visible()
    page.locator(".find input").fill(world.failed)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="failed", exact=True)).to_be_visible()


def test_a_job_tells_how_it_went_and_what_it_printed(page: Page, world: World) -> None:
    page.goto(f"/jobs/{world.finished}")
    expect(page.locator("h1 .badge")).to_have_text("SUCCEEDED")
    expect(page.locator("#log-state")).to_have_text("2 lines, complete")
    page.locator("#log-search").fill("second")
    expect(page.locator("#log div:visible")).to_have_count(1)
    page.goto(f"/jobs/{world.failed}")
    expect(page.get_by_role("definition").filter(has_text=re.compile("^1$"))).to_be_visible()


def test_a_log_grows_while_its_job_runs_and_the_job_can_be_terminated(page: Page, world: World) -> None:
    job_id = world.account.submit(
        ["sh", "-c", "while true; do echo tick; sleep 0.2; done"],
        jobName="ticks",
        jobQueue="default",
        jobDefinition="define:1",
    )
    world.account.wait(job_id, "RUNNING")
    page.goto(f"/jobs/{job_id}")
    expect(page.locator("#log div").nth(5)).to_be_visible()
    page.get_by_role("button", name="Terminate").click()
    dialog = page.get_by_role("dialog", name="Terminate ticks?")
    dialog.get_by_label("Reason").fill("seen enough")
    dialog.get_by_role("button", name="Terminate the job").click()
    expect(page.locator("h1 .badge")).to_have_text("FAILED")
    expect(page.locator("p.reason")).to_contain_text("seen enough")


def test_nothing_is_done_when_the_question_is_declined(page: Page, world: World) -> None:
    page.goto(f"/jobs/{world.waiting}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog", name="Cancel too-wide?").get_by_role("button", name="No, go back").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert world.account.describe(world.waiting)["status"] == "RUNNABLE"


def test_a_job_that_waits_can_be_cancelled_and_submitted_again_with_changes(page: Page, world: World) -> None:
    job_id = world.account.submit(jobName="regretted", jobQueue="default", jobDefinition="wide")
    page.goto(f"/jobs/{job_id}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator("h1 .badge")).to_have_text("FAILED")
    page.get_by_role("button", name="Submit again").click()
    text = page.get_by_label("Request")
    text.fill(text.input_value().replace("wide:1", "define:2"))
    page.get_by_role("dialog").get_by_role("button", name="Submit", exact=True).click()
    expect(page.locator("h1")).to_contain_text("regretted")
    expect(page.locator("h1 .badge")).to_have_text("SUCCEEDED")
    assert job_id not in page.url


def test_a_refusal_is_told_in_the_words_of_the_service(page: Page, world: World) -> None:
    page.goto(f"/jobs/{world.finished}")
    page.get_by_role("button", name="Submit again").click()
    text = page.get_by_label("Request")
    text.fill(text.input_value().replace('"default"', '"no-such-queue"'))
    page.get_by_role("dialog").get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("no-such-queue")


def test_an_array_is_a_grid_whose_cells_are_its_children(page: Page, world: World) -> None:
    page.goto(f"/jobs/{world.array}")
    expect(page.get_by_text("SUCCEEDED: 1,000")).to_be_visible()
    box = page.locator("#children").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.055, box["y"] + box["height"] * 0.15)
    expect(page.get_by_text(f"{world.array}:105")).to_be_visible()
    expect(page.get_by_role("link", name=world.array)).to_be_visible()


def test_dependencies_are_drawn_both_ways(page: Page, world: World) -> None:
    page.goto(f"/jobs/{world.last_of_chain}")
    page.get_by_role("link", name="middle: PENDING").click()
    expect(page.locator("p.reason")).to_have_text("It waits for too-wide (RUNNABLE).")
    graph = page.locator("svg.graph")
    expect(graph.locator("a")).to_have_count(3)
    expect(graph.locator("path.edge")).to_have_count(2)
    expect(page.get_by_role("link", name="too-wide: RUNNABLE")).to_be_visible()


def test_queues_are_disabled_and_enabled_and_agents_drained_and_resumed(page: Page, world: World) -> None:
    page.goto("/queues/nightly")
    for button, confirm, state in (
        ("Disable", "Disable the queue", "DISABLED"),
        ("Enable", "Enable the queue", "ENABLED"),
    ):
        page.get_by_role("button", name=button, exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name=confirm).click()
        expect(page.locator("h1 .badge")).to_have_text(state)
    page.goto("/agents")
    for button, state in (("Drain", "DRAINING"), ("Resume", "ACTIVE")):
        page.get_by_role("button", name=button, exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name=re.compile(f"^{button}")).click()
        expect(page.locator("tbody .badge")).to_have_text(state)


def test_agents_show_who_runs_what_and_that_their_leases_are_renewed(page: Page, world: World) -> None:
    job_id = world.account.submit(["sleep", "600"], jobName="long", jobQueue="default", jobDefinition="define:1")
    world.account.wait(job_id, "RUNNING")
    page.goto("/agents")
    row = page.locator("tbody tr")
    expect(row).to_contain_text(re.compile(r"1 of 8"))
    expect(row.locator("[data-label='Lease']")).to_have_text("renewed")
    row.get_by_role("link", name=job_id[:8]).click()
    expect(page.locator("h1")).to_contain_text("long")
    world.account.batch.terminate_job(jobId=job_id, reason="seen")


def test_definitions_show_their_revisions_and_what_differs(page: Page, world: World) -> None:
    page.goto("/definitions")
    page.get_by_role("link", name="define").click()
    expect(page.locator(".diff .removed")).to_contain_text("second line")
    expect(page.locator(".diff .added")).to_contain_text("another line")


def test_the_keyboard_reaches_everything(page: Page, world: World) -> None:
    page.goto("/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("j")
    name = page.locator("tr.chosen .row").inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    page.keyboard.press("/")
    expect(page.locator(".find input")).to_be_focused()


PATHS = [
    "/",
    "/jobs",
    "/queues/default",
    "/agents",
    "/definitions",
    "/definitions/define",
    "job",
    "array",
    "/jobs/gone",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_fits_a_phone(
    browser: Browser, world: World, path: str, scheme: Literal["light", "dark"]
) -> None:
    path = {"job": f"/jobs/{world.last_of_chain}", "array": f"/jobs/{world.array}"}.get(path, path)
    context = browser.new_context(viewport=PHONE, base_url=world.url, color_scheme=scheme)
    try:
        page = context.new_page()
        page.goto(path)
        found = Axe().run(page).response["violations"]
        serious = [problem["id"] for problem in found if problem["impact"] in ("serious", "critical")]
        assert serious == [], found
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        cells = "[...document.querySelectorAll('.stack td')].map(cell => cell.getBoundingClientRect().right)"
        assert max(page.evaluate(cells), default=0) <= PHONE["width"]
    finally:
        context.close()


def test_another_account_sees_nothing_of_this_one(page: Page, world: World) -> None:
    page.goto("/")
    page.get_by_label("Account").fill("999999999999")
    page.keyboard.press("Enter")
    expect(page.get_by_text("There are no job queues in account 999999999999.")).to_be_visible()
    page.goto(f"/jobs/{world.finished}")
    expect(page.get_by_role("alert")).to_contain_text("There is no job")


def test_a_page_that_could_not_be_fetched_is_fetched_later(page: Page, world: World) -> None:
    page.goto("/jobs")
    expect(page.locator("#live")).to_have_text("● live")

    def cut(route: Route) -> None:
        if "x-fragment" in route.request.headers:
            route.abort()
        else:
            route.continue_()

    page.route("**/jobs", cut)
    with page.expect_event("requestfailed", timeout=30_000):
        world.account.submit(jobName="fetched-in-vain", jobQueue="default", jobDefinition="define:1")
    # What was under way when the first one was submitted may have shown it.
    job_id = world.account.submit(jobName="fetched-later", jobQueue="default", jobDefinition="define:1")
    shown = page.locator(f'#jobs-rows a[href="/jobs/{job_id}"]').first
    expect(shown).to_be_hidden()
    page.unroute("**/jobs", cut)
    expect(shown).to_be_visible(timeout=30_000)


def test_a_service_that_comes_back_is_live_again(page: Page, world: World) -> None:
    # The browser opens its streams anew by itself; here the connection is cut from its side.
    page.goto("/")
    expect(page.locator("#live")).to_have_text("● live")
    page.context.set_offline(True)
    page.context.set_offline(False)
    job_id = world.account.submit(jobName="after", jobQueue="default", jobDefinition="define:1")
    soon(lambda: world.account.describe(job_id)["status"] == "SUCCEEDED", "the job's end")
    expect(page.locator("#live")).to_have_text("● live")
