"""Rules of the CIS Docker Benchmark 1.6, part 5 (container runtime) and what of part 4 a running stack shows.

Each rule reads one service of `docker compose config --format json` or one container of `docker inspect`, and brings its
own breach: a change that it must find. The numbers are the benchmark's; `P` rules are ours. Not here: 5.22 and 5.23 (what
an operator does with `docker exec`). 5.18 is read as "no service raises a limit".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

Document = dict[str, Any]

CAPABILITIES = {
    # Root without a network, for a second: gives secrets to other users, reads a settings file that only its owner may.
    "secrets": {"CHOWN", "DAC_OVERRIDE"},
}
"""Service → capabilities that it has in spite of `cap_drop: [ALL]`."""
ROOT = {"secrets"}
"""Services that may run as root; the reason stands at CAPABILITIES."""
PUBLISHED = {"mlflow": {5000}, "tls": {80, 443}}
"""Service → ports inside that are published, on loopback."""
PRIVILEGED = {"tls": {80, 443}}
"""Service → ports below 1024 on the host, each on the same port inside: browsers and ACME look for TLS there."""
SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sys", "/usr", "/var")
"""Host folders that no container may mount; of /dev, /etc, /proc and /sys nothing below them either."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: number and words, as the test's name.
        finds: what is wrong with a document, empty where nothing is.
        breach: changes a healthy document so that `finds` must speak.
    """

    id: str
    finds: Callable[[Document], str]
    breach: Callable[[Document], None]


def _put(*path: Any, value: Any) -> Callable[[Document], None]:
    def breach(document: Document) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return breach


def _unless(good: bool, found: Any) -> str:
    return "" if good else f"found {found!r}"


def _is_sensitive(source: str) -> bool:
    return (
        source in SENSITIVE
        or "docker.sock" in source
        or source.startswith(("/proc/", "/sys/", "/dev/", "/etc/"))
    )


def _options(service: Document) -> list[str]:
    return [option.replace("=", ":") for option in service.get("security_opt") or []]


def _binds(service: Document) -> list[str]:
    return [volume["source"] for volume in service.get("volumes", []) if volume["type"] == "bind"]


def _ports(service: Document) -> set[int]:
    return {int(port["target"]) for port in service.get("ports", [])}


def _is_unprivileged(name: str, port: Document) -> bool:
    published = int(port.get("published") or 0)
    if published in PRIVILEGED.get(name, ()):
        return published == int(port["target"])
    return published == 0 or published >= 1024


def _long_running(service: Document) -> bool:
    return service.get("restart", "no") != "no"


def _unsized(tmpfs: list[str]) -> list[str]:
    return [mount for mount in tmpfs if "size=" not in mount]


CONFIG = (
    Rule(
        "5.1 AppArmor is not switched off",
        lambda s: _unless("apparmor:unconfined" not in _options(s), _options(s)),
        lambda s: s["security_opt"].append("apparmor=unconfined"),
    ),
    Rule(
        "5.2 SELinux is not switched off",
        lambda s: _unless("label:disable" not in _options(s), _options(s)),
        lambda s: s["security_opt"].append("label=disable"),
    ),
    Rule(
        "5.3 all capabilities are dropped",
        lambda s: _unless(s.get("cap_drop") == ["ALL"], s.get("cap_drop")),
        _put("cap_drop", value=["NET_RAW"]),
    ),
    Rule(
        "5.3 only listed capabilities are added",
        lambda s: _unless(set(s.get("cap_add", [])) <= CAPABILITIES.get(s["name"], set()), s.get("cap_add")),
        _put("cap_add", value=["NET_ADMIN"]),
    ),
    Rule(
        "5.4 not privileged",
        lambda s: _unless(not s.get("privileged"), "privileged"),
        _put("privileged", value=True),
    ),
    Rule(
        "5.5 no sensitive folder of the host",
        lambda s: _unless(not any(map(_is_sensitive, _binds(s))), _binds(s)),
        _put("volumes", value=[{"type": "bind", "source": "/etc", "target": "/x"}]),
    ),
    Rule(
        "5.7 no privileged port of the host",
        lambda s: _unless(
            all(map(partial(_is_unprivileged, s["name"]), s.get("ports", []))),
            s.get("ports"),
        ),
        _put("ports", value=[{"target": 5000, "published": "80", "host_ip": "127.0.0.1"}]),
    ),
    Rule(
        "5.8 only needed ports are published",
        lambda s: _unless(_ports(s) <= PUBLISHED.get(s["name"], set()), s.get("ports")),
        _put("ports", value=[{"target": 22, "published": "2222", "host_ip": "127.0.0.1"}]),
    ),
    Rule(
        "5.9 not the host's network",
        lambda s: _unless(s.get("network_mode") != "host", s.get("network_mode")),
        _put("network_mode", value="host"),
    ),
    Rule(
        "5.10 memory is limited",
        lambda s: _unless(int(s.get("mem_limit", 0)) > 0, s.get("mem_limit")),
        lambda s: s.pop("mem_limit"),
    ),
    Rule(
        "5.11 CPU is limited",
        lambda s: _unless(int(s.get("cpu_quota", 0)) > 0 or float(s.get("cpus", 0)) > 0, s.get("cpu_quota")),
        _put("cpu_quota", value="0"),
    ),
    Rule(
        "5.12 the root file system is read-only",
        lambda s: _unless(s.get("read_only") is True, s.get("read_only")),
        _put("read_only", value=False),
    ),
    Rule(
        "5.13 ports are bound to loopback",
        lambda s: _unless(all(p.get("host_ip") == "127.0.0.1" for p in s.get("ports", [])), s.get("ports")),
        _put("ports", value=[{"target": 5000, "published": "5000"}]),
    ),
    Rule(
        # `unless-stopped` in place of on-failure:5: the reason stands at the anchor in docker-compose.yml.
        "5.14 a restart is bounded or justified",
        lambda s: _unless(
            s.get("restart", "no") in ("no", "unless-stopped", "on-failure:5"), s.get("restart")
        ),
        _put("restart", value="always"),
    ),
    Rule(
        "5.15 not the host's processes",
        lambda s: _unless(not s.get("pid"), s.get("pid")),
        _put("pid", value="host"),
    ),
    Rule(
        "5.16 not the host's IPC",
        lambda s: _unless(s.get("ipc", "private") in ("private", "none"), s.get("ipc")),
        _put("ipc", value="host"),
    ),
    Rule(
        "5.17 no device of the host",
        lambda s: _unless(not s.get("devices") and not s.get("device_cgroup_rules"), s.get("devices")),
        _put("devices", value=[{"source": "/dev/sda", "target": "/dev/sda"}]),
    ),
    Rule(
        "5.18 no limit of files or processes is raised",
        lambda s: _unless(not s.get("ulimits"), s.get("ulimits")),
        _put("ulimits", value={"nofile": 1000000}),
    ),
    Rule(
        "5.19 no shared mount",
        lambda s: _unless(
            not any("shared" in (v.get("bind") or {}).get("propagation", "") for v in s.get("volumes", [])),
            s.get("volumes"),
        ),
        _put("volumes", value=[{"type": "bind", "source": "/x", "bind": {"propagation": "rshared"}}]),
    ),
    Rule(
        "5.20 not the host's name",
        lambda s: _unless(not s.get("uts"), s.get("uts")),
        _put("uts", value="host"),
    ),
    Rule(
        "5.21 seccomp is not switched off",
        lambda s: _unless("seccomp:unconfined" not in _options(s), _options(s)),
        lambda s: s["security_opt"].append("seccomp:unconfined"),
    ),
    Rule(
        "5.24 the default control group, and a view of it alone",
        lambda s: _unless(not s.get("cgroup_parent") and s.get("cgroup") == "private", s.get("cgroup")),
        _put("cgroup", value="host"),
    ),
    Rule(
        "5.25 no new privileges",
        lambda s: _unless("no-new-privileges:true" in _options(s), _options(s)),
        _put("security_opt", value=[]),
    ),
    Rule(
        "5.26 what runs on has a healthcheck",
        lambda s: _unless(
            not _long_running(s)
            or (bool(s.get("healthcheck", {}).get("test")) and not s["healthcheck"].get("disable")),
            s.get("healthcheck"),
        ),
        lambda s: s.update(restart="unless-stopped", healthcheck={}),
    ),
    Rule(
        "5.27 no image but those made here, by version",
        lambda s: _unless(
            s["image"].startswith("paddock/")
            and s["image"].rpartition(":")[2] != "latest"
            and s.get("pull_policy") == "never",
            (s["image"], s.get("pull_policy")),
        ),
        _put("pull_policy", value="missing"),
    ),
    Rule(
        "5.28 processes are limited",
        lambda s: _unless(0 < int(s.get("pids_limit", 0)) <= 1024, s.get("pids_limit")),
        lambda s: s.pop("pids_limit"),
    ),
    Rule(
        "5.29 not the engine's default bridge",
        lambda s: _unless(
            s.get("network_mode") == "none" or (bool(s.get("networks")) and "default" not in s["networks"]),
            (s.get("network_mode"), s.get("networks")),
        ),
        lambda s: s.update(network_mode="bridge", networks=None),
    ),
    Rule(
        "5.30 not the host's users",
        lambda s: _unless(not s.get("userns_mode"), s.get("userns_mode")),
        _put("userns_mode", value="host"),
    ),
    Rule(
        "5.31 not the engine's socket",
        lambda s: _unless(not any("docker.sock" in source for source in _binds(s)), _binds(s)),
        _put("volumes", value=[{"type": "bind", "source": "/var/run/docker.sock", "target": "/x"}]),
    ),
    Rule(
        "P1 temporary file systems have a size",
        lambda s: _unless(not _unsized(s.get("tmpfs") or []), s.get("tmpfs")),
        _put("tmpfs", value=["/tmp:mode=1777"]),
    ),
    Rule(
        "P2 logs are rotated",
        lambda s: _unless(
            {"max-size", "max-file"} <= (s.get("logging", {}).get("options") or {}).keys(), s.get("logging")
        ),
        _put("logging", value={"driver": "json-file"}),
    ),
    Rule(
        "P3 no secret by its name in an environment",
        lambda s: _unless(
            not (
                named := [
                    name
                    for name, value in (s.get("environment") or {}).items()
                    if value
                    and name.endswith(("_KEY", "_PASSWORD", "_SECRET", "_TOKEN"))
                    and not name.startswith("HAS_")
                ]
            ),
            named,
        ),
        _put("environment", value={"SOME_API_KEY": "value"}),
    ),
)
"""Rules for a service of `docker compose config --format json`, with its name added as `name`."""


def _host(name: str) -> Callable[[Document], Any]:
    return lambda container: container["HostConfig"].get(name)


def service_of(container: Document) -> str:
    """The Compose service of a container."""
    return container["Config"]["Labels"]["com.docker.compose.service"]


def _engine_options(container: Document) -> list[str]:
    return [option.replace("=", ":") for option in container["HostConfig"].get("SecurityOpt") or []]


def _published(container: Document) -> list[Document]:
    bindings = container["HostConfig"].get("PortBindings") or {}
    return [
        {"target": int(port.partition("/")[0]), **binding}
        for port, found in bindings.items()
        for binding in found or []
    ]


def _bare(capabilities: list[str] | None) -> set[str]:
    return {name.removeprefix("CAP_") for name in capabilities or []}


def _running(container: Document) -> bool:
    return container["State"]["Status"] == "running"


def _status(container: Document, field: str) -> str:
    """A field of the first process's /proc/1/status; empty for a container that does not run."""
    lines = container["Status"].splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field + ":")), "")


