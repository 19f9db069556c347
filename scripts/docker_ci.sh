#!/bin/sh
# Make Docker work on a bare CI machine: engine, base image, and the sandbox images that tests run in. What is there is kept.
# A fresh machine downloads about 3 GB and needs about six minutes and 8 GB of disk for this, beside the environment of the bubblewrap
# backend with the same packages (6 GB): the same tests run on both backends.
set -eu
cd "$(dirname "$0")/.."

have() { command -v "$1" >/dev/null 2>&1; }

if ! have dockerd || ! have docker || ! have debootstrap; then
  [ "$(id -u)" = 0 ] && have apt-get || { echo "Docker or debootstrap is missing; install them: apt-get install docker.io debootstrap" >&2; exit 1; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io debootstrap iptables >/dev/null
fi

# One engine: a second one would tear down the network of the first.
if ! docker info >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] || { echo "No Docker engine answers, and only root can start one." >&2; exit 1; }
  mkdir -p .tools
  # What a killed engine left would keep a new one from starting once its process id is somebody else's.
  grep -qsx dockerd /proc/[0-9]*/comm || rm -f /var/run/docker.pid /var/run/docker/containerd/containerd.pid
  setsid dockerd >.tools/dockerd.log 2>&1 </dev/null &
  waited=0
  until docker info >/dev/null 2>&1; do
    waited=$((waited + 1))
    [ $waited -le 60 ] || { echo "dockerd did not start:" >&2; tail -20 .tools/dockerd.log >&2; exit 1; }
    sleep 1
  done
fi

sh scripts/docker_base.sh
state=$(mktemp -d) # of no custodian, so that nothing is laid over the images
trap 'rm -rf "$state"' EXIT
.venv/bin/clinloop images build minimal onnx cpu cuda detection --sandbox docker --base-image clinloop/base:bookworm --state "$state"

# Disk: leftovers always; where it gets short also the images of earlier states of this repository, children first.
docker image prune --force --filter label=org.clinloop.image >/dev/null
folder=$(docker info --format '{{.DockerRootDir}}')
if [ "$(df --output=avail -k "$folder" | tail -1)" -lt 20000000 ]; then
  for name in detection cuda cpu onnx minimal; do
    docker image ls --quiet "clinloop/$name" | tail -n +2 | xargs -r docker image rm >/dev/null || true
  done
fi
df -h "$folder"
