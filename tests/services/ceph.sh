#!/usr/bin/env bash
# A throw-away S3 server: Ceph's radosgw with one monitor and one disk on 127.0.0.1, from Debian's packages, which are
# unpacked and not installed. It needs no root, no docker, and no other file of the system.
#
#   ceph.sh install ROOT             download the packages and unpack them into ROOT; nothing to do when that was done
#   ceph.sh start ROOT DATA PORT MON1 MON2
#                                    start it on these ports, and make it first if DATA is new; the keys are test and test
#   ceph.sh start-gateway ROOT DATA  start radosgw alone, after it was killed
#
# What runs stands in DATA/run/{mon,osd,rgw}.pid; what it says, in DATA/log.
set -euo pipefail

region=eu-west-1

install() {
    [ -e "$root/.complete" ] && return
    command -v apt-get > /dev/null && command -v dpkg > /dev/null || fail "Ceph comes from Debian's packages, and apt-get is not here"
    local apt=$root.apt
    rm -rf "$root" "$apt"
    mkdir -p "$root" "$apt/lists/partial" "$apt/archives/partial"
    # Lists and cache of our own: the system's may be old, and belong to root.
    local options=(-qq -o Debug::NoLocking=true -o APT::Sandbox::User="$(id -un)" -o Dir::State::lists="$apt/lists"
        -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" -o Acquire::Retries=3)
    apt-get "${options[@]}" update || fail "apt-get update failed"
    apt-get "${options[@]}" install --yes --no-install-recommends --download-only radosgw ceph-mon ceph-osd > /dev/null ||
        fail "Debian's packages of Ceph (radosgw, ceph-mon, ceph-osd) cannot be downloaded"
    local package
    for package in "$apt"/archives/*.deb; do dpkg --extract "$package" "$root"; done
    rm -rf "$apt"
    touch "$root/.complete"
}

start() {
    find_programs
    local new=
    [ -e "$data/complete" ] || { new=1; prepare "$@"; }
    launch mon "$bin/ceph-mon" --id a
    [ -z "$new" ] || make_disk
    launch osd "$bin/ceph-osd" --id 0
    [ -z "$new" ] || make_user
    start_gateway
    touch "$data/complete"
}

start_gateway() {
    launch rgw "$bin/radosgw" --name client.rgw.a
    local port
    port=$(sed -n 's/.*endpoint=127.0.0.1://p' "$data/ceph.conf")
    for _ in $(seq 600); do
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && return
        kill -0 "$(cat "$data/run/rgw.pid")" 2> /dev/null || fail "radosgw ended; see $data/log"
        sleep 0.1
    done
    fail "radosgw does not listen on port $port; see $data/log"
}

prepare() {
    rm -rf "$data"
    mkdir -p "$data"/{mon,osd,rgw,run,log}
    # The two lines that are not there to make it small: without "crc secure" a radosgw without authentication
    # never reaches its monitor, and one copy of the data is all that one disk can hold.
    cat > "$data/ceph.conf" << EOF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon initial members = a
mon host = [v2:127.0.0.1:$2/0,v1:127.0.0.1:$3/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
run dir = $data/run
log file = $data/log/\$name.log
admin socket = $data/run/\$name.asok
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
plugin dir = $libraries/ceph
erasure code dir = $libraries/ceph/erasure-code
osd class dir = $libraries/rados-classes
osd class load list = *
osd class default list = *
[mon.a]
mon data = $data/mon
mon cluster log file = $data/log/cluster.log
[osd]
osd data = $data/osd
osd objectstore = bluestore
bluestore block size = 8589934592
bluestore block create = true
osd memory target = 939524096
osd numa auto affinity = false
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:$1
rgw data = $data/rgw
rgw dynamic resharding = false
EOF
    quietly "$bin/monmaptool" --create --fsid "$(sed -n 's/fsid = //p' "$data/ceph.conf")" \
        --addv a "[v2:127.0.0.1:$2,v1:127.0.0.1:$3]" "$data/monmap"
    quietly "$bin/ceph-mon" "${config[@]}" --id a --mkfs --monmap "$data/monmap"
}

make_disk() {
    local uuid
    uuid=$(cat /proc/sys/kernel/random/uuid)
    quietly timeout 60 "$bin/ceph" "${config[@]}" osd new "$uuid"
    quietly "$bin/ceph-osd" "${config[@]}" --id 0 --mkfs --osd-uuid "$uuid"
}

make_user() {
    local admin=(timeout 90 "$bin/radosgw-admin" "${config[@]}" --name client.rgw.a)
    quietly "${admin[@]}" user create --uid=test --display-name=test --access-key=test --secret-key=test
    # A bucket may be made with the region that the tests name, as on AWS.
    "${admin[@]}" zonegroup get 2>> "$data/log/setup.log" |
        sed 's/"api_name": "[^"]*"/"api_name": "'$region'"/' > "$data/zonegroup.json"
    quietly "${admin[@]}" zonegroup set --infile "$data/zonegroup.json"
}

find_programs() {
    [ -e "$root/.complete" ] || fail "Ceph is not here; call first: $0 install $root"
    bin=$root/usr/bin
    local found=("$root"/usr/lib/*-linux-gnu/ceph)
    libraries=$(dirname "${found[0]}")
    config=(--conf "$data/ceph.conf")
    # For these programs only: other programs of the machine must not meet this Python and these libraries.
    export LD_LIBRARY_PATH=$libraries:$root/lib/$(basename "$libraries"):$libraries/ceph
    export PYTHONPATH=$root/usr/lib/python3/dist-packages
}

launch() {
    local name=$1
    shift
    setsid "$1" "${config[@]}" --foreground "${@:2}" > "$data/log/$name.out" 2>&1 < /dev/null &
    echo $! > "$data/run/$name.pid"
}

quietly() {
    "$@" >> "$data/log/setup.log" 2>&1 || fail "$(basename "$1") failed; see $data/log/setup.log"
}

fail() {
    echo "ceph.sh: $1" >&2
    exit 1
}

root=$(realpath -m "${2:?the folder of the programs}")
data=$(realpath -m "${3:-$root}")
case $1 in
    install) install ;;
    start) start "${@:4}" ;;
    start-gateway) find_programs && start_gateway ;;
    *) fail "unknown command $1" ;;
esac