def _breach_status(field: str, value: str) -> Callable[[Document], None]:
    def breach(container: Document) -> None:
        container["State"]["Status"] = "running"
        container["Status"] = f"{field}:\t{value}\n"

    return breach


CONTAINER = (
    Rule(
        "4.1 the first process is no root",
        lambda c: _unless(
            not _running(c) or service_of(c) in ROOT or _status(c, "Uid").split()[0] != "0", _status(c, "Uid")
        ),
        _breach_status("Uid", "0\t0\t0\t0"),
    ),
    Rule(
        "4.1 no process is root",
        lambda c: _unless(
            service_of(c) in ROOT or not any(user in ("root", "0") for user, _ in c["Processes"]),
            c["Processes"],
        ),
        lambda c: c["Processes"].append(("root", "sh")),
    ),
    Rule(
        "5.1 AppArmor is not switched off",
        lambda c: _unless(c.get("AppArmorProfile") != "unconfined", c.get("AppArmorProfile")),
        _put("AppArmorProfile", value="unconfined"),
    ),
    Rule(
        "5.2 SELinux is not switched off",
        lambda c: _unless("label:disable" not in _engine_options(c), _engine_options(c)),
        _put("HostConfig", "SecurityOpt", value=["label=disable"]),
    ),
    Rule(
        "5.3 all capabilities are dropped",
        lambda c: _unless(_bare(_host("CapDrop")(c)) == {"ALL"}, _host("CapDrop")(c)),
        _put("HostConfig", "CapDrop", value=None),
    ),
    Rule(
        "5.3 only listed capabilities are added",
        lambda c: _unless(
            _bare(_host("CapAdd")(c)) <= CAPABILITIES.get(service_of(c), set()), _host("CapAdd")(c)
        ),
        _put("HostConfig", "CapAdd", value=["SYS_ADMIN"]),
    ),
    Rule(
        "5.3 the first process has no capability in effect, nor in its bounding set",
        lambda c: _unless(
            not _running(c) or int(_status(c, "CapEff"), 16) == int(_status(c, "CapBnd"), 16) == 0,
            (_status(c, "CapEff"), _status(c, "CapBnd")),
        ),
        _breach_status("CapBnd", "00000000a80425fb\nCapEff:\t0000000000000000"),
    ),
    Rule(
        "5.4 not privileged",
        lambda c: _unless(not _host("Privileged")(c), "privileged"),
        _put("HostConfig", "Privileged", value=True),
    ),
    Rule(
        "5.5 no sensitive folder of the host",
        lambda c: _unless(
            not any(_is_sensitive(m["Source"]) for m in c["Mounts"] if m["Type"] == "bind"), c["Mounts"]
        ),
        _put("Mounts", value=[{"Type": "bind", "Source": "/", "Propagation": "rprivate"}]),
    ),
    Rule(
        "5.6 no SSH server",
        lambda c: _unless(not any("sshd" in command for _, command in c["Processes"]), c["Processes"]),
        lambda c: c["Processes"].append(("1000", "/usr/sbin/sshd -D")),
    ),
    Rule(
        "5.7 no privileged port of the host",
        lambda c: _unless(
            all(p["HostPort"] in ("", "0") or int(p["HostPort"]) >= 1024 for p in _published(c)),
            _published(c),
        ),
        _put("HostConfig", "PortBindings", value={"5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}),
    ),
    Rule(
        "5.8 only needed ports are published",
        lambda c: _unless(
            {p["target"] for p in _published(c)} <= PUBLISHED.get(service_of(c), set()), _published(c)
        ),
        _put("HostConfig", "PortBindings", value={"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": "2222"}]}),
    ),
    Rule(
        "5.9 not the host's network",
        lambda c: _unless(_host("NetworkMode")(c) != "host", _host("NetworkMode")(c)),
        _put("HostConfig", "NetworkMode", value="host"),
    ),
    Rule(
        "5.10 memory is limited",
        lambda c: _unless(_host("Memory")(c) > 0, _host("Memory")(c)),
        _put("HostConfig", "Memory", value=0),
    ),
    Rule(
        "5.11 CPU is limited",
        lambda c: _unless(_host("CpuQuota")(c) > 0 or _host("NanoCpus")(c) > 0, _host("CpuQuota")(c)),
        lambda c: c["HostConfig"].update(CpuQuota=0, NanoCpus=0),
    ),
    Rule(
        "5.12 the root file system is read-only",
        lambda c: _unless(_host("ReadonlyRootfs")(c) is True, _host("ReadonlyRootfs")(c)),
        _put("HostConfig", "ReadonlyRootfs", value=False),
    ),
    Rule(
        "5.13 ports are bound to loopback",
        lambda c: _unless(all(p["HostIp"] == "127.0.0.1" for p in _published(c)), _published(c)),
        _put("HostConfig", "PortBindings", value={"5000/tcp": [{"HostIp": "", "HostPort": "5000"}]}),
    ),
    Rule(
        # As in CONFIG: the reason stands at the anchor in docker-compose.yml.
        "5.14 a restart is bounded or justified",
        lambda c: _unless(
            (c["HostConfig"]["RestartPolicy"]["Name"] or "no") in ("no", "unless-stopped", "on-failure"),
            c["HostConfig"]["RestartPolicy"],
        ),
        _put("HostConfig", "RestartPolicy", "Name", value="always"),
    ),
    Rule(
        "5.14 no service had to be restarted",
        lambda c: _unless(c["RestartCount"] == 0, c["RestartCount"]),
        _put("RestartCount", value=3),
    ),
    Rule(
        "5.15 not the host's processes",
        lambda c: _unless(not _host("PidMode")(c), _host("PidMode")(c)),
        _put("HostConfig", "PidMode", value="host"),
    ),
    Rule(
        "5.16 not the host's IPC",
        lambda c: _unless(_host("IpcMode")(c) in ("private", "none"), _host("IpcMode")(c)),
        _put("HostConfig", "IpcMode", value="host"),
    ),
    Rule(
        "5.17 no device of the host",
        lambda c: _unless(
            not _host("Devices")(c) and not _host("DeviceRequests")(c) and not _host("DeviceCgroupRules")(c),
            _host("Devices")(c),
        ),
        _put("HostConfig", "Devices", value=[{"PathOnHost": "/dev/sda"}]),
    ),
    Rule(
        "5.18 no limit of files or processes is raised",
        lambda c: _unless(not _host("Ulimits")(c), _host("Ulimits")(c)),
        _put("HostConfig", "Ulimits", value=[{"Name": "nofile", "Hard": 1000000}]),
    ),
    Rule(
        "5.19 no shared mount",
        lambda c: _unless(not any("shared" in m.get("Propagation", "") for m in c["Mounts"]), c["Mounts"]),
        _put("Mounts", value=[{"Type": "bind", "Source": "/x", "Propagation": "rshared"}]),
    ),
    Rule(
        "5.20 not the host's name",
        lambda c: _unless(not _host("UTSMode")(c), _host("UTSMode")(c)),
        _put("HostConfig", "UTSMode", value="host"),
    ),
    Rule(
        "5.21 seccomp is not switched off",
        lambda c: _unless("seccomp:unconfined" not in _engine_options(c), _engine_options(c)),
        _put("HostConfig", "SecurityOpt", value=["seccomp=unconfined"]),
    ),
    Rule(
        "5.21 the first process is filtered by seccomp",
        lambda c: _unless(not _running(c) or _status(c, "Seccomp") == "2", _status(c, "Seccomp")),
        _breach_status("Seccomp", "0"),
    ),
    Rule(
        "5.24 the default control group, and a view of it alone",
        lambda c: _unless(
            not _host("CgroupParent")(c) and _host("CgroupnsMode")(c) == "private", _host("CgroupnsMode")(c)
        ),
        _put("HostConfig", "CgroupnsMode", value="host"),
    ),
    Rule(
        "5.25 no new privileges",
        lambda c: _unless(
            bool({"no-new-privileges:true", "no-new-privileges"} & set(_engine_options(c))),
            _engine_options(c),
        ),
        _put("HostConfig", "SecurityOpt", value=None),
    ),
    Rule(
        "5.25 the first process can gain no privileges",
        lambda c: _unless(not _running(c) or _status(c, "NoNewPrivs") == "1", _status(c, "NoNewPrivs")),
        _breach_status("NoNewPrivs", "0"),
    ),
    Rule(
        "5.26 what runs on is healthy",
        lambda c: _unless(
            c["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")
            or c["State"].get("Health", {}).get("Status") == "healthy",
            c["State"],
        ),
        lambda c: (
            c["HostConfig"]["RestartPolicy"].update(Name="unless-stopped"),
            c["State"].update(Health={"Status": "unhealthy"}),
        ),
    ),
    Rule(
        "5.28 processes are limited",
        lambda c: _unless(0 < (_host("PidsLimit")(c) or 0) <= 1024, _host("PidsLimit")(c)),
        _put("HostConfig", "PidsLimit", value=None),
    ),
    Rule(
        "5.29 not the engine's default bridge",
        lambda c: _unless(_host("NetworkMode")(c) not in ("default", "bridge"), _host("NetworkMode")(c)),
        _put("HostConfig", "NetworkMode", value="bridge"),
    ),
    Rule(
        "5.30 not the host's users",
        lambda c: _unless(not _host("UsernsMode")(c), _host("UsernsMode")(c)),
        _put("HostConfig", "UsernsMode", value="host"),
    ),
    Rule(
        "5.31 not the engine's socket",
        lambda c: _unless(not any("docker.sock" in m.get("Source", "") for m in c["Mounts"]), c["Mounts"]),
        _put("Mounts", value=[{"Type": "bind", "Source": "/var/run/docker.sock", "Propagation": ""}]),
    ),
    Rule(
        "P1 temporary file systems have a size and no setuid programs",
        lambda c: _unless(
            all(
                "size=" in options and "suid" not in options.replace("nosuid", "").split(",")
                for options in (_host("Tmpfs")(c) or {}).values()
            ),
            _host("Tmpfs")(c),
        ),
        _put("HostConfig", "Tmpfs", value={"/tmp": "mode=1777"}),
    ),
    Rule(
        "P2 logs are rotated",
        lambda c: _unless(
            {"max-size", "max-file"} <= (c["HostConfig"]["LogConfig"].get("Config") or {}).keys(),
            c["HostConfig"]["LogConfig"],
        ),
        _put("HostConfig", "LogConfig", value={"Type": "json-file", "Config": {}}),
    ),
    Rule(
        "P4 what the engine hides of /proc stays hidden",
        lambda c: _unless(
            "/proc/kcore" in (_host("MaskedPaths")(c) or [])
            and "/proc/sys" in (_host("ReadonlyPaths")(c) or []),
            _host("MaskedPaths")(c),
        ),
        _put("HostConfig", "MaskedPaths", value=None),
    ),
)
"""Rules for a container of `docker inspect`, with `Status` (its /proc/1/status) and `Processes` (user, command) added."""
