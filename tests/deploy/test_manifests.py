"""The files of deploy/: valid, and as confined as the documents say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from hera.workflows.models import WorkflowTemplate
from pydantic import ValidationError

from app.settings import load_settings
from container.manifests import COMMAND
from gateway.settings import StowDestination
from gateway.settings import load_settings as load_gateway_settings
from monailabel_app.__main__ import parse_arguments as label_arguments

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
VERSION = load_settings(ROOT / "app.yaml").application.version


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / name).read_text()))


@pytest.mark.parametrize("path", sorted((DEPLOY / "kubernetes").glob("*.yaml")), ids=lambda path: path.name)
def test_kubernetes_schema(path: Path) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), "1.31", strict=True)


def test_argo_schema() -> None:
    """Hera's classes are generated from the schema of Argo Workflows; a key they do not have is an error."""
    document = read("argo/workflow.yaml")
    assert (document["apiVersion"], document["kind"]) == ("argoproj.io/v1alpha1", "WorkflowTemplate")
    WorkflowTemplate.model_validate(document, extra="forbid")
    document["spec"]["templates"][0]["retryStrategy"]["limits"] = "2"
    with pytest.raises(ValidationError, match=r"retryStrategy\.limits"):
        WorkflowTemplate.model_validate(document, extra="forbid")


def job() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    pod = read("kubernetes/job.yaml")["spec"]["template"]["spec"]
    return pod, pod["containers"][0], pod["volumes"]


def workflow() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    spec = read("argo/workflow.yaml")["spec"]
    return spec, spec["templates"][0]["container"], spec["volumes"]


@pytest.mark.parametrize("parts", [job, workflow])
def test_confined(parts: Any) -> None:
    pod, container, volumes = parts()
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["resources"]["limits"]["memory"] == "8Gi"
    assert container["image"].endswith(f":{VERSION}")
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/var/holoscan/input"]["readOnly"] is True
    assert set(mounts) == {"/var/holoscan/input", "/var/holoscan/output", "/tmp"}
    assert {mount["name"] for mount in mounts.values()} <= {volume["name"] for volume in volumes}


def test_the_network_policy_is_of_the_jobs_pods() -> None:
    selected = read("kubernetes/network-policy.yaml")["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= read("kubernetes/job.yaml")["spec"]["template"]["metadata"]["labels"].items()


def test_argos_sidecar_reaches_kubernetes() -> None:
    """Without a mounted token the executor must name an account, and its pod must have a network."""
    selected = read("kubernetes/network-policy.yaml")["spec"]["podSelector"]["matchLabels"]
    spec = read("argo/workflow.yaml")["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["executor"]["serviceAccountName"]
    assert not selected.items() <= spec["templates"][0]["metadata"]["labels"].items()


def test_the_workflow_calls_the_entry_point() -> None:
    assert workflow()[1]["command"] == COMMAND


def test_refusals_are_final_everywhere() -> None:
    from app.engine import Outcome

    final = [code for code in range(1, 8) if Outcome(code).is_final]
    rules = read("kubernetes/job.yaml")["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["values"] == final


def test_shipped_gateway_settings() -> None:
    settings = load_gateway_settings(DEPLOY / "gateway.yaml")
    assert settings.receiver is not None
    assert {settings.receiver.host, settings.status.host} == {"127.0.0.1"}


def compose() -> dict[str, Any]:
    """The compose file as the engine sees it: anchors merged, variables filled in."""
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    filled = re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", lambda found: found[2] or f"/{found[1]}", text)
    assert "${" not in filled
    return dict(yaml.safe_load(filled))


def test_compose_schema() -> None:
    """By the compose specification's own rules; an unknown key is an error."""
    document = compose()
    parsed = PyCompose.from_yaml(yaml.safe_dump(document))
    parsed.validate()
    assert set(parsed.service_names()) == {"orthanc", "gateway", "label"}
    mounted = {
        volume.split(":")[0] for service in document["services"].values() for volume in service["volumes"]
    }
    assert {name for name in mounted if not name.startswith((".", "/"))} == set(document["volumes"])
    document["services"]["gateway"]["read_onyl"] = True
    with pytest.raises(ValueError, match="read_onyl"):
        PyCompose.from_yaml(yaml.safe_dump(document))


def test_compose_is_confined_and_on_loopback() -> None:
    services = compose()["services"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in ("gateway", "label"):
        service = services[name]
        assert service["image"].endswith(f"oncotwin-services:{VERSION}")
        assert (service["user"], service["read_only"], service["cap_drop"]) == ("1000:1000", True, ["ALL"])
        assert service["mem_limit"]
        assert service["pids_limit"]


def test_compose_settings_fit_each_other() -> None:
    services = compose()["services"]
    gateway = load_gateway_settings(DEPLOY / "compose" / "gateway.yaml")
    orthanc = json.loads((DEPLOY / "compose" / "orthanc.json").read_text())
    assert gateway.receiver is not None
    assert gateway.orthanc is not None
    assert gateway.priors is not None
    assert isinstance(gateway.destination, StowDestination)
    assert orthanc["DicomModalities"]["gateway"] == [
        gateway.receiver.ae_title,
        "gateway",
        gateway.receiver.port,
    ]
    assert orthanc["DicomAet"] in gateway.receiver.allowed_callers
    for web in (gateway.orthanc, gateway.priors, gateway.destination):
        assert web.url.startswith(f"http://orthanc:{orthanc['HttpPort']}")
        assert web.user in orthanc["RegisteredUsers"]
        assert web.password_from in services["gateway"]["environment"]
    published = {port.split(":")[-1] for port in services["gateway"]["ports"]}
    assert published == {str(gateway.receiver.port), str(gateway.status.port)}
    # The server's own reader takes its command.
    module, *arguments = services["label"]["command"]
    assert module == "monailabel_app"
    options = label_arguments(arguments)
    assert f"127.0.0.1:{options.port}:{options.port}" in services["label"]["ports"]
