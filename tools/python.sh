# To be sourced. Sets `python` to an interpreter that is new enough, or exits with advice. If $PYTHON is set,
# it is the only candidate.
python=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    found=$("${PYTHON:-python3}" --version 2>&1) || found="no working ${PYTHON:-python3}"
    echo "Perdure requires Python 3.11 or newer; found: $found." >&2
    echo "Install it, or pass its path: make install PYTHON=/path/to/python3.12" >&2
    exit 1
fi
