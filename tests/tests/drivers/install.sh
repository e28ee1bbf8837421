#!/bin/sh
# Installs the drivers that tests/tests/drivers.rs tries, beside their scripts, and the newest PostgreSQL. Run by `make deps`.
set -eu
cd "$(dirname "$0")"
python3 -m venv python/.venv
python/.venv/bin/pip install --quiet --disable-pip-version-check --requirement python/requirements.txt
(cd node && npm install --no-package-lock --no-audit --no-fund --silent)
cd ../postgres
npm install --no-package-lock --no-audit --no-fund --silent
