#!/bin/sh
# Secrets come as files: NAME_FILE=/run/secrets/x becomes NAME, in the environment of the command alone.
# Ray reads the file of its token by itself (RAY_AUTH_TOKEN_PATH).
set -eu

if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
exec "$@"
