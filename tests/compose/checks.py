"""compose.yaml and the image as they are on an engine: ``make compose-test``, in this order, on one stack.

No test of ``make test``, which needs no engine: its name does not begin with ``test_``.
"""

import base64
import json
import time
import urllib.error

import pytest
import yaml

from tests.compose.stack import NAME, PROJECT, SETTINGS, Stack, eventually

pytestmark = pytest.mark.timeout(900)

#: Seconds until a standby leads: the lease, and the second of its next try; until what is due has ended: an interval,
#: and the same where the leader dies meanwhile. The rest is for a busy machine.
LEADS_WITHIN, ENDED_WITHIN = 15 + 1 + 10, 15 + 5 + 15


def put_in_due(stack: Stack, label: str, count: int = 500) -> None:
    """Put conversations into the table that are due since a minute, half of them for their expiry."""
    stack.sql(
        "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, session_key, status,"
        " created_at, updated_at, idle_at, expires_at)"
        f" SELECT gen_random_uuid(), '{label}', 'sms', '+33600000001', '+33123456789', '{label}:' || n, 'progress',"
        " now() - interval '1 day', now() - interval '1 hour',"
        " now() + CASE WHEN n % 2 = 0 THEN interval '1 hour' ELSE interval '-1 minute' END,"
        " now() + CASE WHEN n % 2 = 0 THEN interval '-1 minute' ELSE interval '1 hour' END"
        f" FROM generate_series(1, {count}) AS n"
    )


def how_ended(stack: Stack, label: str) -> list[str]:
    """Return how many of them ended by which status, each with exactly one event of it."""
    return stack.sql(
        "SELECT c.status || '=' || count(*) FROM conversations c"
        " WHERE owner_id = '" + label + "' AND ended_at IS NOT NULL AND 1 ="
        " (SELECT count(*) FROM conversation_events e WHERE e.conv_id = c.conv_id AND e.ended AND e.status = c.status)"
        " GROUP BY c.status ORDER BY c.status"
    )


def assert_ended(stack: Stack, label: str, count: int = 500) -> None:
    expected = [f"expired={count // 2}", f"idle_timeout={count // 2}"]
    eventually(lambda: how_ended(stack, label) == expected, seconds=ENDED_WITHIN, what=f"the end of {label}")


def test_the_migration_has_run_once_and_ended_well(stack: Stack) -> None:
    [migrate] = stack.containers("migrate")
    assert stack.inspect(migrate)["State"]["ExitCode"] == 0
    assert stack.inspect(migrate)["RestartCount"] == 0


def test_what_is_due_is_ended(stack: Stack) -> None:
    put_in_due(stack, "first")
    assert_ended(stack, "first")


def test_settings_of_the_env_file_reach_both_roles(stack: Stack) -> None:
    assert {task["interval_seconds"] for task in stack.status()["tasks"]} == {5}
    for service in ("worker", "scheduler"):
        told = stack.run_in(stack.containers(service)[0], "printenv", "BACKGROUND_TASK_INTERVAL")
        assert told.strip() == SETTINGS["BACKGROUND_TASK_INTERVAL"]


@pytest.mark.parametrize("service", ["worker", "scheduler"])
def test_a_container_may_do_nothing_that_it_need_not(stack: Stack, service: str) -> None:
    container = stack.containers(service)[0]
    status = stack.run_in(container, "cat", "/proc/1/status")

    assert "Uid:\t10001\t10001\t10001\t10001" in status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert stack.inspect(container)["HostConfig"]["ReadonlyRootfs"]
    assert stack.run_in(container, "sh", "-c", "touch /srv/adjourn/it 2>/dev/null || echo no").strip() == "no"


def test_the_image_holds_no_secret_and_says_what_it_is(stack: Stack) -> None:
    configured = json.loads(stack.engine("image", "inspect", NAME))[0]["Config"]

    assert not [variable for variable in configured["Env"] if "PASSWORD" in variable or "_URL" in variable]
    assert configured["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert {"title", "description", "version", "revision"} <= {
        label.rpartition(".")[2] for label in configured["Labels"]
    }


def test_the_image_tells_what_it_consists_of(stack: Stack) -> None:
    worker = stack.containers("worker")[0]
    bill = json.loads(stack.run_in(worker, "cat", "/usr/share/doc/adjourn/sbom.cdx.json"))
    listed = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = stack.run_in(worker, "/opt/adjourn/bin/python", "-c", listed).split()

    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "adjourn")
    told = [bill["metadata"]["component"], *bill["components"]]
    assert sorted(f"{one['name']}=={one['version']}" for one in told) == sorted(installed)


def test_ports_are_open_to_this_machine_only(stack: Stack) -> None:
    published = {}
    for service in ("redis", "postgres", "worker", "scheduler", "prometheus", "grafana"):
        for container in stack.containers(service):
            ports = stack.inspect(container)["NetworkSettings"]["Ports"]
            for binding in [each for bindings in ports.values() for each in bindings or []]:
                published[service] = f"http://{binding['HostIp']}:{binding['HostPort']}"

    assert published == {"prometheus": stack.prometheus, "grafana": stack.grafana}


def test_the_standby_leads_when_the_leader_is_killed(stack: Stack) -> None:
    killed = stack.leader()
    assert killed is not None
    stack.engine("kill", killed)
    put_in_due(stack, "killed")

    assert_ended(stack, "killed")
    eventually(lambda: stack.leader() not in {None, killed}, seconds=LEADS_WITHIN, what="another leader")
    stack.up()
    stack.wait_until_up()


