# The virtual environment of the tests: oracles and real clients. Sourced, never run; needs steps.sh.

make_python_environment() {
  local requirements="$PAGODA_ROOT/tests/requirements.txt" stamp="$PAGODA_ROOT/.venv/requirements.stamp"
  if ! cmp -s "$requirements" "$stamp"; then
    [ -x "$PAGODA_ROOT/.venv/bin/python" ] || run_step "python environment" python3 -m venv "$PAGODA_ROOT/.venv" || exit 1
    run_step "python packages" "$PAGODA_ROOT/.venv/bin/pip" install -q -r "$requirements" || exit 1
    cp "$requirements" "$stamp"
  fi
}
