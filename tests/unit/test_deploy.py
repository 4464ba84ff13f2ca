"""The files for deployments name what exists: settings, ports, routes, extras, and the version."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from perdure import __version__
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
CHART = DEPLOY / "helm" / "perdure"
OF_COMMAND = {"PERDURE_URL", "PERDURE_TOKEN"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_and_health_check_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    settings = {f"PERDURE_{name.upper()}" for name in Settings.__struct_fields__}
    assert set(re.findall(r"\bPERDURE_[A-Z_]*[A-Z]\b", text)) <= settings | OF_COMMAND
    routes = {route.path for route in all_routes(Settings(), ThisProcess())}
    assert set(re.findall(r"/health[a-z/]*", text)) <= routes


def test_the_image_installs_extras_that_exist_and_listens_where_it_says() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"'\.\[(.*)\]'", text)
    assert set(named.split(",")) <= set(extras)
    assert f"EXPOSE {Settings().port}" in text
    assert "USER 10001" in text
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name.removeprefix("./") for line in copied for name in line.split()} == kept
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("name", ["sqlite.yaml", "postgres.yaml"])
def test_services_have_room_to_drain_and_cannot_write_their_image(name: str) -> None:
    services = load(DEPLOY / "compose" / name)["services"]
    ours = {key: each for key, each in services.items() if each["image"] == "perdure"}
    assert ours
    for each in ours.values():
        assert each["read_only"] is True
        assert (DEPLOY / "compose" / each["build"]["context"] / each["build"]["dockerfile"]).is_file()
        drain = Settings().drain_seconds + float(each["environment"].get("PERDURE_DRAIN_DELAY_SECONDS", 0))
        assert float(each["stop_grace_period"].removesuffix("s")) >= drain + 10


def test_the_chart_has_the_servers_version() -> None:
    assert load(CHART / "Chart.yaml")["appVersion"] == __version__


def helm(*arguments: str) -> str:
    program = shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_helm_accepts_the_chart() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_helm_renders_what_the_values_ask_for() -> None:
    plain = rendered()
    assert sorted((each["kind"], each["metadata"]["name"]) for each in plain) == [
        ("Deployment", "mine-api"),
        ("Deployment", "mine-worker"),
        ("PodDisruptionBudget", "mine-api"),
        ("Service", "mine"),
    ]
    for each in plain:
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            role = each["metadata"]["name"].removeprefix("mine-")
            assert container["args"] == [role]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["image"] == f"perdure:{__version__}"
            environment = {each["name"]: each.get("value") for each in container["env"]}
            drain = sum(
                float(environment[f"PERDURE_{name}_SECONDS"] or 0) for name in ("DRAIN", "DRAIN_DELAY")
            )
            assert pod["terminationGracePeriodSeconds"] >= drain + 10
    more = rendered(
        *("--set", "ingress.enabled=true,ingress.className=nginx,ingress.tlsSecretName=cert"),
        *("--set", "api.autoscaling.enabled=true,worker.autoscaling.enabled=true"),
        *("--set", "settings.PERDURE_LOG_LEVEL=debug,podDisruptionBudget.enabled=false"),
    )
    kinds = sorted(each["kind"] for each in more)
    scalers = ["HorizontalPodAutoscaler"] * 2
    assert kinds == ["Deployment", "Deployment", *scalers, "Ingress", "Service"]
    deployments = [each for each in more if each["kind"] == "Deployment"]
    assert all("replicas" not in each["spec"] for each in deployments)
    for each in deployments:
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert {"name": "PERDURE_LOG_LEVEL", "value": "debug"} in container["env"]


def rendered(*arguments: str) -> list[Any]:
    text = helm("template", "mine", str(CHART), "--kube-version", "1.30.0", *arguments)
    return [each for each in yaml.safe_load_all(text) if each]