@pytest.mark.parametrize("service", ["scheduler", "worker"])
def test_a_main_process_that_is_killed_is_started_again(stack: Stack, service: str) -> None:
    container = stack.leader() if service == "scheduler" else stack.containers("worker")[0]
    assert container is not None
    before = stack.inspect(container)["RestartCount"]
    stack.signal(container, "KILL")
    put_in_due(stack, f"{service}-crashed")

    eventually(lambda: stack.inspect(container)["RestartCount"] == before + 1, seconds=30, what="the restart")
    stack.wait_until_up()
    assert_ended(stack, f"{service}-crashed")


def test_each_replica_is_scraped_also_those_that_are_added(stack: Stack) -> None:
    def scraped() -> dict[str, int]:
        targets = stack.ask(f"{stack.prometheus}/api/v1/targets?state=active")["data"]["activeTargets"]
        jobs = [target["labels"]["job"] for target in targets if target["health"] == "up"]
        return {job: jobs.count(job) for job in jobs}

    eventually(
        lambda: scraped() == {"adjourn-worker": 1, "adjourn-scheduler": 2}, seconds=60, what="three targets that are up"
    )
    stack.up("--scale", "worker=3", "--no-recreate")
    stack.wait_until_up(worker=3)
    eventually(
        lambda: scraped() == {"adjourn-worker": 3, "adjourn-scheduler": 2}, seconds=60, what="five targets that are up"
    )
    put_in_due(stack, "scaled")
    assert_ended(stack, "scaled")
    stack.up("--scale", "worker=1", "--no-recreate")
    stack.wait_until_up()
    eventually(lambda: scraped()["adjourn-worker"] == 1, seconds=60, what="the end of the targets that have gone")


def test_rules_and_alerts_are_loaded_and_see_adjourn(stack: Stack) -> None:
    groups = stack.ask(f"{stack.prometheus}/api/v1/rules")["data"]["groups"]
    written = [
        yaml.safe_load((PROJECT / "deploy" / "prometheus" / f"{name}.yml").read_text()) for name in ("rules", "alerts")
    ]

    assert {group["name"] for group in groups} == {group["name"] for file in written for group in file["groups"]}
    assert not [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
    answer = stack.ask(f"{stack.prometheus}/api/v1/query?query=max(background_workers_alive)")
    assert float(answer["data"]["result"][0]["value"][1]) >= 2


def test_grafana_has_the_dashboard_and_its_prometheus(stack: Stack) -> None:
    login = base64.b64encode(f"admin:{SETTINGS['GRAFANA_PASSWORD']}".encode()).decode()
    dashboard = json.loads((PROJECT / "deploy" / "grafana" / "dashboards" / "adjourn.json").read_text())
    try:
        stack.ask(f"{stack.grafana}/api/org", Authorization=f"Basic {login}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            pytest.skip("this Grafana answers its health check and nothing else")
        raise

    found = stack.ask(f"{stack.grafana}/api/dashboards/uid/{dashboard['uid']}", Authorization=f"Basic {login}")
    source = stack.ask(f"{stack.grafana}/api/datasources/uid/adjourn-prometheus", Authorization=f"Basic {login}")
    assert found["meta"]["provisioned"]
    assert source["url"] == "http://prometheus:9090"


def test_a_worker_that_hangs_is_unhealthy_until_it_goes_on(stack: Stack) -> None:
    [worker] = stack.containers("worker")

    def health() -> str:
        return str(stack.inspect(worker)["State"]["Health"]["Status"])

    # All but the init, and the shell itself.
    stack.run_in(worker, "sh", "-c", "kill -s STOP -- -1")
    eventually(lambda: health() == "unhealthy", seconds=75, what="an unhealthy worker")
    stack.run_in(worker, "sh", "-c", "kill -s CONT -- -1")
    eventually(lambda: health() == "healthy", seconds=60, what="a healthy worker")


def test_traffic_comes_when_it_is_asked_for(stack: Stack) -> None:
    assert stack.containers("traffic") == []
    stack.compose("--profile", "traffic", "up", "--detach", "--no-recreate", "traffic")
    counting = "SELECT count(*) FROM conversations WHERE owner_id IN ('kite-airlines', 'maple-bank')"
    eventually(lambda: int(stack.sql(counting)[0]) > 5, seconds=60, what="traffic")

    [traffic] = stack.containers("traffic")
    started = time.monotonic()
    stack.engine("stop", traffic)
    assert time.monotonic() - started < 5
    assert stack.inspect(traffic)["State"]["ExitCode"] == 0
    stack.engine("rm", traffic)


def test_all_of_it_stops_in_its_grace_and_comes_back(stack: Stack) -> None:
    ours = [*stack.containers("worker"), *stack.containers("scheduler")]
    started = time.monotonic()
    stack.compose("stop")
    took = time.monotonic() - started

    assert [stack.inspect(container)["State"]["ExitCode"] for container in ours] == [0, 0, 0]
    assert took < 30
    stack.up()
    stack.wait_until_up()


def test_nothing_is_lost_when_it_is_taken_down_and_started_again(stack: Stack) -> None:
    term = stack.status()["last_term"]
    stack.compose("stop", "worker", "scheduler")
    last = stack.sql("SELECT max(event_id) FROM conversation_events")[0]
    # What the traffic of before has left open may end afterwards, and has events above these.
    counting = (
        "SELECT (SELECT count(*) FROM conversations WHERE owner_id <> 'meanwhile'),"
        f" (SELECT count(*) FROM conversation_events WHERE event_id <= {last})"
    )
    before = stack.sql(counting)
    put_in_due(stack, "meanwhile")

    stack.compose("down")
    stack.up()
    stack.wait_until_up()

    assert_ended(stack, "meanwhile")
    assert stack.sql(counting) == before
    # Redis kept what it had: the terms go on where they were.
    assert stack.status()["last_term"] > term
