"""Holds the deployment against its own rules; run it through deploy/check.sh.

It reads the compose file as Compose has loaded it, the configuration of Redpanda Console and the
contract in proto/. It starts nothing.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Console v3 refuses a file with a key that it does not know. These are the ones used here, from
# its reference configuration, docs/config/console.yaml at v3.10.0. A leaf names its type.
CONSOLE_KEYS = {
    "kafka": {"brokers": list},
    "serde": {
        "maxDeserializationPayloadSize": int,
        "protobuf": {
            "enabled": bool,
            "mappings": list,
            "fileSystem": {"enabled": bool, "paths": list, "refreshInterval": str},
        },
    },
    "server": {"listenPort": int},
    "analytics": {"enabled": bool},
}
MAPPING_KEYS = {"topicName", "keyProtoType", "valueProtoType"}

# The topic of the streams that no aggregate owns; it stands in no option of the contract.
RAW_TOPIC = "raw-events"

# What Console brings along itself.
BUILT_IN_IMPORTS = ("google/protobuf/", "google/type/", "confluent/")

# Console ignores larger files.
MAX_PROTO_BYTES = 500_000


def check_compose(model):
    """Yields what is wrong with the loaded compose file."""
    services = model["services"]
    for name in ("redpanda", "console", "command", "query", "saga"):
        if name not in services:
            yield f"docker-compose.yml has no service {name}"
    for name, service in services.items():
        if not service.get("healthcheck", {}).get("test"):
            yield f"service {name} has no health check"
        tag = service.get("image", "").partition(":")[2]
        if tag in ("", "latest"):
            yield f"service {name} has no pinned image: {service.get('image')}"
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                yield f"service {name} publishes port {port.get('published')} beyond 127.0.0.1"
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                yield f"service {name} waits for the health of {other}, which has no check"
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and not pathlib.Path(volume["source"]).exists():
                yield f"service {name} mounts {volume['source']}, which does not exist"
    published = [p["published"] for s in services.values() for p in s.get("ports", [])]
    for port in sorted({p for p in published if published.count(p) > 1}):
        yield f"port {port} is published twice"


def check_flags(model, binary):
    """Yields what the binary, as it is, does not understand of the command lines."""
    for name in ("command", "query"):
        verb, *flags = model["services"][name]["command"]
        if verb != name:
            yield f"service {name} runs `daybook {verb}`"
        done = subprocess.run([binary, "config", *flags], capture_output=True, text=True, cwd="/")
        if done.returncode != 0:
            yield f"service {name}: daybook refuses its flags: {done.stderr.strip()}"
            continue
        # Each line is a name, a value unless it is empty, and where the value came from.
        settings = dict(line.split()[:2] for line in done.stdout.splitlines())
        listens = {settings[f"{name}_listen"], settings["http_listen"]}
        for port in model["services"][name]["ports"]:
            if f"0.0.0.0:{port['target']}" not in listens:
                yield f"service {name} publishes port {port['target']}, on which it does not listen"
        if settings["data"] not in {v["target"] for v in model["services"][name]["volumes"]}:
            yield f"service {name} keeps its data in {settings['data']}, which is no volume"


def check_keys(value, allowed, path):
    """Yields keys that Console does not know and values of the wrong type."""
    for key, found in value.items():
        here = f"{path}.{key}" if path else key
        expected = allowed.get(key)
        if expected is None:
            yield f"console.yaml: {here} is not a key that this check knows"
        elif isinstance(expected, dict):
            if isinstance(found, dict):
                yield from check_keys(found, expected, here)
            else:
                yield f"console.yaml: {here} is not a mapping"
        elif not isinstance(found, expected):
            yield f"console.yaml: {here} is not of type {expected.__name__}"


def check_console(config, model):
    """Yields what is wrong with the configuration of Console, against contract and compose file."""
    yield from check_keys(config, CONSOLE_KEYS, "")
    protobuf = config["serde"]["protobuf"]
    console = model["services"]["console"]

    mounts = {v["target"]: pathlib.Path(v["source"]) for v in console["volumes"]}
    if console["environment"].get("CONFIG_FILEPATH") not in mounts:
        yield "console: CONFIG_FILEPATH is not a mounted file"
    if not any(p["target"] == config["server"]["listenPort"] for p in console["ports"]):
        yield "console: the port it listens on is not published"
    command = model["services"]["redpanda"]["command"]
    for broker in config["kafka"]["brokers"]:
        if f"--advertise-kafka-addr=internal://{broker}" not in ",".join(command):
            yield f"console: the broker {broker} is not what redpanda advertises"

    messages, topics = set(), {RAW_TOPIC}
    for path in protobuf["fileSystem"]["paths"]:
        root = mounts.get(path)
        if root is None:
            yield f"console.yaml: {path} is not mounted"
            continue
        for file in sorted(root.rglob("*.proto")):
            text = re.sub(r"//.*", "", file.read_text(encoding="utf-8"))
            package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)[1]
            messages |= {f"{package}.{m}" for m in re.findall(r"^message (\w+)", text, re.M)}
            topics |= set(re.findall(r'\btopic: "([^"]+)"', text))
            for name in re.findall(r'^import "([^"]+)";', text, re.MULTILINE):
                if not name.startswith(BUILT_IN_IMPORTS) and not (root / name).exists():
                    yield f"{file}: the import {name} is not below {root}"
            if file.stat().st_size > MAX_PROTO_BYTES:
                yield f"{file} is larger than {MAX_PROTO_BYTES} bytes: Console ignores it"

    mapped = set()
    for mapping in protobuf["mappings"]:
        mapped.add(mapping["topicName"])
        for key in mapping.keys() - MAPPING_KEYS:
            yield f"console.yaml: a mapping has the unknown key {key}"
        if mapping["valueProtoType"] not in messages:
            yield f"console.yaml: {mapping['valueProtoType']} is not a top-level message of proto/"
    for topic in sorted(topics - mapped):
        yield f"console.yaml: the topic {topic} has no mapping; add it, so that Console decodes it"
    for topic in sorted(mapped - topics):
        yield f"console.yaml: the topic {topic} is not declared in proto/"


def main():
    """Prints every problem; fails when there is one."""
    model = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    config = yaml.safe_load((ROOT / "deploy/console.yaml").read_text(encoding="utf-8"))
    problems = [*check_compose(model), *check_console(config, model)]
    binary = os.environ.get("DAYBOOK_BIN")
    if binary:
        problems += check_flags(model, pathlib.Path(binary).resolve())
    else:
        print("the flags of the services are not checked: DAYBOOK_BIN names no daybook")
    for problem in problems:
        print(f"deploy/check.sh: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{len(model['services'])} services, Console and contract agree")


if __name__ == "__main__":
    main()
