# Debian packages that Pagoda is built from, and what is missing of them on this machine. Names are Debian bookworm's; what
# each is for stands in cmake/PagodaDependencies.cmake. Sourced, never run.

# To build and run; pip gets models that come as Python packages.
PAGODA_BUILD_PACKAGES=(
  ca-certificates
  g++ cmake ninja-build pkg-config ccache
  protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libgrpc++-dev
  libabsl-dev libspdlog-dev libfmt-dev libcli11-dev libyaml-cpp-dev
  nlohmann-json3-dev libsimdjson-dev libboost1.81-dev
  libpcre2-dev libutf8proc-dev libre2-dev libssl-dev libsqlite3-dev zlib1g-dev
  libucx-dev ucx-utils prometheus-cpp-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-pip
)

# To test: virtual environments for the oracles and real clients, iproute2 and util-linux for clusters of two hosts, procps for clean-up,
# Chromium for the status page.
PAGODA_TEST_PACKAGES=(python3-venv iproute2 util-linux procps curl chromium chromium-driver fonts-dejavu-core)

# Prints those of the arguments that are not installed, one a line. One call of dpkg-query: tens of milliseconds.
missing_packages() {
  local installed
  installed="$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p')" || true
  local package
  for package in "$@"; do
    case $'\n'"$installed"$'\n' in
      *$'\n'"$package"$'\n'*) ;;
      *) printf '%s\n' "$package" ;;
    esac
  done
}

# Installs what is missing of the arguments; says what and why first. Does nothing when all is there.
# $1: why, the rest: packages.
install_packages() {
  local why="$1"
  shift
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -eq 0 ] && return 0
  if ! command -v apt-get >/dev/null; then
    fail "these packages are missing and there is no apt-get to install them: ${missing[*]}"
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "not root and no sudo; as root: apt-get install ${missing[*]}"
    as_root=(sudo)
    say "sudo is needed once, to install packages"
    sudo -v || fail "sudo was refused; as root: apt-get install ${missing[*]}"
  fi
  say "installing ${#missing[@]} packages $why: ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
  run_step "package lists" "${apt[@]}" update
  run_step "packages $why" "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
}

# A tool that tests use out of a Debian package whose installation would also start a service. If it is not on the PATH, the
# package is unpacked under build/tools (nothing is installed) and the PATH gets its folder. $1: tool, $2: package.
# A test that needs a tool that could not be had says so and is skipped.
unpack_tool() {
  local tool="$1" package="$2"
  command -v "$tool" >/dev/null && return 0
  local folder="$PAGODA_ROOT/build/tools/$package"
  if [ ! -x "$folder/usr/bin/$tool" ]; then
    mkdir -p "$folder"
    if ! run_step "tool $tool" sh -c \
        "cd '$folder' && apt-get download '$package' && dpkg -x ./*.deb . && rm -f ./*.deb" ; then
      say "without $tool its tests are skipped"
      return 0
    fi
  fi
  PATH="$folder/usr/bin:$PATH"
}
