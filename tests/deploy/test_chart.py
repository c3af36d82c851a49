"""The Helm chart: what it makes is what Kubernetes takes, asks for the least, and follows its values."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from masdeepflow import __version__, config
from masdeepflow.cli.options import LISTS, NAMES, Options
from masdeepflow.cli.run import command as run_command
from masdeepflow.enrich.kubernetes import rbac
from masdeepflow.kernel.privileges import CAPABILITIES
from masdeepflow.sinks import listen
from tests.deploy.conftest import CHART, ROOT
from tests.support.helm import helm
from tests.support.programs import clean_environment, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.programs import Finished

    Documents = list[dict[str, Any]]
    Render = Callable[..., Documents]

EVERYTHING = (
    "podMonitor.enabled=true",
    "serviceMonitor.enabled=true",
    "runtimeSocket=/run/containerd/containerd.sock",
    "priorityClassName=system-node-critical",
    "imagePullSecrets[0].name=registry",
    "seLinuxOptions.type=spc_t",
    "extraEnv[0].name=A,extraEnv[0].value=b",
    "extraArgs={--queue-time}",
    "extraVolumes[0].name=extra,extraVolumes[0].emptyDir.medium=Memory",
    "extraVolumeMounts[0].name=extra,extraVolumeMounts[0].mountPath=/extra",
    "podAnnotations.a=b",
    "podLabels.c=d",
)
MONITORS = {"PodMonitor", "ServiceMonitor"}


def one(documents: Documents, kind: str) -> dict[str, Any]:
    """Return the only document of a kind."""
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def _agent(documents: Documents) -> dict[str, Any]:
    containers: Documents = one(documents, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    (found,) = containers
    return found


def _rules(documents: Documents) -> list[rbac.Rule]:
    rules = one(documents, "ClusterRole")["rules"]
    return [rbac.Rule(*(tuple(rule[name]) for name in ("apiGroups", "resources", "verbs"))) for rule in rules]


def test_chart_has_no_fault_that_helm_finds(chart_tool: Callable[..., Finished]) -> None:
    """`helm lint --strict`, with the values as they are."""
    linted = chart_tool("lint", "--strict", CHART)
    assert linted.code == 0, linted.stdout


@pytest.mark.parametrize("version", ["1.25", "1.29", "1.30", "1.37"])
@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["plain", "everything"])
def test_documents_fit_the_schemas_of_kubernetes(
    render: Render, version: str, values: tuple[str, ...]
) -> None:
    """Of the oldest version, the newest, and those around a change; an unknown field is a fault."""
    documents = render(*values, kubernetes=version)
    assert {"DaemonSet", "ClusterRole", "ServiceAccount", "ConfigMap", "Secret"} <= {
        document["kind"] for document in documents
    }
    for document in documents:
        if document["kind"] not in MONITORS:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_container_has_the_capabilities_it_needs_and_no_others(render: Render) -> None:
    """Those of the agent's own table; nothing privileged, nothing writable, no way to more."""
    context = _agent(render())["securityContext"]
    assert context["capabilities"] == {
        "drop": ["ALL"],
        "add": [capability.name.removeprefix("CAP_") for capability in CAPABILITIES],
    }
    assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
    assert context["readOnlyRootFilesystem"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_nothing_of_the_node_is_given_but_its_pids(render: Render) -> None:
    """Not its network, not its files; the runtime's socket for who asks for it."""
    spec = one(render(), "DaemonSet")["spec"]["template"]["spec"]
    assert spec["hostPID"] is True
    assert not {"hostNetwork", "hostIPC"} & set(spec)
    assert [volume["name"] for volume in spec["volumes"] if "hostPath" in volume] == []
    volumes = one(render("runtimeSocket=/run/crio/crio.sock"), "DaemonSet")["spec"]["template"]["spec"][
        "volumes"
    ]
    (socket,) = [volume["hostPath"] for volume in volumes if "hostPath" in volume]
    assert socket == {"path": "/run/crio/crio.sock", "type": "Socket"}


def test_sys_admin_in_place_of_bpf_is_possible(render: Render) -> None:
    """For runtimes that do not know CAP_BPF; Kubernetes refuses allowPrivilegeEscalation: false beside it."""
    context = _agent(render("capabilities={SYS_ADMIN,SYS_PTRACE}"))["securityContext"]
    assert context["capabilities"]["add"] == ["SYS_ADMIN", "SYS_PTRACE"]
    assert context["allowPrivilegeEscalation"] is True


@pytest.mark.parametrize(("version", "field"), [("1.29", False), ("1.30", True)])
def test_apparmor_is_said_as_the_version_knows_it(render: Render, version: str, field: bool) -> None:  # noqa: FBT001  # a case
    """A field of the security context since Kubernetes 1.30, an annotation of the pod before."""
    documents = render(kubernetes=version)
    annotations = one(documents, "DaemonSet")["spec"]["template"]["metadata"]["annotations"]
    assert ("appArmorProfile" in _agent(documents)["securityContext"]) == field
    assert annotations.get("container.apparmor.security.beta.kubernetes.io/agent") == (
        None if field else "unconfined"
    )


def test_the_role_is_what_the_agent_watches_and_no_more(render: Render) -> None:
    """Held to the rules that the watching code states; no Secrets, and nothing that changes anything."""
    rules = _rules(render())
    assert rules == list(rbac.CLUSTER)
    assert {verb for rule in rules for verb in rule.verbs} <= {"get", "list", "watch"}
    binding = one(render(), "ClusterRoleBinding")
    account = one(render(), "ServiceAccount")["metadata"]
    assert [(subject["name"], subject["namespace"]) for subject in binding["subjects"]] == [
        (account["name"], account["namespace"])
    ]


def test_without_kubernetes_names_there_is_no_role_and_no_token(render: Render) -> None:
    """Who turns it off gives nothing away."""
    documents = render("kubernetes.source=off")
    assert not {"ClusterRole", "ClusterRoleBinding"} & {document["kind"] for document in documents}
    spec = one(documents, "DaemonSet")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "--kubernetes=off" in _agent(documents)["args"]


def test_the_kubelet_is_asked_at_the_nodes_address(render: Render) -> None:
    """With the role for that, and no other."""
    documents = render("kubernetes.source=kubelet")
    assert _rules(documents) == list(rbac.KUBELET)
    agent = _agent(documents)
    assert {"--kubernetes=kubelet", "--kubelet-url=https://$(NODE_ADDRESS):10250"} <= set(agent["args"])
    assert {each["name"] for each in agent["env"]} >= {"NODE_NAME", "NODE_ADDRESS"}


def test_probes_ask_what_is_open_and_the_rest_asks_for_the_token(render: Render) -> None:
    """/healthz on the pod's address needs no token; the server refuses that address without one."""
    agent = _agent(render())
    for probe in ("livenessProbe", "readinessProbe"):
        assert agent[probe]["httpGet"] == {"path": listen._PUBLIC, "port": "http"}
    (address,) = [word for word in agent["args"] if word.startswith("--listen=")]
    host, port = listen.parse_address(address.removeprefix("--listen="))
    assert not listen._is_loopback(host)
    assert agent["ports"] == [{"name": "http", "containerPort": port}]
    (token,) = [each for each in agent["env"] if each["name"] == "MASDEEPFLOW_LISTEN_TOKEN"]
    secret = one(render(), "Secret")
    assert token["valueFrom"]["secretKeyRef"] == {"name": secret["metadata"]["name"], "key": "token"}


def test_token_is_random_unless_there_is_a_secret(render: Render) -> None:
    """Long, another each time; a Secret that the user names is used as it is."""
    first, second = (base64.b64decode(one(render(), "Secret")["data"]["token"]) for _ in range(2))
    assert len(first) == len(second) == 40
    assert first != second
    own = render("listen.token.existingSecret=mine", "listen.token.key=bearer")
    assert "Secret" not in {document["kind"] for document in own}
    (reference,) = [
        each["valueFrom"]["secretKeyRef"]
        for each in _agent(own)["env"]
        if "secretKeyRef" in each["valueFrom"]
    ]
    assert reference == {"name": "mine", "key": "bearer"}


def test_monitors_send_the_token_to_the_agents_port(render: Render) -> None:
    """Prometheus Operator's shapes: the port by name, the token as bearer credentials from the Secret."""
    documents = render(*EVERYTHING, "listen.token.existingSecret=mine")
    pods = one(documents, "PodMonitor")["spec"]
    services = one(documents, "ServiceMonitor")["spec"]
    for (endpoint,) in (pods["podMetricsEndpoints"], services["endpoints"]):
        assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
        assert endpoint["authorization"] == {
            "type": "Bearer",
            "credentials": {"name": "mine", "key": "token"},
        }
    labels = one(documents, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert pods["selector"]["matchLabels"].items() <= labels.items()
    service = one(documents, "Service")
    assert services["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"][0]["name"] == "http"


def test_configuration_is_one_that_the_agent_reads(render: Render, tmp_path: Path) -> None:
    """The values go through the agent's own reader, and keep their meaning on the way through YAML."""
    documents = render("config.log=json", "config.payload-bytes=560", "config.exclude={port=22,comm=sshd}")
    path = tmp_path / "config.yaml"
    path.write_text(one(documents, "ConfigMap")["data"]["config.yaml"])
    read = config.load(path, NAMES, LISTS)
    assert read["log"] == "json"
    assert read["payload_bytes"] == "560"
    assert read["exclude"] == ["port=22", "comm=sshd"]
    assert set(read) <= set(NAMES)


@pytest.mark.parametrize("source", ["api", "kubelet", "off"])
def test_arguments_are_ones_that_run_takes(render: Render, source: str) -> None:
    """Parsed by the command itself, with the environment of the pod."""
    agent = _agent(render(f"kubernetes.source={source}"))
    words = [word for word in agent["args"][1:] if not word.startswith("--config=")]
    # As the group has it: click keeps a command's help option, the first time, for the whole process.
    context = run_command.make_context("run", words, help_option_names=["-h", "--help"])
    options = Options(**context.params)
    assert (options.kubernetes, options.listen) == (source, ":9419")
    assert {parameter.envvar for parameter in run_command.params} >= {"MASDEEPFLOW_LISTEN_TOKEN"}


def test_a_change_of_the_configuration_starts_the_agents_anew(render: Render) -> None:
    """The template of the pods changes with it, and only then."""

    def checksum(*values: str) -> str:
        template = one(render(*values), "DaemonSet")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("podLabels.a=b") != checksum("config.log=json")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("config.log=on", "'text', 'json', 'off'"),
        ("config.listen=0.0.0.0:1", "listen"),
        ("capabilities={CAP_BPF}", "capabilities"),
        ("listen.port=0", "listen/port"),
        ("imagee.tag=1", "imagee"),
        ("resources.limits.memory=lots", "memory"),
        ("podMonitor.interval=often", "interval"),
        ("image.digest=sha256:1", "digest"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    chart_tool: Callable[..., Finished], value: str, told: str
) -> None:
    """Before anything reaches a cluster, with the place of the mistake."""
    refused = chart_tool("template", "agent", CHART, "--set", value)
    assert refused.code != 0
    assert told in refused.stderr


def test_a_word_that_yaml_takes_for_false_is_refused(
    chart_tool: Callable[..., Finished], tmp_path: Path
) -> None:
    """An `off` without quotes would turn into `false`, which is no log."""
    values = tmp_path / "values.yaml"
    values.write_text("config: {log: off}\n")
    refused = chart_tool("template", "agent", CHART, "--values", values)
    assert refused.code != 0
    assert "config/log" in refused.stderr


def test_every_value_has_a_place_in_the_schema() -> None:
    """And the schema knows no value that the chart has not."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)


def test_versions_are_the_agents() -> None:
    """The chart starts the version that it comes with."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_manifests_are_those_of_the_chart() -> None:
    """What stands in deploy/manifests was made after the last change, and fits Kubernetes' schemas."""
    kept = (ROOT / "deploy" / "manifests" / "masdeepflow.yaml").read_text()
    made = run(ROOT / "deploy" / "manifests.sh", "--print", env=clean_environment(HELM=str(helm())))
    assert (made.code, made.stdout) == (0, kept), "run deploy/manifests.sh"
    for document in yaml.safe_load_all(kept):
        kubernetes_validate.validate(document, "1.30", strict=True)
