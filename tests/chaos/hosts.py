"""Hosts of one machine: network, IPC and mount namespaces on one bridge, each with an address, a disk and a cable of its own.

    with Network(folder) as network:
        network.add("w0", "10.77.1.10", disk_mib=48)
        process = network.start("w0", ["pagoda-worker", ...], log)
        network.unplug("w0"); network.plug("w0")

Runs inside namespaces of its own (`enter_namespaces`), so that nothing of it is seen outside or outlives it: the run is
process 1 of a process namespace, and whatever it started ends with it.
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

INSIDE = "PAGODA_CHAOS_INSIDE"  # the run's folder
SWITCH = "10.77.1.254"  # where the clients are


def namespaces_can_be_made():
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip", "tc")) and subprocess.run(
        ["unshare", "--net", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode == 0


def enter_namespaces():
    """Goes on as process 1 of namespaces of its own; returns there, with a folder that is gone when the run is over."""
    if os.environ.get(INSIDE):
        return os.environ[INSIDE]
    command = ["unshare", "--net", "--ipc", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
               sys.executable, *sys.argv]
    with tempfile.TemporaryDirectory(prefix="pagoda-chaos-") as folder:
        child = subprocess.Popen(command, env={**os.environ, INSIDE: folder})
        for number in (signal.SIGTERM, signal.SIGINT):
            # --kill-child ends all of it.
            signal.signal(number, lambda *_: child.terminate())
        status = child.wait()
    sys.exit(status)


def sh(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


class Network:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.keepers, self.addresses, self.wires = {}, {}, {}

    def __enter__(self):
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "name", "br0", "type", "bridge")
        sh("ip", "addr", "add", SWITCH + "/24", "dev", "br0")
        sh("ip", "link", "set", "br0", "up")
        # A cable that is taken off the bridge must not answer for it.
        pathlib.Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("1")
        return self

    def __exit__(self, *_):
        for host in list(self.wires):
            self.mend(host)
        for keeper in self.keepers.values():
            keeper.kill()
            keeper.wait()

    def add(self, host, address, disk_mib, hidden=()):
        """`hidden`: folders that this host does not have."""
        disk = self.disk(host)
        disk.mkdir()
        sh("mount", "-t", "tmpfs", "-o", f"size={disk_mib}m", "tmpfs", disk)
        hide = "".join(f"mount -t tmpfs tmpfs '{folder}' && " for folder in hidden)
        keeper = subprocess.Popen(
            ["unshare", "--net", "--ipc", "--mount", "--propagation", "private", "sh", "-c",
             f"{hide}mount -t tmpfs tmpfs /dev/shm && mount -t sysfs sysfs /sys && ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE, text=True)
        self.keepers[host] = keeper
        assert keeper.stdout.readline().strip() == "up", f"cannot make host {host}"
        sh("ip", "link", "add", "name", self.cable(host), "type", "veth", "peer", "name", "eth0", "netns", keeper.pid)
        sh("ip", "link", "set", self.cable(host), "master", "br0")
        sh("ip", "link", "set", self.cable(host), "up")
        self._inside(host, "ip", "addr", "add", address + "/24", "dev", "eth0")
        self._inside(host, "ip", "link", "set", "eth0", "up")
        self.addresses[host] = address

    def disk(self, host):
        return self.folder / host

    @staticmethod
    def cable(host):
        """The switch's end of it."""
        return host + "-x"

    def _enter(self, host):
        return ["nsenter", "--target", str(self.keepers[host].pid), "--net", "--ipc", "--mount"]

    def _inside(self, host, *command):
        return sh(*self._enter(host), *command)

    def start(self, host, command, log):
        """The process itself: nsenter becomes it. It is in the root folder: paths must be whole."""
        with open(log, "ab") as out:
            return subprocess.Popen([*self._enter(host), *(str(word) for word in command)], stdout=out, stderr=out,
                                    stdin=subprocess.DEVNULL)

    # --- what can happen to a host

    def unplug(self, host):
        sh("ip", "link", "set", self.cable(host), "down")

    def plug(self, host):
        sh("ip", "link", "set", self.cable(host), "up")

    def throttle(self, host, kbit):
        """Both ways."""
        rate = ["root", "tbf", "rate", f"{kbit}kbit", "burst", "16kb", "latency", "300ms"]
        self._inside(host, "tc", "qdisc", "add", "dev", "eth0", *rate)
        sh("tc", "qdisc", "add", "dev", self.cable(host), *rate)

    def unthrottle(self, host):
        self._inside(host, "tc", "qdisc", "del", "dev", "eth0", "root")
        sh("tc", "qdisc", "del", "dev", self.cable(host), "root")

    def disturb(self, host, **how):
        """The cable goes through a process that drops or delays frames (wire.py); `how` are its options."""
        near, far = host + "-p", host + "-q"
        sh("ip", "link", "add", "name", near, "type", "veth", "peer", "name", far)
        sh("ip", "link", "set", far, "master", "br0")
        sh("ip", "link", "set", self.cable(host), "nomaster")
        for end in (near, far):
            sh("ip", "link", "set", end, "up")
        options = [word for name, value in how.items() for word in ("--" + name.replace("_", "-"), str(value))]
        wire = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("wire.py"), self.cable(host), near, *options],
                                stdout=subprocess.PIPE, text=True)
        self.wires[host] = wire
        assert wire.stdout.readline().strip() == "up", f"no wire to {host}"

    def mend(self, host):
        """What the wire says that it did."""
        wire = self.wires.pop(host)
        wire.terminate()
        said = wire.communicate()[0].strip()
        sh("ip", "link", "del", host + "-p")
        sh("ip", "link", "set", self.cable(host), "master", "br0")
        return said

    def fill_disk(self, host):
        with open(self.disk(host) / "filler", "wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        filler.write(b"\0" * size)
                except OSError:
                    pass

    def empty_disk(self, host):
        (self.disk(host) / "filler").unlink()
