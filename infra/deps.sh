#!/bin/sh
# Installs what building and testing need, and only what is missing: a C compiler and make, openssl, PostgreSQL, pgbouncer, systemd, strace, promtool,
# Python, Node and Java with the drivers, the newest PostgreSQL, and Chromium with the dashboard's packages, that the tests use. Debian 12 and its
# relatives.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'deps: %s\n' "$1" >&2; }

missing=''
need() { # program, package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc build-essential
need make build-essential
need openssl openssl
need python3 python3
need node nodejs
need npm npm
need pgbouncer pgbouncer
need javac default-jdk-headless
[ -e /usr/share/java/postgresql.jar ] || missing="$missing libpostgresql-jdbc-java"
need systemd-analyze systemd
need strace strace
need chromium chromium
need pdftotext poppler-utils
need promtool prometheus
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql postgresql-client"
if ! command -v pgbench >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/pgbench >/dev/null 2>&1; then
    missing="$missing postgresql"
fi

if [ -n "$missing" ]; then
    say "installing$missing"
    become=''
    [ "$(id -u)" = 0 ] || become='sudo'
    # a cluster of the package's own is not wanted: tests and ctl dev make theirs
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        $become mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | $become tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    $become apt-get update -qq
    # shellcheck disable=SC2086 -- a list of packages
    DEBIAN_FRONTEND=noninteractive $become apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

if [ -x tests/tests/drivers/install.sh ]; then
    tests/tests/drivers/install.sh
fi
if [ -x tests/tests/regress/install.sh ]; then
    tests/tests/regress/install.sh
fi
# by the lock file, and only when it has changed
if [ -e dashboard/package-lock.json ] && ! cmp -s dashboard/package-lock.json dashboard/node_modules/.lock; then
    (cd dashboard && npm ci --silent && cp package-lock.json node_modules/.lock)
fi
say 'everything is there'
