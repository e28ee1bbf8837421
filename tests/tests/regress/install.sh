#!/bin/sh
# Fetches PostgreSQL's own regression and isolation tests, which tests/tests/regress/main.rs runs, beside itself: from the
# source package of the PostgreSQL that is installed, with the library of test functions built against its headers. Nothing is
# installed in the system. Run by `make deps`.
set -eu
cd "$(dirname "$0")"

say() { printf 'regress: %s\n' "$1" >&2; }

major=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -exec test -x '{}/bin/initdb' ';' -print | sed 's|.*/||' | sort -n | tail -n 1)
version=$(dpkg-query -W -f '${Version}' "postgresql-$major" 2>/dev/null) || {
    say 'PostgreSQL is not from a Debian package; its own tests are not fetched'
    exit 0
}
[ "$(cat postgresql/version 2>/dev/null)" != "$version" ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial" "$work/headers"

# the same places as binaries come from, asked for sources
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ -f "$list" ] || continue
    sed -e 's/^deb /deb-src /' -e 's/^Types:.*/Types: deb-src/' "$list" >"$work/sources/${list##*/}"
done
apt() {
    apt-get -q -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= "$@"
}

say "fetching the tests of PostgreSQL $version"
# places that have no sources do not matter
(cd "$work" && apt update >update.log 2>&1) || true
(cd "$work" && apt source --download-only "postgresql-$major=$version" >source.log 2>&1) || {
    tail -n 5 "$work/update.log" "$work/source.log" >&2
    exit 1
}
(cd "$work" && apt-get -q -q -o APT::Sandbox::User= download "postgresql-server-dev-$major=$version" >&2)
dpkg -x "$work"/postgresql-server-dev-*.deb "$work/headers"
tar -x -f "$work"/postgresql-*.orig.tar.* -C "$work" --strip-components 3 --wildcards '*/src/test/regress/*' '*/src/test/isolation/*'

rm -rf postgresql
mkdir -p postgresql/regress postgresql/isolation postgresql/lib
for part in sql expected data parallel_schedule resultmap; do mv "$work/regress/$part" postgresql/regress/; done
for part in specs expected isolation_schedule; do mv "$work/isolation/$part" postgresql/isolation/; done
cc -O1 -fPIC -shared -fwrapv -fno-strict-aliasing -I"$work/headers/usr/include/postgresql/$major/server" \
    "$work/regress/regress.c" -o postgresql/lib/regress.so
cp "/usr/lib/postgresql/$major/lib/refint.so" "/usr/lib/postgresql/$major/lib/autoinc.so" postgresql/lib/
echo "$version" >postgresql/version
